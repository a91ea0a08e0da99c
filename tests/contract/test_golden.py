"""Every strategy goes the way that ``golden.json`` tells; `golden` says how to renew the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import golden
import pytest

from hwnas import plugins
from hwnas.search.strategy import find


@pytest.mark.parametrize("case", golden.CASES)
def test_a_strategy_goes_the_same_way_as_before(case: str, tmp_path: Path) -> None:
    if reason := find(case.partition(".")[0]).unavailable():
        pytest.skip(reason)
    expected = json.loads(golden.FILE.read_text(encoding="utf-8"))[case]
    found = golden.course(case, tmp_path)
    again = "if this is meant, renew golden.json: python tests/contract/golden.py"
    for part in ("trials", "decisions", "best"):
        assert found[part] == expected[part], again


def recorded(name: str) -> Any:
    return json.loads(golden.FILE.read_text(encoding="utf-8"))[name]


@pytest.mark.parametrize("name", golden.PLANS)
def test_a_plan_is_as_good_as_before(name: str) -> None:
    assert golden.planned(name) == recorded("plans")[name]


def test_a_table_holds_the_same_rows_as_before(tmp_path: Path) -> None:
    rows = golden.table(tmp_path / "table.hwlat.jsonl")
    assert len(rows) == 7 + 3 + 1 + 3 + 3 + 3, "blocks; networks fitted, chosen, held out, anchors; repeats"
    assert rows == recorded("table")


def test_every_strategy_has_its_course_on_record() -> None:
    """The built-in ones: each with its defaults, or with the options that a case names."""
    assert {case.partition(".")[0] for case in golden.CASES} == set(plugins.BUILT_IN["strategies"])
    assert set(json.loads(golden.FILE.read_text(encoding="utf-8"))) == {*golden.CASES, "plans", "table"}
