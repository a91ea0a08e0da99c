"""`hwnas replay`: published logs, from a folder with nothing else in it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e_house import House, house

DATA = os.environ.get("HWNAS_TEST_DATA")
LOGS = sorted((Path(DATA) / "globalnas").glob("*.json")) if DATA else []
COMMAND = ("replay", "--strategy", "macromicro")


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[House]:
    with pytest.MonkeyPatch.context() as patch:
        yield house(tmp_path, patch)


@pytest.mark.skipif(not LOGS, reason="HWNAS_TEST_DATA with the published logs is not set")
@pytest.mark.parametrize("log", LOGS, ids=lambda path: path.stem)
def test_a_published_log(bare: House, log: Path) -> None:
    body = json.loads(log.read_text())
    ours = json.loads(bare.run(*COMMAND, str(log)).stdout)
    assert ours == {**ours, **body["result"]}
    assert (ours["candidates"], ours["mismatches"]) == (len(body["rows"]), 0)
    assert bare.json(*COMMAND, str(log)) == {"schema": "hwnas.replay/1", **ours}
    assert list(bare.folder.iterdir()) == []  # nothing was needed, nothing is left


def test_what_cannot_be_replayed(bare: House) -> None:
    assert "does not exist" in bare.refused(*COMMAND, "absent.json", status=2)
    assert "--strategy macromicro" in bare.refused("replay", "absent.json", status=2)
    path = bare.folder / "log.json"
    path.write_text('{"rows": 3}')
    assert "macromicro" in bare.refused("replay", "--strategy", "uniform", str(path), status=2)
    assert "search log" in bare.refused(*COMMAND, str(path), status=6)
