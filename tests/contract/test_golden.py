"""Every strategy goes the way that ``golden.json`` tells; `golden` says how to renew the file."""

from __future__ import annotations

import json
from pathlib import Path

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


def test_every_strategy_has_its_course_on_record() -> None:
    """The built-in ones: each with its defaults, or with the options that a case names."""
    assert {case.partition(".")[0] for case in golden.CASES} == set(plugins.BUILT_IN["strategies"])
    assert set(json.loads(golden.FILE.read_text(encoding="utf-8"))) == set(golden.CASES)
