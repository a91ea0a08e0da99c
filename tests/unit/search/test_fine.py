"""Budgets are used: where the next growth does not fit, the last steps are fine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from strategy_fakes import FakeCost, FakeTrainer, context, price_ms, walked

from hwnas.estimates import Budget
from hwnas.nets.spaces import make
from hwnas.search.auto.strategy import Auto
from hwnas.search.solve.entropy import entropy
from hwnas.search.solve.fine import USED, refined
from hwnas.search.stagewise.strategy import Stagewise
from hwnas.search.state import Limits

COST = FakeCost()


def budgets_ms(space: str, number: int) -> list[float]:
    """Random ones, evenly on a logarithmic scale, from a little above the smallest network."""
    low = 1.2 * COST.estimate(make(space).smallest()).high_ms
    return list(np.exp(np.random.default_rng(0).uniform(np.log(low), np.log(5 * low), number)))


def used(path: Path, kind: Any, space: str, budget_ms: float, images: int) -> float:
    """Part of the budget that the winner's upper bound, as predicted before it was measured, uses."""
    cost = FakeCost()
    ctx = context(space, budget_ms, cost, images=images)
    strategy = kind(ctx)
    trainer = FakeTrainer(path, ctx.space, growths=strategy.growths)
    result = walked(strategy, ctx, trainer, cost, path, Limits(images=images))
    return 1.04 * price_ms(result.trials[result.best].spec) / budget_ms


def mean_use(path: Path, kind: Any, space: str, images: int, number: int) -> float:
    shares = [
        used(path / str(n), kind, space, budget_ms, images)
        for n, budget_ms in enumerate(budgets_ms(space, number))
    ]
    return float(np.mean(shares))


CASES: list[tuple[Any, str, int, float]] = [
    (Auto, "mbv2-cifar", 2_000, 0.95),
    (Stagewise, "resnet-cifar-wide", 2_000, 0.95),
    (Stagewise, "resnet-cifar-wide", 2_000_000, 0.95),
    (Stagewise, "resnet-cifar", 2_000_000, 0.90),
]


@pytest.mark.parametrize(("kind", "space", "images", "least"), CASES)
def test_random_budgets_are_used(tmp_path: Path, kind: Any, space: str, images: int, least: float) -> None:
    """Of few budgets; ``HWNAS_BUDGETS=20 pytest -k random_budgets`` looks at more."""
    number = int(os.environ.get("HWNAS_BUDGETS", "2"))
    assert mean_use(tmp_path, kind, space, images, number) >= least


@pytest.mark.parametrize("space_name", ["mbv2-cifar", "resnet-cifar-wide"])
def test_refining_fills_a_budget_and_never_lowers_the_score(space_name: str) -> None:
    space = make(space_name)
    for budget_ms in budgets_ms(space_name, 2):
        found = refined(space.smallest(), space, COST.estimate, Budget(latency_ms=budget_ms))
        assert USED * budget_ms <= COST.estimate(found).high_ms <= budget_ms
        assert entropy(found) >= entropy(space.smallest())
        again = refined(space.smallest(), space, COST.estimate, Budget(latency_ms=budget_ms))
        assert again.key == found.key  # a resumed search proposes the same


def test_what_was_tried_is_no_answer() -> None:
    space, limit = make("mbv2-cifar"), Budget(latency_ms=0.3)
    first = refined(space.smallest(), space, COST.estimate, limit)
    other = refined(space.smallest(), space, COST.estimate, limit, tried=frozenset({first.key}))
    assert other.key != first.key
    assert limit.fits(COST.estimate(other))


def test_the_last_steps_change_little_of_what_was_chosen() -> None:
    """A network that uses its budget stays as it is."""
    space = make("resnet-cifar")
    spec = space.uniform()[3]
    exact = Budget(latency_ms=COST.estimate(spec).high_ms * 1.001)
    assert refined(spec, space, COST.estimate, exact).key == spec.key
