"""What goes wrong says so in one message, ends with its own status, and loses nothing."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from e2e_house import BUDGET, SMALL, TINY, House
from killing import has_event, hwnas, killed, needs_sigkill

from hwnas.measure.table_folder import headers


def table_of(fake: House) -> Path:
    return next(path for path, header in headers() if header.setting.device == "fake")


@pytest.mark.parametrize(
    ("command", "status", "words"),
    [
        (["profile", "--device", "titanxpp"], 2, ["did you mean 'titanxp'"]),
        (["profile", "--device", "titanxp"], 4, ["table import", "--device cpu", "--estimate"]),
        (["search", "--latency-budget", "18"], 2, ["18ms"]),
        (["search", "--latency-budget", "18", "--json"], 2, ["18ms"]),
        (["search", "--latency-budget", "18ms@p51"], 2, ["p50, p90, p95, p99"]),
        (["search"], 2, ["--latency-budget 18ms"]),
        (["search", *BUDGET, "--max-macs", "60000000"], 2, ["MAC"]),
        (["search", *BUDGET, "--data", "folder:/no/such/folder"], 2, ["/no/such/folder does not exist"]),
        (["search", *BUDGET, "--data", "digitz"], 2, ["did you mean 'digits'"]),
        (["search", *BUDGET, "--set", "rounds=8", "--strategy", "uniform"], 2, ["rounds"]),
        (["search", *BUDGET, "--recipe", "threds=1"], 2, ["did you mean 'threads'"]),
        (["predict", "resnet-20", "--device", "fake"], 2, ["did you mean 'resnet20'"]),
        (["predict", "resnet20", "--table", "absent.hwlat.jsonl"], 2, ["does not exist"]),
        (["predict", "resnet20", "--device", "titanxp"], 6, ["hwnas profile --device titanxp"]),
        (["verify", "absent.onnx"], 2, ["absent.onnx"]),
        (["report", "nosuch"], 2, ["hwnas runs list"]),
    ],
)
def test_refusals(fake: House, command: list[str], status: int, words: list[str]) -> None:
    result = fake.run(*command, status=status)
    assert "Traceback" not in result.output
    assert result.stderr.count("Error: ") == 1
    for word in words:
        assert word in result.stderr
    if "--json" in command:
        assert json.loads(result.stdout)["exit_status"] == status
    else:
        assert result.stdout == ""


def test_a_foreign_device_is_refused_in_two_seconds(fake: House) -> None:
    """Of a new process' own time, imports included; the least of three, since other work only adds to it."""
    command = [sys.executable, "-m", "hwnas_cli.main", "profile", "--device", "titanxp"]

    def once() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert subprocess.run(command, capture_output=True).returncode == 4
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(once() for _ in range(3)) < 2.0


def test_an_infeasible_budget_names_the_smallest_latency(fake: House) -> None:
    """The smallest reachable latency that is named is indeed reachable, and leaves no run behind."""
    before = sorted(Path("runs").glob("*")) if Path("runs").exists() else []
    words = fake.refused("search", "--latency-budget", "20us", *SMALL, *TINY, status=3)
    body = fake.json("search", "--latency-budget", "20us", *SMALL, *TINY, status=3)
    smallest_ms = body["smallest_ms"]
    assert smallest_ms > 0.02
    assert "Raise --latency-budget" in words
    dry = ("--latency-budget", f"{smallest_ms * 1.001:.6f}ms", *SMALL, *TINY, "--dry-run")
    fake.run("search", *dry)
    assert (sorted(Path("runs").glob("*")) if Path("runs").exists() else []) == before


def test_a_budget_below_the_stem_says_so(fake: House) -> None:
    words = fake.refused("search", "--latency-budget", "1us", *SMALL, *TINY, status=3)
    assert "stem and classifier alone take" in words


def damaged(text: str, how: str) -> str:
    lines = text.splitlines(keepends=True)
    if how == "truncated":
        return text[:-20]
    if how == "row missing":
        return "".join(lines[:2] + lines[3:])
    if how == "not JSON":
        return "".join(["{oops\n", *lines[1:]])
    if how == "value changed":
        row = json.loads(lines[2])
        row["value_ms"] = row["value_ms"] * 1000
        return "".join([*lines[:2], json.dumps(row) + "\n", *lines[3:]])
    assert how == "wrong schema"
    return text.replace("hwlat/1", "hwlat/9", 1)


@pytest.mark.parametrize("how", ["truncated", "row missing", "not JSON", "value changed", "wrong schema"])
@pytest.mark.parametrize("verb", ["predict", "search", "table"])
def test_a_damaged_table(fake: House, tmp_path: Path, how: str, verb: str) -> None:
    bad = tmp_path / "bad.hwlat.jsonl"
    bad.write_text(damaged(table_of(fake).read_text(), how))
    command = {
        "predict": ["predict", "resnet20", "--table", str(bad)],
        "search": ["search", *BUDGET, *TINY, "--table", str(bad)],
        "table": ["table", "validate", str(bad)],
    }[verb]
    words = fake.refused(*command, status=6)
    assert "bad.hwlat.jsonl" in words
    assert words.count("Error: ") == 1


@pytest.mark.parametrize("file", ["engine", "network", "weights", "manifest"])
def test_a_damaged_file_of_a_run(fake: House, searched: dict[str, Any], tmp_path: Path, file: str) -> None:
    body = fake.json("export", searched["run"], "--out", str(tmp_path), "--no-verify")
    engine = Path(body["engine"])
    run = tmp_path / "run"
    run.mkdir()
    for name in ("network.json", "weights.safetensors", "manifest.json", "result.json"):
        (run / name).write_bytes((Path(searched["run"]) / name).read_bytes())
    victim = {
        "engine": engine,
        "manifest": Path(body["manifest"]),
        "network": run / "network.json",
        "weights": run / "weights.safetensors",
    }[file]
    victim.write_bytes(victim.read_bytes()[:-40])
    words = fake.refused("verify", str(engine), "--against", str(run), "--data", "digits", status=6)
    assert victim.name in words


def test_another_configuration_in_the_same_folder_is_refused(fake: House, searched: dict[str, Any]) -> None:
    words = fake.refused("search", *BUDGET, *TINY, "--seed", "1", "--out", searched["run"], status=2)
    assert "seed was 0, is 1" in words


def test_a_finished_search_repeated_gives_its_result_at_once(fake: House, searched: dict[str, Any]) -> None:
    start = time.perf_counter()
    again = fake.json("search", *BUDGET, *TINY, "--out", searched["run"])
    assert time.perf_counter() - start < 5.0
    assert again["best"] == searched["best"]


@needs_sigkill
def test_a_killed_search_ends_as_if_it_had_not_been(fake: House) -> None:
    """SIGKILL in the middle; the repeated command ends with the network and weights of an unbroken run."""
    args = ["search", *BUDGET, *TINY]
    args[args.index("uniform")] = "random"
    args[args.index("--images") + 1] = "800"
    whole = fake.json(*args, "--out", "runs/whole")
    run = Path("runs/killed")
    killed(hwnas, *args, "--out", str(run), when=partial(has_event, run, "trial"))
    assert not (run / "result.json").exists()
    done = fake.json(*args, "--out", str(run))
    assert done["best"] == whole["best"]
    assert done["trials"] == whole["trials"]
    for name in ("network.json", "weights.safetensors"):
        assert (run / name).read_bytes() == Path("runs/whole", name).read_bytes()


@needs_sigkill
def test_a_killed_profile_goes_on(fake: House) -> None:
    out = Path("killed.hwlat.jsonl")
    args = ["profile", *SMALL, "--preset", "thorough", "--out", str(out)]
    killed(hwnas, *args, when=lambda: out.exists() and out.read_bytes().count(b"\n") >= 3)
    kept = out.read_bytes()[: out.read_bytes().rfind(b"\n") + 1]
    fake.json("profile", *SMALL, "--preset", "thorough", "--out", str(out), "--max-time", "1s")
    assert out.read_bytes().startswith(kept), "every completed row is still there"
