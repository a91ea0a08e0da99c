"""The user's own case: the three commands on a TITAN Xp, as written, to the end."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from machines import MACHINES, environment

pytestmark = pytest.mark.sim

# What they would do in full (`test_inside_cli` holds it to that by dry runs: ImageNet networks of 224
# pixels at batch 32) takes an hour of measuring and a night of training on a CPU. The commands stay as they
# are written; this file, which HWNAS_CONFIG names, makes the problem small. The simulated card is slower than
# a TITAN Xp, so that these networks take some milliseconds to some twenty, and 18 ms is a budget here, too.
SLOW_CARD = "80,22"
SMALL = """\
common: {preset: quick, patience: 0s}
profile: {space: resnet-cifar, input: 3x16x16, batch: 32}
search: {limit: 300, images: 200, max-trials: 2, max-time: 60s}
export: {images: 32}
"""


# Networks, images and batch as they are, a quick profile, and training for form's sake only. On this card
# DenseNAS's A, B and C take 13.4, 15.1 and 17.9 ms; published for a TITAN Xp are 13.6, 15.4 and 17.9.
DRY_RUN = """\
common: {patience: 0s}
profile: {preset: quick}
search: {images: 64, limit: 200, max-trials: 2}
export: {images: 64}
"""
TITAN_XP = "920,255"


def hwnas(folder: Path, roofline: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from hwnas_cli.main import cli; cli()", *arguments]
    card = {"FAKECUDA_CLOCK": "32", "FAKECUDA_EVENT_NS": "700", "TRTSIM_ROOFLINE": roofline}
    env = environment(MACHINES["titanxp"], folder / "home", HWNAS_CONFIG=str(folder / "small.yaml"))
    env |= card
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, f"{arguments} ended with {done.returncode}: {done.stderr[-4000:]}"
    return done


def test_the_users_three_commands_as_written(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(SMALL)
    profiled = hwnas(tmp_path, SLOW_CARD, "profile", "--device", "titanxp")
    assert "titanxp-trt-fp32-b32-t1-resnet-cifar-3x16x16" in profiled.stdout

    searched = hwnas(tmp_path, SLOW_CARD, "search", "--latency-budget", "18ms")
    said = searched.stderr
    assert "no --data given: searching on the built-in digits data set, resized to 3x16x16" in said
    assert "name your images with --data" in said
    assert "titanxp-trt-fp32-b32" in said  # the table that was just measured, and no other

    exported = hwnas(tmp_path, SLOW_CARD, "export", "--format", "trt")
    assert "PASSED  parity" in exported.stdout
    (manifest,) = tmp_path.glob("runs/search-*/engine.engine.manifest.json")
    body = json.loads(manifest.read_text())
    setting = body["setting"]
    assert (setting["device"], setting["batch"], setting["backend_version"]) == ("titanxp", 32, "8.6.1")
    assert body["budget"]["latency_ms"] == 18.0
    assert body["promise"]["verdict"] == "kept"
    assert body["measured"]["median_ms"] < 18.0
    # Milliseconds, as the budget: not the microseconds of a card for which it would mean nothing.
    assert body["predicted"]["latency_ms"] > 1.0


@pytest.mark.long
def test_the_users_three_commands_on_networks_images_and_batch_of_their_real_size(tmp_path: Path) -> None:
    """Seven minutes of a processor and 4 GB."""
    (tmp_path / "small.yaml").write_text(DRY_RUN)
    profiled = hwnas(tmp_path, TITAN_XP, "profile", "--device", "titanxp")
    assert "no --space given: densenas-mbv2 at batch 32" in profiled.stderr
    assert "titanxp-trt-fp32-b32-t1-densenas-mbv2-3x224x224-c1000" in profiled.stdout

    searched = hwnas(tmp_path, TITAN_XP, "search", "--latency-budget", "18ms")
    assert "searching on the built-in digits data set, resized to 3x224x224" in searched.stderr

    exported = hwnas(tmp_path, TITAN_XP, "export", "--format", "trt")
    assert "PASSED  parity" in exported.stdout
    (manifest,) = tmp_path.glob("runs/search-*/engine.engine.manifest.json")
    body = json.loads(manifest.read_text())
    assert (body["setting"]["device"], body["setting"]["batch"]) == ("titanxp", 32)
    assert (body["budget"]["latency_ms"], body["promise"]["verdict"]) == (18.0, "kept")
