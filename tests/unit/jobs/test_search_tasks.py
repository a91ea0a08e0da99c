"""Folders of trainings that ran elsewhere: nobody else's, and nothing outside."""

from __future__ import annotations

import fcntl
import getpass
import os
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hwnas.errors import DataFormatError
from hwnas.jobs.search import tasks
from hwnas.jobs.search.spread import Spread


def test_a_folder_that_others_may_write_is_not_used(tmp_path: Path) -> None:
    assert tasks._ours(tmp_path / "new") == tmp_path / "new"
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "link").symlink_to(tmp_path / "new")
    (tmp_path / "file").write_text("")
    for name in ("open", "link", "file"):
        assert tasks._ours(tmp_path / name) != tmp_path / name


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where tasks work."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path / f"hwnas-tasks-{getpass.getuser()}"


def test_what_a_failed_task_has_left_is_found_by_the_next_and_then_removed(scratch: Path) -> None:
    def fail() -> None:
        with tasks._scratch("run-1") as folder:
            (folder / "checkpoint").write_text("half")
            raise ValueError("failed")

    with pytest.raises(ValueError, match="failed"):
        fail()
    with tasks._scratch("run-1") as folder:
        assert folder == scratch / "run-1"
        assert (folder / "checkpoint").read_text() == "half"
    assert list(scratch.iterdir()) == []


def test_a_folder_in_use_by_another_process_is_left_to_it(scratch: Path) -> None:
    (scratch / "run-1").mkdir(mode=0o700, parents=True)
    scratch.chmod(0o700)
    with (scratch / ".run-1.hwnas-lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with tasks._scratch("run-1") as folder:
            assert folder != scratch / "run-1"
    assert not folder.exists()
    assert (scratch / "run-1").is_dir()


def test_old_folders_are_swept_and_one_that_has_just_gone_is_no_fault(scratch: Path) -> None:
    scratch.mkdir(mode=0o700)
    for name in ("old", "busy", "new"):
        (scratch / name).mkdir()
    for name in ("old", "busy"):
        os.utime(scratch / name, (0, 0))
    (scratch / "gone").symlink_to(scratch / "nothing")  # seen, and not there when it is asked for
    with (scratch / ".busy.hwnas-lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with tasks._scratch("run-1"):
            assert {p.name for p in scratch.iterdir() if p.is_dir()} == {"busy", "new", "run-1"}


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x"])
def test_files_that_come_back_stay_in_the_run(name: str, tmp_path: Path) -> None:
    spread: Any = SimpleNamespace(folder=tmp_path)
    assert Spread._place(spread, "trials/0.json") == tmp_path / "trials/0.json"
    with pytest.raises(DataFormatError, match="outside its folder"):
        Spread._place(spread, name)
