"""A digit that changes in a file of ours is noticed, although the file still parses."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from hwnas import runs, store
from hwnas.documents import read_json
from hwnas.errors import DataFormatError


def run_with_events(path: Path) -> Path:
    """A run with the events a, b, c, d; the path of its events."""
    run = runs.RunFolder(path, "search", {})
    for n, kind in enumerate("abcd"):
        run.append(kind, {"loss": 1.25 + n})
    run.close()
    return path / "events.jsonl"


def kinds(path: Path) -> list[str]:
    return [event["event"] for event in runs.RunFolder(path, "search", {}).events()]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda lines: [lines[0], lines[1].replace("2.25", "2.75"), *lines[2:]], 2),
        (lambda lines: [lines[0], *lines[2:]], 2),
        (lambda lines: [*lines[:2], lines[1], *lines[2:]], 3),
        (lambda lines: [lines[1], lines[0], *lines[2:]], 1),
        (lambda lines: [*lines, lines[0]], 5),
        (lambda lines: [*lines[:3], lines[3][:-1]], 4),
    ],
    ids=["a digit", "left out", "twice", "swapped", "of before", "cut within"],
)
def test_damaged_events_stop_a_resume_and_name_the_line(
    tmp_path: Path, change: Callable[[list[str]], list[str]], line: int
) -> None:
    events = run_with_events(tmp_path / "r")
    events.write_text("\n".join(change(events.read_text().splitlines())) + "\n")
    with pytest.raises(DataFormatError, match=rf"events\.jsonl, line {line}\b") as caught:
        runs.RunFolder(tmp_path / "r", "search", {})
    assert caught.value.exit_status == 6
    good, damaged = runs.salvage_events(events)
    assert damaged >= 1, "a report says how many it left out"
    assert {event["event"] for event in good} <= set("abcd")


def test_what_a_kill_leaves_is_no_damage(tmp_path: Path) -> None:
    """A kill in the middle of a line, at its end, and before the first."""
    events = run_with_events(tmp_path / "r")
    whole = events.read_bytes()
    ends = [at + 1 for at, byte in enumerate(whole) if byte == ord("\n")]
    for cut in (0, 1, ends[0], ends[1] - 1, ends[1], ends[1] + 7, len(whole) - 1):
        events.write_bytes(whole[:cut])
        done = sum(end <= cut for end in ends)
        assert kinds(tmp_path / "r") == list("abcd")[:done]
        assert events.read_bytes() == whole[: ([0, *ends])[done]]


def test_events_go_on_after_what_was_kept(tmp_path: Path) -> None:
    events = run_with_events(tmp_path / "r")
    events.write_bytes(events.read_bytes()[:-3])
    run = runs.RunFolder(tmp_path / "r", "search", {})
    run.append("e", {})
    run.close()
    assert kinds(tmp_path / "r") == ["a", "b", "c", "e"]


def test_a_sealed_object_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    body = {"schema": "hwnas.x/1", "accuracy": 0.8125, "best": [1, (2, 3)], "by": {2: "b", 10: "a"}}
    store.write_json(path, body, sealed=True)
    assert read_json(path, "result", "hwnas.x/1", sealed=True) == {
        "schema": "hwnas.x/1",
        "accuracy": 0.8125,
        "best": [1, [2, 3]],
        "by": {"2": "b", "10": "a"},
    }
    text = path.read_text()
    path.write_text(text.replace("0.8125", "0.9125"))
    for sealed in (True, False):
        with pytest.raises(DataFormatError, match=r"result .*result\.json is damaged: .*checksum"):
            read_json(path, "result", sealed=sealed)
    path.write_text(json.dumps({k: v for k, v in json.loads(text).items() if k != "checksum"}))
    assert read_json(path, "result")["accuracy"] == 0.8125
    with pytest.raises(DataFormatError, match="checksum"):
        read_json(path, "result", sealed=True)


KILLED = (
    "import os, signal; from hwnas.store import scratch\n"
    "with scratch() as folder:\n"
    "    (folder / 'engine').write_bytes(bytes(1000)); os.kill(os.getpid(), signal.SIGKILL)"
)


def test_scratch_folders_of_killed_processes_are_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HWNAS_HOME", str(tmp_path / "home"))
    done = subprocess.run([sys.executable, "-c", KILLED], check=False)
    assert done.returncode == -signal.SIGKILL
    (left,) = (tmp_path / "home" / "scratch").iterdir()
    assert (left / "engine").is_file()
    mine = tmp_path / "home" / "scratch" / "notes"
    mine.mkdir()
    with store.scratch() as alive:
        assert not left.exists()
        store.sweep_scratch()
        assert alive.is_dir(), "its maker lives"
    assert sorted(p.name for p in mine.parent.iterdir()) == ["notes"]


def test_scratch_goes_elsewhere_where_home_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home").write_text("a file")
    monkeypatch.setenv("HWNAS_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with store.scratch() as folder:
        assert folder.parent == tmp_path
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
