"""What blocks have in common: the shared corrections of the cost model's prior.

A block timed alone pays for things that it does not pay inside a network, and the other way round.
Which ones differs between runtimes, so the prior only says along which lines blocks deviate
together; whole networks say how much (see `hwnas.cost.posterior`).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from hwnas.cost.posterior import Array, Group
from hwnas.spec import BlockSpec

# Default relative standard deviations: a block's cost in a network against alone. Isolated sums are
# 2 to 15 % off on CPU runtimes, up to 80 % on TensorRT (docs/latency.md).
SCALE, PER_BLOCK, PER_KIND, PER_SIZE, TRAFFIC, PER_WIDTH = 0.1, 0.1, 0.05, 0.05, 0.05, 0.02


def groups(blocks: Sequence[BlockSpec], mean_ms: Array, reference_ms: float) -> tuple[Group, ...]:
    """The shared corrections of a set of blocks.

    Args:
        blocks: the keys.
        mean_ms: (keys,) their times alone.
        reference_ms: a typical time of a block, the unit of corrections that are not relative;
            passed in so that adding keys does not change the meaning of fitted scales.
    """
    relative = mean_ms[:, None]
    elements = np.array([b.c_in * b.size_in**2 + b.c_out * b.size_out**2 for b in blocks], dtype=float)
    typical = _typical_elements(blocks)
    return (
        Group("scale", relative, SCALE),
        Group("block", np.full((len(blocks), 1), reference_ms), PER_BLOCK),
        Group("kind", _one_hot([(b.kind, b.stride, b.se > 0) for b in blocks]) * relative, PER_KIND),
        Group("size", _one_hot([b.size_in for b in blocks]) * relative, PER_SIZE),
        Group("traffic", elements[:, None] / typical * reference_ms, TRAFFIC),
        Group("width", _one_hot([b.c_out for b in blocks]) * relative, PER_WIDTH),
    )


def _typical_elements(blocks: Sequence[BlockSpec]) -> float:
    # Independent of which keys are present: the traffic of a block is measured against its input
    # image's order of magnitude, 16 channels at the largest feature map.
    largest = max(b.size_in for b in blocks)
    return 32.0 * largest**2


def _one_hot(labels: Sequence[Hashable]) -> Array:
    order = list(dict.fromkeys(labels))
    out = np.zeros((len(labels), len(order)))
    out[np.arange(len(labels)), [order.index(label) for label in labels]] = 1.0
    return out
