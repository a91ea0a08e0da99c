"""What forms of pieces are worth: values worked out by hand."""

from __future__ import annotations

from functools import cache

import pytest

from hwnas.nets.build import build
from hwnas.nets.model.bases import OwnModel
from hwnas.nets.model.space import ModelSpace
from hwnas.nets.spaces import make
from hwnas.search.fit.worth import scores


@cache
def space() -> ModelSpace:
    """Stages of two blocks; of the first both can be dropped, of each other one the second."""
    module = build(make("resnet-cifar", input_shape=(1, 8, 8)).uniform()[1], seed=0)
    return ModelSpace(OwnModel(module.eval(), "own", "module", (1, 8, 8), classes=10), repeats=3)


def drops(**missed: float) -> dict[tuple[str, str], float]:
    return {(name.replace("_", "."), "drop"): value for name, value in missed.items()}


def test_a_piece_that_is_not_missed_costs_its_depth_all_the_same() -> None:
    """Mean missed 0.2; the less missed one of two goes first, at 1/2, the other one at 1."""
    missed = drops(stages_0_0=0.5, stages_0_1=-0.1, stages_1_1=0.1)
    found = scores(space(), missed, depth=1.0, repeat=0.0)
    assert found["stages.0.1", "drop"] == pytest.approx(-0.2 / 2)
    assert found["stages.0.0", "drop"] == pytest.approx(-0.5 - 0.2)
    assert found["stages.1.1", "drop"] == pytest.approx(-0.1 - 0.2 / 2)  # the first of the stage stays


def test_without_the_weight_of_depth_nothing_is_gained_by_dropping() -> None:
    missed = drops(stages_0_0=0.5, stages_0_1=-0.1)
    found = scores(space(), missed, depth=0.0, repeat=0.0)
    assert found["stages.0.1", "drop"] == 0.0
    assert found["stages.0.0", "drop"] == -0.5


def test_a_narrower_piece_loses_the_root_of_its_part() -> None:
    """A quarter of the multiply-accumulates, about half of what dropping takes."""
    name = "stages.0.0"
    macs = {form.edit: sum(b.macs for b in form.blocks) for form in space().places[name]}
    narrow = next(edit for edit in macs if edit.startswith("width"))
    missed = {(name, "drop"): 0.4, (name, narrow): 0.1}
    found = scores(space(), missed, depth=1.0, repeat=0.0)
    lost = 1.0 - (macs[narrow] / macs["keep"]) ** 0.5
    assert found[name, narrow] == pytest.approx(-0.1 - 0.4 / 2 * lost)


def test_copies_bring_less_and_less() -> None:
    missed = drops(stages_0_0=0.4)
    found = scores(space(), missed, depth=0.0, repeat=0.1)
    assert found["stages.0.0", "repeat:2"] == pytest.approx(0.04)
    assert found["stages.0.0", "repeat:3"] == pytest.approx(0.06)
    assert found["stages.1.1", "repeat:2"] == 0.0
