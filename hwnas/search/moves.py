"""Growths of several steps, and what further steps bring."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from math import log2

from hwnas.estimates import Estimate
from hwnas.protocols import Move, SearchSpace
from hwnas.spec import NetworkSpec

Moves = Callable[[NetworkSpec], Sequence[Move]]  # the growths of a network that are to be judged

MEMO = 4096  # networks
# A growth that is predicted to cost nothing would be infinitely good: this part of the network's
# latency is the least that any is taken to cost.
LEAST_COST = 1e-3


def cost_of(before: Estimate, after: Estimate) -> float:
    """Milliseconds that a growth costs; a small part of the network's latency where none are predicted."""
    return max(after.latency_ms - before.latency_ms, before.latency_ms * LEAST_COST)


def remembered(grow: Callable[[NetworkSpec], list[Move]]) -> Callable[[NetworkSpec], list[Move]]:
    """The same growths, worked out once for each network: they never change, and are often asked for."""
    return lru_cache(MEMO)(grow)


def further(
    space: SearchSpace, spec: NetworkSpec, stage: int, times: int, kind: str = "deeper"
) -> NetworkSpec:
    """The network with a growth made so many times, or as often as the space allows."""
    for _ in range(times):
        moves = (m.spec for m in space.grow(spec) if (m.stage, m.kind) == (stage, kind))
        spec = next(moves, spec)
    return spec


def returns(before: NetworkSpec, after: NetworkSpec, stage: int, kind: str, steps: int) -> float:
    """What a growth brings, in units that compare between its steps and between stages.

    Errors fall as powers of depth and of width, so that what a stage gains by growing goes with the
    logarithm of the factor by which either grows: doublings. Other kinds of growth have few steps, and
    count these.
    """
    old, new = before.stages[stage], after.stages[stage]
    if kind == "deeper":
        return log2(len(new) / len(old))
    return log2(new[-1].c_out / old[-1].c_out) if kind == "wider" else float(steps)


def first_order(before: NetworkSpec, after: NetworkSpec, stage: int, kind: str, steps: int) -> float:
    """What first order counts for the same growth: as many times what its first part brings.

    Every block as the second of a stage, every channel as those of the first doubling.
    """
    old, new = before.stages[stage][-1].c_out, after.stages[stage][-1].c_out
    return new / old - 1 if kind == "wider" else float(steps)
