"""Folders of trainings that ran elsewhere: nobody else's, and nothing outside."""

from __future__ import annotations

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


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x"])
def test_files_that_come_back_stay_in_the_run(name: str, tmp_path: Path) -> None:
    spread: Any = SimpleNamespace(folder=tmp_path)
    assert Spread._place(spread, "trials/0.json") == tmp_path / "trials/0.json"
    with pytest.raises(DataFormatError, match="outside its folder"):
        Spread._place(spread, name)
