"""What the column "missed" of a model's section is said to hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from hwnas import plugins
from hwnas.report.collect import RunData
from hwnas.report.model_section import MEANING, meaning


@pytest.mark.parametrize(
    ("importance", "said"),
    [("missed", "rise of the validation loss"), ("taylor", "gradient"), ("activation", "without labels")],
)
def test_missed_means_what_was_asked(importance: str, said: str) -> None:
    run = RunData(Path("run"), manifest={"config": {"strategy_options": {"importance": importance}}})
    assert said in meaning(run)


def test_every_importance_has_a_meaning_and_others_are_named() -> None:
    assert set(MEANING) == set(plugins.names("removals"))
    run = RunData(Path("run"), manifest={"config": {"strategy_options": {"importance": "mine"}}})
    assert "mine" in meaning(run)
    assert meaning(RunData(Path("run"))) == MEANING["missed"]
