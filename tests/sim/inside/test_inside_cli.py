"""The commands of the README, one after another, on a simulated machine; as processes of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hwnas.runtime import Session
from hwnas.store import write_json

MACHINE = os.environ["HWNAS_SIM_MACHINE"]
FAST = {"titanxp": "int8", "rtx2080ti": "fp16", "rtx3090": "fp16"}[MACHINE]
SMALL = ("--space", "resnet-cifar", "--input", "3x8x8")


def hwnas(folder: Path, *arguments: str, status: int = 0) -> str:
    """Run a command; gives its standard output, or standard error where it was to fail."""
    # The simulator's host is never quiet for long: nobody waits for it.
    waits = ("profile", "search", "export", "verify", "bench")
    hurry = ("--patience", "0s") if arguments[0] in waits else ()
    command = [sys.executable, "-c", "from hwnas_cli.main import cli; cli()", *arguments, *hurry]
    # A clock of the card's own, so that its layers do not take the host's time; slow ones need few calls.
    clock = {"FAKECUDA_CLOCK": "32", "FAKECUDA_EVENT_NS": "700", "FAKECUDA_JITTER": "0.002"}
    clock["TRTSIM_LAYER_US"] = "100"
    env = {**os.environ, **clock, "HWNAS_HOME": str(folder / "home")}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=1200)
    assert done.returncode == status, f"{arguments} ended with {done.returncode}: {done.stderr[-3000:]}"
    return done.stderr if status else done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("user")


def test_profile_search_export(folder: Path) -> None:
    """In this order, in one folder, with no more options than the README's except a small problem."""
    table = json.loads(
        hwnas(folder, "profile", "--device", MACHINE, *SMALL, "--preset", "quick", "--json", "-q")
    )
    assert table["rows"] > 0
    assert f"{MACHINE}-trt-fp32" in table["table"]

    header = json.loads((folder / table["table"]).read_text().splitlines()[0])
    assert header["run"]["gpu"]["sm_mhz"] == 1500
    assert header["run"]["gpu"]["temperature_c"] == 61
    assert header["setting"]["power_limit_w"] == 250

    # Enough images that the network is sure of itself: eight bits may cost 1 % of 144 validation images.
    short = ("--max-trials", "2", "--images", "3000", "--max-time", "60s")
    budget = ("--latency-budget", "18ms", "--data", "digits")
    found = json.loads(hwnas(folder, "search", "--device", MACHINE, *budget, *SMALL, *short, "--json", "-q"))
    assert found["within_budget"] is True
    assert found["best"]["measured"]["median_ms"] < 18

    made = json.loads(hwnas(folder, "export", "--format", "trt", "--json", "-q"))
    assert made["passed"] is True
    assert made["within_budget"] is True
    assert made["parity"]["max_abs_err"] < 1e-3
    manifest = json.loads((folder / made["manifest"]).read_text())
    assert manifest["setting"]["device"] == MACHINE
    assert manifest["setting"]["backend"] == "trt"
    types = "Float" if MACHINE == "rtx3090" else "Row major linear FP32"  # two forms of the inspector's JSON
    stem = {"name": "stem.conv", "ms": 0.01, "kind": "Conv", "kernel": "sim", "types": types}
    assert manifest["layers"][0] == pytest.approx(stem)
    assert "preprocessing" in [check["name"] for check in made["checks"]]
    page = Path(json.loads(hwnas(folder, "report", "--json", "-q"))["path"])
    assert types in (folder / page).read_text()

    verified = json.loads(hwnas(folder, "verify", made["engine"], "--json", "-q"))
    assert verified["passed"] is True

    # One timing cache for profile, search and export, named by version, GPU and driver.
    (cache,) = (folder / "home" / "timing-cache").glob("*.cache")
    assert MACHINE in cache.name.replace("-", "")
    learned = cache.read_bytes()

    timed = ("bench", made["engine"], "resnet20", "--device", MACHINE, "--preset", "quick", "--cache", "cold")
    cold = json.loads(hwnas(folder, *timed, "--json", "-q"))
    assert [row["kind"] for row in cold["networks"]] == ["engine", "network"]
    assert all(row["floor_ms"] > 0 for row in cold["networks"])
    assert cache.read_bytes().startswith(learned)
    assert len(cache.read_bytes()) > len(learned)  # resnet20's kernels, learned by bench

    # The five lines that a user deploys with: the same probabilities from the GPU and from the CPU.
    plain = json.loads(hwnas(folder, "export", "--format", "onnx", "--device", "cpu", "--json", "-q"))
    photograph = np.random.default_rng(0).integers(0, 256, (3, 60, 40, 3), dtype=np.uint8)
    with Session(folder / made["engine"]) as on_gpu, Session(folder / plain["engine"]) as on_cpu:
        np.testing.assert_allclose(on_gpu(photograph), on_cpu(photograph), atol=1e-4)

    other = json.loads(hwnas(folder, "export", "--format", "trt", "--precision", FAST, "--json", "-q"))
    assert other["passed"] is True
    assert FAST in other["engine"]


if MACHINE == "titanxp":  # whose commands they are; a skipped test would fail the run

    def test_the_users_three_commands_as_written(tmp_path: Path) -> None:
        """What they would do here: ImageNet networks at batch 32, for which 18 ms is a budget.

        Done in full they take an hour of measuring and a night of training, so here they are planned; the
        same commands run through on small images in `test_profile_search_export`.
        """
        planned = json.loads(hwnas(tmp_path, "profile", "--device", "titanxp", "--dry-run", "--json", "-q"))
        assert planned["blocks"] == 390
        assert "titanxp-trt-fp32-b32-t1-densenas-mbv2-3x224x224-c1000" in planned["table"]
        first = json.loads(hwnas(tmp_path, "search", "--latency-budget", "18ms", "--dry-run", "--json", "-q"))
        assert "densenas-mbv2-3x224x224" in first["profile"]["table"]  # it would measure what is missing
        hwnas(tmp_path, "profile", "--device", "titanxp", "--estimate", "-q")
        told = hwnas(tmp_path, "search", "--latency-budget", "18ms", "--dry-run")
        assert "3x224x224" in told
        assert "batch 32" in told
        assert "no finished search" in hwnas(tmp_path, "export", "--format", "trt", status=2)


def test_a_precision_that_does_not_pay_is_refused_with_the_reason(folder: Path) -> None:
    slow = {"titanxp": "fp16", "rtx2080ti": "bf16", "rtx3090": "bf16"}[MACHINE]
    words = hwnas(folder, "profile", "--device", MACHINE, *SMALL, "--precision", slow, status=2)
    assert ("no bf16" if MACHINE == "rtx3090" else "does not compute faster in it") in words


def test_doctor_says_which_tensorrt_serves_the_gpu(folder: Path) -> None:
    answer = json.loads(hwnas(folder, "doctor", "--json", "-q"))
    assert answer["backends"]["trt"]["available"] is True
    (gpu,) = answer["gpus"]
    assert gpu["name"] == os.environ["FAKECUDA_NAME"]
    assert answer["device"] == MACHINE  # what --device auto means here
    pascal = "TensorRT 8.6, Python <= 3.11, fp16 not fast, int8 yes; pip install 'hwnas[trt8]'"
    later = "TensorRT 10.13 to 11, Python >= 3.10, fp16 yes, int8 yes; pip install 'hwnas[trt]'"
    assert gpu["advice"] == (pascal if MACHINE == "titanxp" else later)
    assert gpu["advice"] in hwnas(folder, "doctor", "--no-noise")


def test_an_engine_of_another_gpu_is_refused_by_its_manifest(folder: Path) -> None:
    engine = next(folder.glob("runs/*/engine.engine"))
    path = engine.with_name(f"{engine.name}.manifest.json")
    before = path.read_text()
    manifest = json.loads(before)
    manifest["setting"]["device_arch"] = "NVIDIA H100, compute capability 9.0"
    del manifest["checksum"]
    write_json(path, manifest, sealed=True)
    words = hwnas(folder, "verify", str(engine), status=4)
    path.write_text(before)
    assert "NVIDIA H100" in words
    engine.write_bytes(engine.read_bytes()[:-1])
    words = hwnas(folder, "verify", str(engine), status=6)
    assert "SHA-256" in words


def test_what_else_an_engine_may_be_asked_for(folder: Path) -> None:
    """Several sizes in one plan that later versions read; several calls at once; a warm card's promise."""
    asked = ("--batch", "8,1,2", "--compatible", "version", "--out", "many", "--images", "64")
    made = json.loads(hwnas(folder, "export", "--format", "trt", *asked, "--json", "-q"))
    assert made["passed"] is True
    manifest = json.loads((folder / made["manifest"]).read_text())
    assert manifest["setting"]["batches"] == [1, 2, 8]
    assert (manifest["setting"]["batch"], manifest["setting"]["compatible"]) == (8, ["version"])
    assert manifest["dynamic_batch"] is False

    timed = ("bench", made["engine"], "--batch", "1,8", "--streams", "2", "--preset", "quick")
    rows = json.loads(hwnas(folder, *timed, "--json", "-q"))["networks"]
    assert [row["setting"]["batch"] for row in rows] == [1, 8]
    assert [row["in_streams"]["streams"] for row in rows] == [2, 2]
    assert all(row["in_streams"]["images_per_s"] > 0 for row in rows)
    assert "images/s in 2 streams" in hwnas(folder, *timed)

    (row,) = json.loads(hwnas(folder, "bench", made["engine"], "--preset", "quick", "--json", "-q"))[
        "networks"
    ]
    assert (row["setting"]["batch"], row["in_streams"]) == (8, None)  # what its promise is about

    photographs = np.random.default_rng(1).integers(0, 256, (11, 60, 40, 3), dtype=np.uint8)
    plain = next(folder.glob("runs/*/engine.onnx"))
    with Session(folder / made["engine"]) as on_gpu, Session(plain) as on_cpu:
        np.testing.assert_allclose(on_gpu(photographs), on_cpu(photographs), atol=1e-4)

    warm = ("--against", "runs/latest", "--sustained", "1s")
    verified = json.loads(hwnas(folder, "verify", made["engine"], *warm, "--json", "-q"))
    assert verified["passed"] is True


REFUSED: list[tuple[tuple[str, ...], int, str]] = [
    (("bench", "resnet20", "--device", "cpu", "--streams", "2"), 2, "takes one call at a time"),
    (("bench", "resnet20", "--device", MACHINE, "--streams", "0"), 2, "--streams"),
    (("bench", "resnet20", "--device", MACHINE, "--dla", "0"), 2, "fp16 and int8 only"),
    (("bench", "resnet20", "--device", MACHINE, "--precision", "int8", "--dla", "0"), 4, "Orin"),
    (("bench", "resnet20", "--device", "cpu", "--dla", "0"), 2, "--backend trt does"),
    (("profile", "--device", MACHINE, *SMALL, "--dla", "1", "--precision", "auto"), 2, "name one"),
    (("export", "--format", "onnx", "--batch", "1,8"), 2, "formats that take several: trt"),
    (("export", "--format", "onnx", "--device", "cpu", "--compatible", "version"), 2, "--compatible"),
    (("export", "--format", "trt", "--compatible", "turing"), 2, "turing"),
    (("export", "--format", "trt", "--compatible", "ampere,capability"), 2, "exclude each other"),
    (("export", "--format", "trt", "--batch", "0,8"), 2, "expected numbers from 1"),
]
# One after another in one process: starting Python takes longer than refusing.
ALL_OF_THEM = """
import contextlib, io, json, sys
from hwnas_cli.main import cli
said = []
for arguments in json.loads(sys.argv[1]):
    out, status = io.StringIO(), 0
    with contextlib.redirect_stderr(out):
        try:
            cli(arguments)
        except SystemExit as exc:
            status = exc.code
    said.append([status, out.getvalue()])
print(json.dumps(said))
"""


def test_what_cannot_be_is_refused_in_one_message(folder: Path) -> None:
    given = json.dumps([arguments for arguments, _, _ in REFUSED])
    env = {**os.environ, "HWNAS_HOME": str(folder / "home")}
    command = [sys.executable, "-c", ALL_OF_THEM, given]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    for (arguments, wanted, words), (status, said) in zip(REFUSED, json.loads(done.stdout), strict=True):
        assert (status, words in said) == (wanted, True), f"{arguments} ended with {status}: {said}"
        assert "Traceback" not in said
