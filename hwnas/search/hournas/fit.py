"""From the losses of sampled networks to a score for each operator in each place.

The samples share one super-network and are judged on the same images, so that what differs between
them is the networks. Their negative losses are fitted by

    alpha * entropy + sum over filled places of w(stage, operator) + v(place, operator)

where w and v are linear in what an operator is: that it is there, kernel, expansion, gate. The slope of
the untrained entropy (`entropy`) covers the effect of size; the rest is a ridge regression, its
strength chosen by leaving one out. v is held back more than w: a place is like others of its stage
until the data say otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hwnas.arrays import Float64s
from hwnas.errors import InputError
from hwnas.nets.chainspace import ChainSpace
from hwnas.nets.hournas.slots import Fill, slots
from hwnas.nets.levels import Operator
from hwnas.search.hournas.choice import entropies

# Size of a place's own columns beside its stage's, and the ridge strengths that are tried.
OWN = 0.5
RIDGES = tuple(10.0**k for k in range(-2, 5))
# Least slope of the entropy, in standard deviations of the fitted quantity per one of the entropy:
# it decides nothing but that milliseconds left over are used.
LEAST_SLOPE = 1e-3
PathAndFills = tuple[tuple[int, ...], tuple[Fill, ...]]  # path and fills


@dataclass(frozen=True)
class Fitted:
    """A fitted model of the losses of sampled networks.

    Attributes:
        space: of levels.
        slope: of the entropy.
        weights: of the columns of `_columns`.
        left_out_r: correlation of predictions for left-out samples with what they gave: what the scores
            are worth beyond these samples.
    """

    space: ChainSpace
    slope: float
    weights: Float64s
    left_out_r: float

    def scores(self, path: Sequence[int]) -> list[tuple[float, ...]]:
        """For each place along a path the score of each operator."""
        found = []
        for n, slot in enumerate(slots(self.space, path)):
            level = self.space.levels[path[slot.stage]]
            untrained = entropies(self.space, path, slot)
            found.append(
                tuple(
                    self.slope * untrained[k] + float(_columns(self.space, path, {n: k}) @ self.weights)
                    for k in range(len(level.operators))
                )
            )
        return found


def fit(space: ChainSpace, networks: Sequence[PathAndFills], losses: Sequence[float]) -> Fitted:
    """Fit the losses of networks.

    Raises:
        InputError: there are fewer than eight.
    """
    if len(networks) < 8 or len(networks) != len(losses):
        raise InputError(f"scores are fitted to at least 8 networks, not {len(networks)}")
    y = -np.asarray(losses, dtype=np.float64)
    size = np.array([_entropy(space, *one) for one in networks])
    x = np.stack([_columns(space, path, dict(enumerate(fills))) for path, fills in networks])
    y, size, x = y - y.mean(), size - size.mean(), x - x.mean(axis=0)
    spread = float(size @ size)
    least = LEAST_SLOPE * float(y.std()) / max(float(size.std()), 1e-12)
    slope = max(float(size @ y) / spread if spread > 0 else 0.0, least)
    weights, left_out = _ridge(x, y - slope * size)
    predicted = slope * size + left_out
    r = float(np.corrcoef(predicted, y)[0, 1]) if predicted.std() > 0 and y.std() > 0 else 0.0
    return Fitted(space, slope, weights, r)


def _entropy(space: ChainSpace, path: Sequence[int], fills: Sequence[Fill]) -> float:
    total = 0.0
    for slot, fill in zip(slots(space, path), fills, strict=True):
        total += 0.0 if fill is None else entropies(space, path, slot)[fill]
    return total


def _attributes(operator: Operator, width: int) -> Float64s:
    """What an operator is: there, wide, its kernel and expansion (powers of two), whether it has a gate."""
    kernel, expand = math.log2(operator.kernel / 3), math.log2(operator.expand)
    return np.array([1.0, math.log2(width / 16), kernel, expand, float(operator.se > 0)])


def _columns(space: ChainSpace, path: Sequence[int], fills: dict[int, Fill]) -> Float64s:
    """Columns of a network, or of single places: sums over each stage's vital and other places, then own.

    Places are numbered by stage and index in the deepest stage, so that all paths share the columns.
    """
    depth = max(level.depth[1] for level in space.levels)
    size = len(_attributes(Operator("conv"), 16))
    stages = np.zeros((len(path), 2, size))
    own = np.zeros((len(path), depth, size))
    for n, slot in enumerate(slots(space, path)):
        fill = fills.get(n)
        if fill is None:
            continue
        level = space.levels[path[slot.stage]]
        found = _attributes(level.operators[fill], level.width)
        stages[slot.stage, int(slot.vital)] += found
        own[slot.stage, slot.index] += OWN * found
    return np.concatenate([stages.ravel(), own.ravel()])


def _ridge(x: Float64s, y: Float64s) -> tuple[Float64s, Float64s]:
    """Weights of the best ridge regression, and its predictions for each row from the others."""
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    best: tuple[float, Float64s, Float64s] | None = None
    for strength in RIDGES:
        shrunk = s**2 / (s**2 + strength)
        fitted = u @ (shrunk * (u.T @ y))
        leverage = np.clip((u**2 @ shrunk) + 1 / len(y), None, 0.99)
        left_out = y - (y - fitted) / (1 - leverage)
        error = float(((y - left_out) ** 2).mean())
        if best is None or error < best[0]:
            best = (error, vt.T @ ((s / (s**2 + strength)) * (u.T @ y)), left_out)
    assert best is not None
    return best[1], best[2]
