"""Over a real sshd: every command gives the same kinds of rows as on this machine, and no cut loses any."""

from __future__ import annotations

import hashlib
import io
import json
import random
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy
import pytest
from click.testing import CliRunner
from remote_server import PYTHON39, Sshd

from hwnas.errors import LinkLost
from hwnas.measure import device
from hwnas.measure.remote import archive, link
from hwnas.measure.remote.link import Link
from hwnas.measure.remote.target import close_targets, machine_at
from hwnas.measure.sweep import Sweep, SweepOptions, header_for
from hwnas.measure.timing import TimingOptions
from hwnas.measure.writer import TableWriter
from hwnas.nets import onnx, spaces
from hwnas.records import Precision, now_utc
from hwnas.spec import BlockSpec
from hwnas_cli.main import cli

SMALL = ("--input", "3x8x8", "--space", "resnet-cifar")
TINY = (
    *("--data", "digits", "--limit", "200", "--images", "400", "--strategy", "uniform"),
    *("--recipe", "batch=32", "--recipe", "threads=1", "--latency-budget", "2x:smallest"),
)


def run(*arguments: str, exit_status: int = 0) -> dict[str, Any]:
    """What a command prints with ``--json``."""
    found = CliRunner().invoke(cli, [*arguments, "--json"], catch_exceptions=False)
    assert found.exit_code == exit_status, found.stderr
    body: dict[str, Any] = json.loads(found.stdout)
    return body


def kinds(value: object) -> object:
    """What a document holds, without its figures: names and types."""
    if isinstance(value, dict):
        return {name: kinds(part) for name, part in value.items()}
    if isinstance(value, list):
        return [kinds(value[0])] if value else []
    return float if isinstance(value, (int, float)) else type(value)


def test_bench_gives_the_figures_of_this_machine(sshd: Sshd) -> None:
    there = run("bench", "resnet20", "--device", sshd.address("fake"))["networks"][0]
    here = run("bench", "resnet20", "--device", "fake")["networks"][0]
    assert there["setting"].pop("device") == sshd.address("fake")
    assert here["setting"].pop("device") == "fake"
    del there["taken_at"], here["taken_at"]
    assert there == here  # the fake device has a clock of its own


def test_profile_search_export_and_verify_are_as_on_this_machine(sshd: Sshd) -> None:
    """One chain over ssh and one here: the same keys, the same rows, and the winner's promise kept there."""
    steps: dict[str, list[dict[str, Any]]] = {}
    for name, where in (("there", sshd.address("fake")), ("here", "fake")):
        at = ("--device", where)
        table = f"{name}.hwlat.jsonl"
        profiled = run("profile", *at, *SMALL, "--preset", "quick", "--out", table)
        searched = run("search", *at, *SMALL, *TINY, "--table", table, "--out", name)
        assert searched["conditions"].startswith(f"{where}, fake")
        exported = run("export", name, *at, "--format", "onnx")
        verified = run("verify", exported["engine"], *(at if name == "there" else ()))
        steps[name] = [profiled, searched, exported, verified]
        assert searched["promise"]["verdict"] == "kept"
        assert verified["passed"]
    for there, here in zip(steps["there"], steps["here"], strict=True):
        assert kinds(there) == kinds(here)
    rows = [
        [json.loads(line) for line in Path(f"{name}.hwlat.jsonl").read_text().splitlines()]
        for name in ("there", "here")
    ]
    keys = [
        [(r["row"], json.dumps(r.get("block") or r.get("spec") or r.get("network"))) for r in t] for t in rows
    ]
    assert keys[0] == keys[1]
    assert {"governor", "cpu", "flags", "system"} <= rows[0][0]["device"].keys()
    # What lies in a file does not choose a machine: without --device nothing is connected to.
    refused = run("verify", steps["there"][2]["engine"], exit_status=2)
    assert "give --device" in json.dumps(refused)


@pytest.fixture
def scissors(sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Cuts the link some milliseconds after as many requests as the list that it gives says, once."""
    at: list[int] = []
    plain = Link.ask

    def ask(self: Link, verb: str, payload: bytes = b"", **fields: Any) -> tuple[dict[str, Any], bytes]:
        if at:
            at[0] -= 1
            if at[0] == 0:
                at.clear()
                threading.Timer(random.Random(verb).uniform(0.0, 0.01), sshd.cut).start()
        return plain(self, verb, payload, **fields)

    monkeypatch.setattr(Link, "ask", ask)
    yield at
    ended()


def ended() -> None:
    """Wait for a cut that is on its way."""
    for thread in threading.enumerate():
        if isinstance(thread, threading.Timer):
            thread.join()


def measure(address: str, path: Path) -> None:
    """Blocks and three networks into a table; as `profile` does it, without what that chooses."""
    space = spaces.make("resnet-cifar", input_shape=(3, 8, 8), classes=10)
    backend, setting = device.conditions(address)
    timing = TimingOptions.preset("quick")
    with closing(TableWriter(path, header_for(setting, space.name, (3, 8, 8), 10, timing))) as writer:
        sweep = Sweep(writer, backend, SweepOptions(timing=timing))
        sweep.blocks(space.blocks())
        have = {row.spec.key for row in writer.table.networks}
        todo = [spec for spec in space.uniform()[:3] if spec.key not in have]
        sweep.networks([(spec, "calibration") for spec in todo])
        sweep.finish()


def rows_of(path: Path) -> dict[str, float]:
    """Every row's key and value."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    blocks = {json.dumps(r["block"], sort_keys=True): r["value_ms"] for r in lines if r["row"] == "block"}
    networks = {
        json.dumps(r["spec"], sort_keys=True): r["measurement"]["floor_ms"]
        for r in lines
        if r["row"] == "network"
    }
    return {**blocks, **networks}


def test_ten_cuts_lose_nothing(sshd: Sshd, scissors: list[int], tmp_path: Path) -> None:
    address = sshd.address("fake")
    measure(address, tmp_path / "whole.hwlat.jsonl")
    unbroken = rows_of(tmp_path / "whole.hwlat.jsonl")
    assert len(unbroken) == 10  # 7 blocks, 3 networks
    before = len(list(sshd.folder.iterdir()))
    draw = random.Random(20)
    machine_at(address).close()
    cuts = 0
    while cuts < 10:
        path = tmp_path / "cut.hwlat.jsonl"
        scissors[:] = [draw.randint(1, 60)]
        try:
            measure(address, path)
        except LinkLost:
            cuts += 1
            continue
        scissors.clear()
        ended()
        path.unlink()  # whole before the link was cut: another table
    scissors.clear()
    measure(address, tmp_path / "cut.hwlat.jsonl")
    assert rows_of(tmp_path / "cut.hwlat.jsonl") == unbroken
    assert len(list(sshd.folder.iterdir())) == before


def test_no_key_is_said(sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    known = f"-o StrictHostKeyChecking=no -o UserKnownHostsFile={sshd.folder}/other_hosts"
    monkeypatch.setenv("HWNAS_SSH", f"ssh -F /dev/null -i /dev/null -o ControlPath=none {known}")
    text = run("bench", "resnet20", "--device", sshd.address(), exit_status=4)
    assert "none of your keys" in json.dumps(text)


def test_benchmark_gives_the_engines_of_the_target(sshd: Sshd) -> None:
    there = run("benchmark", "resnet20", "--device", sshd.address("fake"), "--images", "4")
    here = run("benchmark", "resnet20", "--device", "fake", "--images", "4")
    assert there.pop("device") == sshd.address("fake")
    assert here.pop("device") == "fake"
    assert there == here


def test_two_machines_are_profiled_at_once_and_searched_for_together(sshd: Sshd, tmp_path: Path) -> None:
    """The same sshd by two names, with a folder of its own for the agent of each."""
    script = tmp_path / "python"
    script.write_text(f'#!/bin/sh\nHWNAS_AGENT_HOME={tmp_path}/agent exec {sys.executable} "$@"\n')
    script.chmod(0o755)
    names = [sshd.address("fake"), f"ssh://127.0.0.1:{sshd.port}/fake?python={script}"]
    at = [part for name in names for part in ("--device", name)]
    found = run("profile", *at, *SMALL, "--preset", "quick")["profiles"]
    assert [one["setting"]["device"] for one in found] == names
    assert all(one["complete"] for one in found)
    budgets = ("--latency-budget", "2x:smallest", "--latency-budget", "3x:smallest")
    searched = run("search", *at, *SMALL, *TINY[:-2], *budgets, "--out", "both")
    assert [one["device"] for one in searched["devices"]] == names
    assert all(one["within_budget"] for one in searched["devices"])
    assert [len(target["devices"]) for target in searched["targets"]] == [1, 1, 2]


def test_doctor_tells_of_the_target(sshd: Sshd) -> None:
    there, here = run("doctor", "--device", sshd.address("cpu")), run("doctor")
    assert kinds(there["backends"]) == kinds(here["backends"])
    assert there["backends"]["fake"]["available"]
    assert there["noise"].keys() == here["noise"].keys()


def test_predict_finds_the_table_and_connects_to_nothing(sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    at = ("--device", sshd.address("fake"))
    table = run("profile", *at, *SMALL, "--preset", "quick")["table"]
    network = run("spaces", "sample", *SMALL, "-n", "1", "--out", "nets")["paths"][0]
    close_targets()
    monkeypatch.setenv("HWNAS_SSH", "false")
    found = run("predict", network, *at)
    assert found["table"] == table
    assert found["networks"][0]["latency_ms"] > 0


def test_two_versions_of_the_agent_do_not_meet(sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another hwnas pushes an agent of its own, measures after this one, and waits for the same device."""
    address, agents = sshd.address("fake"), sshd.folder / "agent"
    mine = run("bench", "resnet20", "--device", address)["networks"][0]
    close_targets()
    before = set(agents.glob("agent-*"))
    data = io.BytesIO(archive.archive())
    with zipfile.ZipFile(data, "a") as other:
        other.writestr("hwnas/of_another_version.py", "")
    monkeypatch.setattr(link, "archive", data.getvalue)
    monkeypatch.setattr(link, "digest", lambda: hashlib.sha256(data.getvalue()).hexdigest())
    theirs = run("bench", "resnet20", "--device", address)["networks"][0]
    assert theirs["floor_ms"] == mine["floor_ms"]
    (new,) = set(agents.glob("agent-*")) - before
    assert (new / "hwnas/of_another_version.py").is_file()
    machine_at(address).claim("fake")
    again = subprocess.run(
        [sys.executable, "-m", "hwnas_cli.main", "bench", "resnet20", "--device", address],
        capture_output=True,
        text=True,
        check=False,
    )
    assert again.returncode == 4
    assert "another process measures on fake" in again.stderr


def test_a_login_that_prints_is_passed_over(sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    command = "echo Welcome to the board; printf 'last login: today '; eval \"$SSH_ORIGINAL_COMMAND\""
    monkeypatch.setenv("HWNAS_SSH", sshd.key_of(command))
    assert run("bench", "resnet20", "--device", sshd.address("fake"))["networks"][0]["floor_ms"] > 0


def test_a_forced_command_is_said(sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HWNAS_SSH", sshd.key_of("echo only git here"))
    text = run("bench", "resnet20", "--device", sshd.address(), exit_status=4)
    assert "ended before it began" in json.dumps(text)
    close_targets()
    monkeypatch.setattr(link, "START_S", 3.0)
    monkeypatch.setenv("HWNAS_SSH", sshd.key_of("exec sleep 60"))
    text = run("bench", "resnet20", "--device", sshd.address(), exit_status=4)
    assert "no agent of hwnas answers within" in json.dumps(text)


def test_a_clock_that_is_wrong_there_dates_nothing(sshd: Sshd, tmp_path: Path) -> None:
    """Ten years ahead."""
    (tmp_path / "sitecustomize.py").write_text(
        "import time\nnow = time.time\ntime.time = lambda: now() + 3e8\n"
    )
    script = tmp_path / "my python"
    script.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path} exec {sys.executable} "$@"\n')
    script.chmod(0o755)
    address = sshd.address("fake", str(script).replace(" ", "%20"))
    row = run("bench", "resnet20", "--device", address)["networks"][0]
    assert row["taken_at"][:4] == now_utc()[:4]


def test_no_route_is_said(sshd: Sshd) -> None:
    text = run("bench", "resnet20", "--device", "ssh://localhost:1/cpu", exit_status=4)
    assert "nothing answers at that port" in json.dumps(text)


@pytest.mark.parametrize(
    ("python", "why"),
    [("/nowhere/python3", "has no /nowhere/python3"), ("/bin/true", "ended before it began")],
)
def test_no_python_is_said(sshd: Sshd, python: str, why: str) -> None:
    assert why in json.dumps(
        run("bench", "resnet20", "--device", sshd.address("fake", python), exit_status=4)
    )


def bare(folder: Path, *packages: str) -> str:
    """A Python that has only these packages."""
    site = Path(numpy.__file__).parent.parent
    (folder / "site").mkdir()
    for package in packages:
        (folder / "site" / package).symlink_to(site / package)
    script = folder / "python"
    script.write_text(f'#!/bin/sh\nPYTHONPATH={folder}/site exec {sys.executable} -S "$@"\n')
    script.chmod(0o755)
    return str(script)


def test_a_target_without_a_runtime_is_exit_4(sshd: Sshd, tmp_path: Path) -> None:
    python = bare(tmp_path, "numpy", "numpy.libs")
    text = json.dumps(run("bench", "resnet20", "--device", sshd.address("cpu", python), exit_status=4))
    assert "onnxruntime is not installed" in text
    found = run("doctor", "--device", sshd.address("cpu", python))
    assert found["noise"] is None
    assert not found["backends"]["ort"]["available"]


def test_a_target_without_numpy_is_exit_4(sshd: Sshd, tmp_path: Path) -> None:
    text = json.dumps(run("doctor", "--device", sshd.address("cpu", bare(tmp_path)), exit_status=4))
    assert "No module named 'numpy'" in text


def test_a_full_disk_is_said(sshd: Sshd, tmp_path: Path) -> None:
    script = tmp_path / "python"
    script.write_text(f'#!/bin/sh\nHWNAS_AGENT_HOME=/proc/none exec {sys.executable} "$@"\n')
    script.chmod(0o755)
    text = run("doctor", "--device", sshd.address("cpu", str(script)), exit_status=4)
    assert "the agent cannot be written there" in json.dumps(text)


def test_the_second_is_told(sshd: Sshd) -> None:
    machine_at(sshd.address()).claim("fake")
    other = subprocess.run(
        [sys.executable, "-m", "hwnas_cli.main", "bench", "resnet20", "--device", sshd.address()],
        capture_output=True,
        text=True,
        check=False,
    )
    assert other.returncode == 4
    assert "another process measures on fake" in other.stderr


@pytest.mark.skipif(
    not PYTHON39.is_file(), reason="no python3.9 here, from which prepare_targets.py makes a target"
)
def test_a_target_of_python_3_9(sshd: Sshd) -> None:
    """The oldest target, with numpy and ONNX Runtime and nothing else."""
    found = run("bench", "resnet20", "--device", sshd.address("cpu", str(PYTHON39)), "--preset", "quick")
    (row,) = found["networks"]
    assert row["floor_ms"] > 0
    assert row["setting"]["backend"] == "ort"


@pytest.mark.skipif(
    not PYTHON39.is_file(), reason="no python3.9 here, from which prepare_targets.py makes a target"
)
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_engines_of_python_3_9_are_built_saved_and_loaded(
    sshd: Sshd, tmp_path: Path, precision: Precision
) -> None:
    """Without onnx and pydantic there; int8 graphs are made here."""
    backend, setting = device.conditions(sshd.address("cpu", str(PYTHON39)), precision=precision)
    block = BlockSpec(kind="basic", c_in=16, c_out=16, size_in=8)
    made = backend.build(onnx.chain([block], batch=1, seed=0), setting)
    made.save(tmp_path / "engine.ort")
    again = backend.load(tmp_path / "engine.ort", setting)
    images = numpy.random.default_rng(0).standard_normal((1, 16, 8, 8)).astype(numpy.float32)
    assert numpy.array_equal(made.run(images), again.run(images))
