"""One process at a time: the second is told who is there, and a killed holder holds nobody off."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hwnas import locks, runs, store
from hwnas.errors import DataFormatError, InputError

HOLD = (
    "import sys, time; from pathlib import Path; from hwnas.locks import Lock; "
    "held = Lock(Path(sys.argv[1])); print('held', flush=True); time.sleep(float(sys.argv[2]))"
)


def holder(path: Path, seconds: float = 60.0) -> subprocess.Popen[str]:
    """Another process that has the lock by the time this returns."""
    made = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path), str(seconds)], stdout=subprocess.PIPE, text=True
    )
    assert made.stdout is not None
    assert made.stdout.readline() == "held\n"
    return made


def test_the_second_process_is_told_who_holds_it(tmp_path: Path) -> None:
    path = tmp_path / "t"
    other = holder(path)
    with pytest.raises(InputError, match=rf"in use by process {other.pid} .*since 20.*--wait"):
        locks.Lock(path)
    with other:
        other.send_signal(signal.SIGKILL)
    with locks.Lock(path) as lock:
        assert lock.path.exists(), "the lock of a killed process is free"
    assert list(tmp_path.iterdir()) == [], "nothing is left over"


def test_waiting_for_the_holder(tmp_path: Path) -> None:
    path = tmp_path / "t"
    other = holder(path, 0.5)
    token = locks.patience_s.set(30.0)
    with other:
        try:
            locks.Lock(path).release()
        finally:
            locks.patience_s.reset(token)
    assert other.returncode == 0


def test_a_file_of_the_users_is_no_lock(tmp_path: Path) -> None:
    mine = tmp_path / f".t{locks.SUFFIX}"
    mine.write_text("mine")
    with pytest.raises(InputError, match="not a lock file of hwnas"):
        locks.Lock(tmp_path / "t")
    assert mine.read_text() == "mine"
    mine.unlink()
    mine.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="not a lock file of hwnas"):
        locks.Lock(tmp_path / "t")
    assert not (tmp_path / "elsewhere").exists()


def test_temporary_files_of_dead_makers_are_swept(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from hwnas.store import atomic_path\n"
        "with atomic_path(Path(sys.argv[1])) as t: t.write_text('half'); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.txt")], check=False)
    (left,) = tmp_path.iterdir()
    assert store.is_temporary(left.name)
    (tmp_path / ".notes.tmp").write_text("mine")
    with store.atomic_path(tmp_path / "b.txt") as alive:
        store.sweep(tmp_path)
        assert alive.exists(), "its maker lives"
    assert sorted(p.name for p in tmp_path.iterdir()) == [".notes.tmp", "b.txt"]


def test_links_and_foreign_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with pytest.raises(InputError, match="is a symbolic link"):
        store.write_text(tmp_path / "link", "new")
    with pytest.raises(InputError, match="not a file of the schema"):
        store.write_json(tmp_path / "target", {"schema": "hwnas.plan/1"})
    with pytest.raises(InputError, match="exists already"):
        store.write_text(tmp_path / "target", "new", new=True)
    assert (tmp_path / "target").read_text() == "mine"


def test_latest_of_the_users_is_left_alone(tmp_path: Path) -> None:
    run = runs.RunFolder(tmp_path / "search-0001", "search", {})
    (tmp_path / "latest").write_text("mine")
    runs.link_latest(run.path)
    assert (tmp_path / "latest").read_text() == "mine"


def test_run_numbers_are_never_given_twice(tmp_path: Path) -> None:
    assert [runs.reserve("search", tmp_path).name for _ in range(2)] == ["search-0001", "search-0002"]


def test_a_foreign_manifest_makes_no_run(tmp_path: Path) -> None:
    from hwnas.jobs.runs import remove

    app = tmp_path / "app"
    app.mkdir()
    (app / "manifest.json").write_text('{"name": "my web app"}')
    with pytest.raises(DataFormatError, match="schema None"):
        remove([str(app)])
    run = runs.RunFolder(tmp_path / "search-0001", "search", {})
    (tmp_path / "mine").symlink_to(run.path)
    with pytest.raises(InputError, match="is a link; name the run itself"):
        remove(["mine"], root=tmp_path)
    assert app.exists()
    assert run.path.exists()


@pytest.mark.parametrize("line", ["[]", "1", "{}", '{"event": "note", "measuring_s": "x"}', "\xe9"])
def test_a_damaged_event_ends_a_resume_and_is_named(tmp_path: Path, line: str) -> None:
    run = runs.RunFolder(tmp_path / "r", "search", {})
    run.append("note", {"text": "a"})
    run.close()
    with (run.path / "events.jsonl").open("ab") as file:
        file.write(line.encode("latin-1") + b"\n")
    with pytest.raises(DataFormatError, match=r"events\.jsonl, line 2") as caught:
        runs.RunFolder(tmp_path / "r", "search", {})
    assert caught.value.exit_status == 6
    assert os.fspath(run.path) in str(caught.value)
