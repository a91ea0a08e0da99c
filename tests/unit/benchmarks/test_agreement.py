"""Kendall's tau-b with groups and its bootstrap, against hand, SciPy and plain resampling."""

from itertools import combinations

import numpy as np
import pytest
from scipy.stats import kendalltau

from benchmarks import agreement as agreements
from benchmarks.agreement import agreement, compared
from hwnas.cost.score import kendall_tau


def test_by_hand() -> None:
    # Pairs: 12 agrees, 13 agrees, 23 disagrees.
    found = agreement([1, 2, 3], [10, 30, 20])
    assert found is not None
    assert found.tau == pytest.approx(1 / 3)


def test_ties_as_scipy_and_the_library_have_them() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        x, y = rng.integers(0, 5, size=(2, 12)).astype(float)
        found = agreement(x.tolist(), y.tolist())
        assert found is not None
        assert found.tau == pytest.approx(kendalltau(x, y).statistic)
        assert found.tau == pytest.approx(kendall_tau(x, y))


def test_within_groups_only_their_pairs_count() -> None:
    # Over all the groups decide, and agree; within both they are reversed.
    score, truth, groups = [1, 2, 11, 12], [2, 1, 12, 11], ["a", "a", "b", "b"]
    every, within = agreement(score, truth), agreement(score, truth, groups)
    assert every is not None
    assert within is not None
    assert every.tau == pytest.approx((4 - 2) / 6)
    assert (within.tau, within.low, within.high) == (-1, -1, -1)


def test_nothing_to_compare_is_none_and_not_zero() -> None:
    assert agreement([1, 2], [1, 2], ["a", "b"]) is None
    assert agreement([1, 1, 1], [1, 2, 3]) is None


def test_the_interval_is_that_of_networks_drawn_with_replacement() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=15)
    y, groups = x + rng.normal(size=15), [str(one) for one in rng.integers(0, 3, size=15)]
    found = agreement(x.tolist(), y.tolist(), groups)
    draws = np.random.default_rng(agreements.SEED).integers(15, size=(agreements.RESAMPLES, 15))
    taus = []
    for draw in draws:
        signs = [
            np.sign((x[i] - x[j]) * (y[i] - y[j]))
            for i, j in combinations(draw.tolist(), 2)
            if groups[i] == groups[j] and i != j
        ]
        taus.append(np.mean(signs))  # no ties but of a network with itself
    assert found is not None
    assert [found.low, found.high] == pytest.approx(np.percentile(taus, [2.5, 97.5]))
    assert found.low < found.tau < found.high


def test_regret_is_what_the_best_by_the_score_loses() -> None:
    rows = compared({"good": [1, 3, 2], "bad": [3, 1, 2]}, [0.5, 0.75, 0.625], ["a", "a", "b"])
    assert [(row["score"], row["regret"]) for row in rows] == [("good", 0.0), ("bad", 0.25)]
    assert rows[0]["all"]["tau"] == 1
    assert rows[1]["within"]["tau"] == -1
