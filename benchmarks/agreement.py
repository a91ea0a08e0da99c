"""How far the order by a score agrees with that by accuracy: Kendall's tau-b with a bootstrap interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hwnas.arrays import Float64s

RESAMPLES, SEED = 1_000, 0
# Of the interval, in percent.
COVERAGE = 95


@dataclass(frozen=True)
class Agreement:
    """Kendall's tau-b, and the percentile interval of a bootstrap over networks."""

    tau: float
    low: float
    high: float


def agreement(
    score: Sequence[float], truth: Sequence[float], groups: Sequence[str] | None = None
) -> Agreement | None:
    """Tau-b (Kendall 1945) of networks; of pairs within a group alone where there are groups.

    A resample draws as many networks with replacement (Efron & Tibshirani 1993, section 13.3). A network that
    comes c times is in c pairs with each other one; with itself it is tied.

    Args:
        score, truth: of each network.
        groups: of each network; None compares all with all.

    Returns:
        None where no pair is left that neither side ties.
    """
    x, y = np.asarray(score, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    first, second = np.triu_indices(len(x), 1)
    if groups is not None:
        names = np.asarray(groups)
        same = names[first] == names[second]
        first, second = first[same], second[same]
    a, b = np.sign(x[first] - x[second]), np.sign(y[first] - y[second])
    draws = np.random.default_rng(SEED).integers(len(x), size=(RESAMPLES, len(x)))
    counts = np.stack([np.bincount(draw, minlength=len(x)) for draw in draws])
    one = _taus(a, b, np.ones((1, len(a))))[0]
    if np.isnan(one):
        return None
    taus = _taus(a, b, (counts[:, first] * counts[:, second]).astype(np.float64))
    rest = (100 - COVERAGE) / 2
    low, high = np.percentile(taus[~np.isnan(taus)], [rest, 100 - rest])
    return Agreement(float(one), float(low), float(high))


def _taus(a: Float64s, b: Float64s, weights: Float64s) -> Float64s:
    """Tau of pairs by their signs, for each row of weights; NaN where all pairs are tied on a side."""
    scale = np.sqrt((weights @ a**2) * (weights @ b**2))
    found: Float64s = np.divide(weights @ (a * b), scale, out=np.full(len(weights), np.nan), where=scale > 0)
    return found


def compared(
    scores: Mapping[str, Sequence[float]], accuracy: Sequence[float], families: Sequence[str]
) -> list[dict[str, Any]]:
    """A row for each score: tau over all networks and within families, and what choosing by it loses.

    Args:
        scores: by name the score of each network; more is better.
        accuracy: test top-1 of each network, a fraction.
        families: of each network.

    Returns:
        `score`, `all` and `within` (tau, low, high; None without a pair), `regret`: the best accuracy less
        that of the network of the highest score.
    """
    rows = []
    for name, values in scores.items():
        every, within = (agreement(values, accuracy, groups) for groups in (None, families))
        rows.append(
            {
                "score": name,
                "all": None if every is None else vars(every),
                "within": None if within is None else vars(within),
                "regret": max(accuracy) - accuracy[int(np.argmax(values))],
            }
        )
    return rows
