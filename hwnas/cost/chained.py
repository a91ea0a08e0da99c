"""Chained cost estimation: the latency of a distribution over networks, exactly.

DenseNAS (Fang et al. 2020, section 3.3) prices a super-network of routing blocks by walking from
the last block to the first::

    c_N = 0,    c_i = s_i + sum_j p_ij (h_ij + c_j)

where s_i is the expected cost of block i's own layers, h_ij that of the head which aligns block i's
output with block j, and p_ij the probability of going on from i to j. c_0 is then exactly the
expectation of the path cost. (A survey prints the recursion with the *local* cost of block j on the
right; that one-step form is not the expectation.) This module adds the variance and the whole law,
hence P(T <= budget), which DenseNAS leaves out.

`expected` and `moments` use only ``+``, ``-``, ``*`` and indexing of their arguments, so that numpy
arrays (also with trailing batch axes) and torch tensors go through the same lines: with tensors that
require gradients the results are differentiable in probabilities and costs alike. The law over atoms
is numpy only; `hwnas.cost.chained_torch` has its smooth counterpart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwnas.arrays import Float64s
from hwnas.errors import InputError


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

    def paths(self) -> list[tuple[int, ...]]:
        """Every path from source to sink as edge numbers; their number may be exponential."""
        tails: dict[int, list[tuple[int, ...]]] = {self.blocks - 1: [()]}
        for i in range(self.blocks - 2, -1, -1):
            tails[i] = [(e, *tail) for e, j in self.leaving[i] for tail in tails[j]]
        return tails[0]


def softmax_over_edges(graph: RoutingGraph, logits: Float64s) -> Float64s:
    """Path probabilities (edges,): a softmax over each block's outgoing edges."""
    p = np.empty(len(graph.edges))
    for edges in graph.leaving:
        at = [e for e, _ in edges]
        if at:
            shifted = np.exp(logits[at] - logits[at].max())
            p[at] = shifted / shifted.sum()
    return p


def mixture(weights: Any, costs: Any) -> tuple[Any, Any]:
    """Mean and variance of one layer that holds operator o with probability `weights[..., o]`.

    Args:
        weights, costs: (..., operators); costs in ms.
    """
    mean = (weights * costs).sum(-1)
    spread = costs - mean[..., None]
    return mean, (weights * spread * spread).sum(-1)


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


def moments(
    graph: RoutingGraph, p: Any, heads: Any, blocks: Any, heads_var: Any, blocks_var: Any
) -> tuple[Any, Any]:
    """Mean (ms) and variance (ms^2) of the path cost over paths and operators.

    The law of total variance, block by block: what is left of the variance after the choice of an
    edge, plus the variance of that choice. Taking second moments and subtracting (latency.md 4e)
    gives the same but loses digits where the variance is small.

    Args:
        graph, p, heads, blocks: as for `expected`.
        heads_var: (edges, ...) variance of each head's cost over its operators, ms^2.
        blocks_var: (blocks, ...) variance of each block's own layers, ms^2.
    """
    mean: list[Any] = [None] * graph.blocks
    var: list[Any] = [None] * graph.blocks
    mean[-1], var[-1] = blocks[graph.blocks - 1], blocks_var[graph.blocks - 1]
    for i in range(graph.blocks - 2, -1, -1):
        onwards = sum(p[e] * (heads[e] + mean[j]) for e, j in graph.leaving[i])
        total = blocks_var[i]
        for e, j in graph.leaving[i]:
            step = heads[e] + mean[j] - onwards
            total = total + p[e] * (heads_var[e] + var[j] + step * step)
        mean[i], var[i] = blocks[i] + onwards, total
    return mean[0], var[0]


@dataclass(frozen=True)
class Law:
    """A discrete law of latency: sorted values (ms) and their probabilities.

    `exact` is False once values were rounded up to a grid to bound their number; `within` is then a
    lower bound of the true probability, never an upper one.
    """

    values_ms: Float64s
    probability: Float64s
    exact: bool = True

    @staticmethod
    def point(value_ms: float = 0.0) -> Law:
        """All mass on one value."""
        return Law(np.array([value_ms]), np.array([1.0]))

    @staticmethod
    def of(values_ms: Float64s, probability: Float64s, *, limit: int, exact: bool = True) -> Law:
        """Sort, merge equal values and, above `limit` atoms, round values up to a grid."""
        keep = probability > 0
        values, probability = values_ms[keep], probability[keep]
        if np.unique(values).size > limit:
            low, high = float(values.min()), float(values.max())
            step = (high - low) / (limit - 1)
            values, exact = low + np.ceil((values - low) / step - 1e-9) * step, False
        unique, place = np.unique(values, return_inverse=True)
        merged = np.zeros(unique.size)
        np.add.at(merged, place, probability)
        return Law(unique, merged, exact)

    def plus(self, other: Law, *, limit: int) -> Law:
        """Law of the sum of two independent latencies."""
        values = (self.values_ms[:, None] + other.values_ms[None, :]).ravel()
        weights = (self.probability[:, None] * other.probability[None, :]).ravel()
        return Law.of(values, weights, limit=limit, exact=self.exact and other.exact)

    def within(self, budget_ms: float) -> float:
        """P(T <= budget)."""
        return float(self.probability[self.values_ms <= budget_ms].sum())

    @property
    def mean_ms(self) -> float:
        """Expectation."""
        return float(self.probability @ self.values_ms)


WeightedCosts = tuple[Sequence[float], Sequence[float]]  # operator weights, operator costs in ms


def law(
    graph: RoutingGraph,
    p: Sequence[float] | Float64s,
    heads: Sequence[WeightedCosts],
    blocks: Sequence[Sequence[WeightedCosts]],
    *,
    limit: int = 100_000,
) -> Law:
    """The whole law of the path cost, by convolution from the sink backwards.

    Args:
        graph: the routing graph.
        p: (edges,) probabilities.
        heads: for each edge its operators' weights and costs in ms.
        blocks: for each block its layers, each with its operators' weights and costs; layers are
            independent given the path.
        limit: largest number of atoms kept; above it values are rounded *up* to a grid, so that
            `Law.within` never promises too much.
    """
    onwards: list[Law] = [Law.point()] * graph.blocks
    for i in range(graph.blocks - 1, -1, -1):
        total = onwards[i]
        if graph.leaving[i]:
            parts = [
                (p[e], _layer(heads[e], limit).plus(onwards[j], limit=limit)) for e, j in graph.leaving[i]
            ]
            total = Law.of(
                np.concatenate([part.values_ms for _, part in parts]),
                np.concatenate([q * part.probability for q, part in parts]),
                limit=limit,
                exact=all(part.exact for _, part in parts),
            )
        for layer in blocks[i]:
            total = total.plus(_layer(layer, limit), limit=limit)
        onwards[i] = total
    return onwards[0]


def _layer(layer: WeightedCosts, limit: int) -> Law:
    weights, costs = layer
    return Law.of(np.asarray(costs, dtype=float), np.asarray(weights, dtype=float), limit=limit)


def price(index: NDArray[np.integer[Any]], costs_ms: Float64s, *, chunk: int = 8192) -> Float64s:
    """Latency of many fixed networks at once: the special case where every probability is 0 or 1.

    Args:
        index: (networks, slots) positions in `costs_ms`; an empty slot points at an entry that costs
            nothing (by habit the last one).
        costs_ms: (entries,) cost of each block, ms.
        chunk: networks priced at a time; a few thousand keep the gathered costs in cache.

    Returns:
        (networks,) latency in ms. More than a million networks a second on one core
        (``python -m benchmarks.pricing``).
    """
    out = np.empty(len(index))
    for at in range(0, len(index), chunk):
        part = index[at : at + chunk]
        out[at : at + chunk] = np.take(costs_ms, part).sum(axis=1)
    return out
