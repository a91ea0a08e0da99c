"""Chained cost estimation: the latency of a distribution over networks, exactly.

DenseNAS (Fang et al. 2020, section 3.3) prices a super-network of routing blocks by walking from
the last block to the first::

    c_N = 0,    c_i = s_i + sum_j p_ij (h_ij + c_j)

where s_i is the expected cost of block i's own layers, h_ij that of the head which aligns block i's
output with block j, and p_ij the probability of going on from i to j. c_0 is then exactly the
expectation of the path cost. (A survey prints the recursion with the *local* cost of block j on the
right; that one-step form is not the expectation.) The same walk over distributions instead of means
gives P(T <= budget), which DenseNAS leaves out: how many of the networks that are drawn keep a budget.

`expected` uses only ``+``, ``*`` and indexing of its arguments, so that numpy arrays (also with trailing
batch axes) and torch tensors go through the same lines: with tensors that require gradients the result
is differentiable in probabilities and costs alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from hwnas.arrays import Float64s
from hwnas.errors import InputError

# The weights of a layer's operators, and their costs in ms.
MixedCosts = tuple[Sequence[float], Sequence[float]]


@dataclass(frozen=True)
class RoutingGraph:
    """A directed acyclic graph of routing blocks, numbered so that every edge points upwards.

    Attributes:
        blocks: number of blocks; 0 is the source, ``blocks - 1`` the sink.
        edges: pairs (i, j) with i < j; their order is the order of every per-edge argument below.

    Raises:
        InputError: an edge points backwards, is repeated, or a block leads nowhere.
    """

    blocks: int
    edges: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        for i, j in self.edges:
            if not 0 <= i < j < self.blocks:
                raise InputError(f"edge ({i}, {j}) must point from a block to a later one of {self.blocks}")
        if len(set(self.edges)) < len(self.edges):
            raise InputError("an edge is listed twice")
        stuck = [i for i in range(self.blocks - 1) if not self.leaving[i]]
        if stuck:
            raise InputError(f"blocks {stuck} have no outgoing edge, so no path leads from them to the sink")

    @cached_property
    def leaving(self) -> tuple[tuple[tuple[int, int], ...], ...]:
        """For each block its outgoing edges as (edge number, target)."""
        out: list[list[tuple[int, int]]] = [[] for _ in range(self.blocks)]
        for number, (i, j) in enumerate(self.edges):
            out[i].append((number, j))
        return tuple(tuple(edges) for edges in out)


def expected(graph: RoutingGraph, p: Any, heads: Any, blocks: Any) -> Any:
    """Expected path cost in ms: the recursion of the module's text.

    Args:
        graph: the routing graph.
        p: (edges, ...) probability of each edge, summing to one over a block's outgoing edges.
        heads: (edges, ...) expected cost of each edge's head, ms.
        blocks: (blocks, ...) expected cost of each block's own layers, ms; the sink's counts too.

    Returns:
        The cost, of the trailing shape (a scalar without one), of the same library as the inputs.
    """
    cost: list[Any] = [None] * graph.blocks
    cost[-1] = blocks[graph.blocks - 1]
    for i in range(graph.blocks - 2, -1, -1):
        total = blocks[i]
        for e, j in graph.leaving[i]:
            total = total + p[e] * (heads[e] + cost[j])
        cost[i] = total
    return cost[0]


def probability_within(
    graph: RoutingGraph,
    p: Sequence[float],
    heads: Sequence[MixedCosts],
    blocks: Sequence[Sequence[MixedCosts]],
    budget_ms: float,
    *,
    points: int = 2000,
) -> float:
    """P(T <= budget) of a network drawn by the probabilities of paths and operators.

    Costs are spread over the two neighbouring points of a grid of ``budget / points``, which keeps every
    mean. The result is exact where all costs lie on the grid; elsewhere a layer may move a network by
    less than one step, so only networks that near the budget can count on its wrong side.

    Args:
        graph: the routing graph.
        p: (edges,) probabilities, summing to one over a block's outgoing edges.
        heads: for each edge the weights of its operators and their costs in ms, at least zero.
        blocks: for each block the same of each of its layers; layers are independent given the path.
        budget_ms: a budget of zero or less is never kept.
        points: grid steps up to the budget.
    """
    if budget_ms <= 0:
        return 0.0
    step = budget_ms / points
    # What is over the budget stays over it, so the grid ends there and the rest is dropped.
    nothing = np.zeros(points + 1)
    nothing[0] = 1.0
    # From the sink backwards: mix the successors by edge probability, then add the own layers.
    onwards = [nothing] * graph.blocks
    for i in range(graph.blocks - 1, -1, -1):
        total = onwards[i]
        if graph.leaving[i]:
            total = np.sum([p[e] * _after(heads[e], onwards[j], step) for e, j in graph.leaving[i]], axis=0)
        for layer in blocks[i]:
            total = _after(layer, total, step)
        onwards[i] = total
    return float(onwards[0].sum())


def _after(layer: MixedCosts, onwards: Float64s, step: float) -> Float64s:
    """Distribution on the grid of a layer's cost plus what comes after it."""
    out = np.zeros_like(onwards)
    for weight, cost in zip(*layer, strict=True):
        low = int(cost / step + 1e-9)  # a cost on the grid but for rounding stays there
        share = max(cost / step - low, 0.0)
        for shift, part in ((low, 1.0 - share), (low + 1, share)):
            if shift < len(out):
                out[shift:] += weight * part * onwards[: len(out) - shift]
    return out
