"""Which blocks of a network to compute in int8: the fastest mix whose loss is allowed, exactly.

Costs in context. A block in int8 beside one in float pays for the switch between them: values are
rounded and turned back at the border. Whole networks are timed with the border at every place, both ways
round, so that switches are measured and not assumed. What a switch costs one way and the other cannot be
told apart from the blocks around it, and need not be: every path through a network that begins and ends
alike pays both the same. `switch_ms` is their mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from hwnas.errors import InputError
from hwnas.search.solve.path import Edge, best_path

FLOAT, INT8 = 0, 1


@dataclass(frozen=True)
class PrecisionCosts:
    """What int8 changes, block by block.

    Attributes:
        gain_ms: by block, what it takes less in int8 than in float (negative where it takes more).
        switch_ms: by border, from the first to the last, what a change of precision there costs.
    """

    gain_ms: tuple[float, ...]
    switch_ms: tuple[float, ...]

    def of(self, int8: Sequence[bool]) -> float:
        """Milliseconds that a mix takes less than the float network."""
        switches = [ms for ms, a, b in zip(self.switch_ms, int8, int8[1:]) if a != b]
        return sum(gain for gain, chosen in zip(self.gain_ms, int8) if chosen) - sum(switches)


def costs(
    float_ms: float, int8_ms: float, heads_ms: Sequence[float], tails_ms: Sequence[float]
) -> PrecisionCosts:
    """Costs by block from times of whole networks.

    With `border` blocks before it and the rest behind, int8 before and float behind takes
    ``float_ms - gains before + switch``, the other way round ``float_ms - gains behind + switch``: their
    sum gives the switch, their difference the gains, without errors that add up from block to block.

    Args:
        float_ms, int8_ms: the network in float, in int8.
        heads_ms: by border, the blocks before it in int8 and the rest in float.
        tails_ms: by border, the blocks behind it in int8 and the rest in float.
    """
    if len(heads_ms) != len(tails_ms):
        raise InputError(f"{len(heads_ms)} times of heads and {len(tails_ms)} of tails; need one a border")
    total_ms = float_ms - int8_ms
    before = [0.0, *((total_ms + tail - head) / 2 for head, tail in zip(heads_ms, tails_ms)), total_ms]
    return PrecisionCosts(
        gain_ms=tuple(after - already for already, after in pairwise(before)),
        switch_ms=tuple(
            max((head + tail - float_ms - int8_ms) / 2, 0.0) for head, tail in zip(heads_ms, tails_ms)
        ),
    )


def fastest(found: PrecisionCosts, losses: Sequence[float], allowed: float) -> tuple[bool, ...]:
    """Whether each block is in int8 in the fastest mix whose losses add up to at most `allowed`.

    Args:
        found: costs.
        losses: by block, what it loses in int8; at least 0.
        allowed: largest sum of losses; 0 or more, so that all in float is always a mix.
    """
    blocks = len(found.gain_ms)
    if blocks == 0 or len(losses) != blocks or len(found.switch_ms) != blocks - 1:
        raise InputError(
            f"{blocks} blocks have {len(losses)} losses and {len(found.switch_ms)} borders; need one loss a "
            "block and one border less"
        )
    edges: list[Edge] = []
    # Node 1 + 2 * block + precision: the block was computed in that precision.
    for block in range(blocks):
        for now in (FLOAT, INT8):
            loss = losses[block] if now == INT8 else 0.0
            gain_ms = found.gain_ms[block] if now == INT8 else 0.0
            head = 1 + 2 * block + now
            if block == 0:
                edges.append(Edge(0, head, loss, gain_ms))
                continue
            for before in (FLOAT, INT8):
                switch_ms = found.switch_ms[block - 1] if before != now else 0.0
                edges.append(Edge(1 + 2 * (block - 1) + before, head, loss, gain_ms - switch_ms))
    sink = 1 + 2 * blocks
    edges += [Edge(sink - 2 + now, sink, 0.0, 0.0) for now in (FLOAT, INT8)]
    path = best_path(edges, 0, sink, allowed).edges
    return tuple((edges[edge].head - 1) % 2 == INT8 for edge in path[:-1])
