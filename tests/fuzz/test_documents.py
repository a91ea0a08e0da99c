"""Mutated files of every text format through the command line, in process: no traceback, no hang.

Seeded, so that a failure repeats; `HWNAS_FUZZ` is the number of files (2,000 in the slow part).
"""

from __future__ import annotations

import json
import os
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import pytest
from click.testing import CliRunner

from hwnas_cli.main import cli

STATUSES = {0, 2, 3, 4, 5, 6}
LONGEST_S = 20
# What breaks parsers: another type, a number without bounds, text that is none, nesting.
TOKENS = [
    b"null", b"[]", b"{}", b"-1", b"0", b"1e308", b"1e999", b"NaN", b"9" * 30, b"9" * 5000, b'"x"', b"true",
    b"\xff\xfe", b"\x00", b'"\\ud800"', b'"\\u0000"', b"[" * 3000, b"{" * 300, b"&a [*a]", b"2000-01-01",
]  # fmt: skip


def mutated(seed_bytes: bytes, rng: random.Random) -> bytes:
    """One to three changes: a bit, a cut, a token for a number or word, a part twice or left out."""
    data = bytearray(seed_bytes)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(data)) if data else 0
        how = rng.randrange(6)
        if how == 0 and data:
            data[at] ^= 1 << rng.randrange(8)
        elif how == 1:
            del data[at:]
        elif how == 2:
            data[at:at] = rng.choice(TOKENS)
        elif how == 3:
            end = min(len(data), at + rng.randrange(1, 60))
            data[at:at] = data[at:end]
        elif how == 4:
            del data[at : at + rng.randrange(1, 60)]
        else:  # a whole value of JSON or YAML
            start = data.find(b": ", at) + 2 or at
            stops = [p for p in (data.find(c, start) for c in (b",", b"\n", b"}")) if p >= 0]
            data[start : min(stops, default=len(data))] = rng.choice(TOKENS)
    return bytes(data)


@contextmanager
def alarm() -> Iterator[None]:
    def ring(number: int, frame: FrameType | None) -> None:
        raise AssertionError("hangs")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(LONGEST_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def seeds(folder: Path) -> dict[str, tuple[bytes, Callable[[Path], list[str]]]]:
    """A small good file of each format by its name, and the command that reads it."""
    runner = CliRunner()
    made = folder / "made"
    done = runner.invoke(cli, ["spaces", "sample", "--space", "resnet-cifar", "--out", str(made)])
    assert done.exit_code == 0, done.output
    network = next(made.rglob("*.json"))
    ofa = "".join(
        f"expanded_conv-input:112x112x16-output:112x112x16-expand:{e}-kernel:3-stride:1-idskip:1: "
        "{count: 5, mean: 1.5, var: 0.1}\n"
        for e in (1, 3)
    )
    pipeline = b"profile:\n  space: resnet-cifar\n  threads: 1\nsearch:\n  latency-budget: 1ms\n"
    toml = b'[profile]\nspace = "resnet-cifar"\nthreads = 1\npreset = "quick"\n'
    return {
        "network.json": (network.read_bytes(), lambda p: ["count", str(p)]),
        "ofa.yaml": (
            ofa.encode(),
            lambda p: ["table", "import", str(p), "--format", "ofa", "--out", f"{p}.hwlat.jsonl"],
        ),
        "pipeline.yaml": (pipeline, lambda p: ["run", str(p), "--dry-run"]),
        "options.toml": (toml, lambda p: ["devices", "list", "--config", str(p)]),
        "log.json": (
            json.dumps({"schema": "x", "columns": ["a"], "rows": [[1]], "result": {}}).encode(),
            lambda p: ["replay", str(p), "--strategy", "macromicro"],
        ),
        "t.hwlat.jsonl": (
            b'{"schema": "hwlat/1", "setting": {"device": "fake"}, "hash": "0"}\n{"row": "end", "rows": 0}\n',
            lambda p: ["table", "show", str(p)],
        ),
    }


def fuzz(folder: Path, count: int) -> None:
    """Every file must end with a documented status, an object on standard output, and no traceback."""
    runner, rng = CliRunner(), random.Random(14)
    found = seeds(folder)
    for number in range(count):
        name = sorted(found)[number % len(found)]
        good, command = found[name]
        path = folder / f"{number}-{name}"
        path.write_bytes(mutated(good, rng))
        with alarm():
            result = runner.invoke(cli, [*command(path), "--json"], prog_name="hwnas")
        assert result.exit_code in STATUSES, f"{path}: exit {result.exit_code}\n{result.stderr[-1500:]}"
        assert "Traceback" not in result.stderr, f"{path}: {result.stderr[-1500:]}"
        json.loads(result.stdout)
        path.unlink()


@pytest.fixture(autouse=True)
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HWNAS_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


def test_a_few_mutated_files(tmp_path: Path) -> None:
    fuzz(tmp_path, 120)


@pytest.mark.slow
def test_thousands_of_mutated_files(tmp_path: Path) -> None:
    fuzz(tmp_path, int(os.environ.get("HWNAS_FUZZ", "2000")))
