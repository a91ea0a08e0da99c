"""What blocks have in common: the shared corrections of the cost model's prior.

A block timed alone pays for things that it does not pay inside a network, and the other way round.
Which ones differs between runtimes, so the prior only says along which lines blocks deviate
together; whole networks say how much (see `hwnas.cost.posterior`).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from hwnas.arrays import Float64s
from hwnas.cost.posterior import Group, Matrix
from hwnas.spec import BlockSpec

# Default relative standard deviations: a block's cost in a network against alone. Isolated sums are
# 2 to 15 % off on CPU runtimes, up to 80 % on TensorRT (docs/evidence/latency.md).
SCALE, PER_BLOCK, PER_KIND, PER_SIZE, TRAFFIC, PER_WIDTH = 0.1, 0.1, 0.05, 0.05, 0.05, 0.02


@dataclass(frozen=True)
class Unit:
    """A typical block of a table: the unit of corrections that are not relative.

    Fixed with the table, so that adding keys does not change the meaning of fitted scales.

    Attributes:
        time_ms: its time.
        elements: values that it reads and writes.
    """

    time_ms: float
    elements: float

    @staticmethod
    def of(blocks: Sequence[BlockSpec], times_ms: Sequence[float]) -> Unit:
        """The medians over measured blocks."""
        return Unit(float(np.median(times_ms)), float(np.median(_elements(blocks))))


def groups(blocks: Sequence[BlockSpec], mean_ms: Float64s, unit: Unit) -> tuple[Group, ...]:
    """The shared corrections of a set of blocks.

    Args:
        blocks: the keys.
        mean_ms: (keys,) their times alone.
        unit: of the table that the keys belong to.
    """
    relative = mean_ms[:, None]
    traffic = _elements(blocks)[:, None] / unit.elements * unit.time_ms
    return (
        Group("scale", relative, SCALE),
        Group("block", np.full((len(blocks), 1), unit.time_ms), PER_BLOCK),
        Group("kind", _by_label([(b.kind, b.stride, b.se > 0) for b in blocks], mean_ms), PER_KIND),
        Group("size", _by_label([b.size_in for b in blocks], mean_ms), PER_SIZE),
        Group("traffic", traffic, TRAFFIC),
        Group("width", _by_label([b.c_out for b in blocks], mean_ms), PER_WIDTH),
    )


def _elements(blocks: Sequence[BlockSpec]) -> Float64s:
    return np.array([b.elements_in + b.elements_out for b in blocks], dtype=float)


def _by_label(labels: Sequence[Hashable], values: Float64s) -> Matrix:
    """(labels, different labels), sparse: each value in the column of its label."""
    column = {label: at for at, label in enumerate(dict.fromkeys(labels))}
    at = (np.arange(len(labels)), [column[label] for label in labels])
    return sparse.csr_array((values, at), shape=(len(labels), len(column)))
