"""From relaxed choices to a network: the most probable one, and the best one within a budget.

Deriving as published (DenseNAS, section 3.4): the most probable path by Viterbi, the most probable
operator of each of its layers, skips removed. That network is under no budget. `within` asks the
question a user has, exactly: of all paths and operators, which has the largest log-probability (or
any other additive score) among those that cost at most the budget.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import exp

from hwnas.cost.chained import MixedCosts, RoutingGraph, probability_within
from hwnas.cost.dense import Costs
from hwnas.errors import InputError
from hwnas.nets.densenas.graph import CandidateOp, DenseSpace
from hwnas.nets.densenas.layers import layer_places
from hwnas.search.solve.path import Edge, best_path
from hwnas.spec import NetworkSpec


@dataclass(frozen=True)
class Scores:
    """Additive scores of choices.

    Attributes:
        edges: of each edge, in the order of `DenseSpace.edges` (log path probabilities).
        layers: of each operator of each mixed layer, in the order of `layer_places`.
    """

    edges: tuple[float, ...]
    layers: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Trust:
    """How reliable learned scores of edges and of operators are: 0 not at all, 1 as they are."""

    edges: float = 1.0
    operators: float = 1.0


@dataclass(frozen=True)
class Derived:
    """A fixed choice: the path, the operator of each head and stack layer on it, cost and score."""

    path: tuple[int, ...]
    heads: tuple[CandidateOp, ...]
    stacks: tuple[tuple[CandidateOp, ...], ...]
    cost: float
    score: float

    def network(self, space: DenseSpace, name: str = "") -> NetworkSpec:
        """The network, skips removed."""
        return space.network(self.path, self.heads, self.stacks, name)


def most_probable(space: DenseSpace, scores: Scores, costs: Costs) -> Derived:
    """The published derivation: Viterbi over edge scores alone, then the best operator of each layer."""
    # Step 1: Viterbi from the sink backwards over edge scores (DenseNAS, section 3.4).
    value = {space.sink: 0.0}
    follow: dict[int, int] = {}
    by_edge = dict(zip(space.edges, scores.edges, strict=True))
    for i in range(space.sink - 1, -1, -1):
        follow[i] = max(space.out_edges[i], key=lambda j: by_edge[i, j] + value[j])
        value[i] = by_edge[i, follow[i]] + value[follow[i]]
    path = [0]
    while path[-1] != space.sink:
        path.append(follow[path[-1]])
    # Step 2: the most probable operator of each layer on that path.
    steps = set(pairwise(path))
    graph = _ChoiceGraph(space, scores, costs)
    chosen = []
    for group in graph.groups:
        if group.edge in steps or (group.edge is None and group.block in path):
            chosen.append(max(group.edges, key=lambda n: graph.edges[n].score))
    return graph.derived(chosen)


def within(space: DenseSpace, scores: Scores, costs: Costs, budget: float) -> Derived:
    """The choice of highest total score whose cost is at most `budget` (same unit as `costs`).

    Raises:
        BudgetInfeasible: the cheapest network of the space costs more.
    """
    graph = _ChoiceGraph(space, scores, costs)
    # Room for rounding in sums of some tens of terms: never above the budget.
    slack = 1e-12 * max(budget, 1.0)
    # Path and operators together: one exact shortest-path problem under the budget.
    found = best_path(graph.edges, 0, graph.sink, budget - costs.fixed - slack)
    return graph.derived(found.edges)


def drawn_within(space: DenseSpace, scores: Scores, costs: Costs, budget: float) -> float:
    """P(cost <= budget) of a network drawn by its scores, which are log-probabilities of its choices."""
    blocks: list[list[MixedCosts]] = [[] for _ in space.routing]
    heads: dict[tuple[int, int], MixedCosts] = {
        (i, space.sink): ((1.0,), (cost,))
        for i, cost in zip(space.in_edges[space.sink], costs.sink, strict=True)
    }
    for place, score, cost in zip(layer_places(space), scores.layers, costs.layers, strict=True):
        layer = ([exp(s) for s in score], cost)
        if place.edge is not None:
            heads[place.edge] = layer
        else:
            blocks[place.block].append(layer)
    return probability_within(
        RoutingGraph(len(space.routing), space.edges),
        [exp(s) for s in scores.edges],
        [heads[edge] for edge in space.edges],
        blocks,
        budget - costs.fixed,
    )


@dataclass(frozen=True)
class _LayerEdges:
    """The parallel edges of one layer: a head's edge, or a stack layer of a block."""

    block: int
    edge: tuple[int, int] | None
    edges: range


class _ChoiceGraph:
    """Path, heads and stacks as one graph: block j's input node, then a node per stack layer."""

    def __init__(self, space: DenseSpace, scores: Scores, costs: Costs) -> None:
        self.space, self.costs = space, costs
        places = layer_places(space)
        if not len(places) == len(scores.layers) == len(costs.layers):
            raise InputError(
                f"{space.name} has {len(places)} layers; scores name {len(scores.layers)}, "
                f"costs {len(costs.layers)}"
            )
        first, node = [], 0
        for block in space.routing:
            first.append(node)
            node += 1 + block.stack
        self.sink = first[space.sink]
        last = [f + b.stack for f, b in zip(first, space.routing, strict=True)]
        by_edge = dict(zip(space.edges, scores.edges, strict=True))
        self.edges: list[Edge] = []
        self.operators: list[CandidateOp | None] = []
        self.groups: list[_LayerEdges] = []
        for place, score, cost in zip(places, scores.layers, costs.layers, strict=True):
            if place.edge is not None:
                i, j = place.edge
                self._add(
                    place.block, place.edge, last[i], first[j], place.operators, score, cost, by_edge[i, j]
                )
            else:
                at = first[place.block] + int(place.slot or 0)
                self._add(place.block, None, at, at + 1, place.operators, score, cost, 0.0)
        for i, cost_ms in zip(space.in_edges[space.sink], costs.sink, strict=True):
            edge = (i, space.sink)
            self._add(space.sink, edge, last[i], self.sink, (None,), (0.0,), (cost_ms,), by_edge[edge])

    def _add(
        self,
        block: int,
        edge: tuple[int, int] | None,
        tail: int,
        head: int,
        operators: Sequence[CandidateOp | None],
        scores: Sequence[float],
        costs: Sequence[float],
        bonus: float,
    ) -> None:
        start = len(self.edges)
        for operator, score, cost in zip(operators, scores, costs, strict=True):
            self.edges.append(Edge(tail, head, cost, score + bonus))
            self.operators.append(operator)
        self.groups.append(_LayerEdges(block, edge, range(start, len(self.edges))))

    def derived(self, chosen: Sequence[int]) -> Derived:
        """The choice that a set of edges stands for."""
        group_of = {n: group for group in self.groups for n in group.edges}
        ordered = sorted(chosen, key=lambda n: self.edges[n].tail)
        path, heads, stacks = [0], list[CandidateOp](), list[list[CandidateOp]]()
        for n in ordered:
            group, operator = group_of[n], self.operators[n]
            if group.edge is not None:
                path.append(group.block)
                heads.append(operator or self.space.head_ops[0])  # the sink's head has no choice
                stacks.append([])
            elif operator is not None and stacks:
                stacks[-1].append(operator)
        return Derived(
            path=tuple(path),
            heads=tuple(heads),
            stacks=tuple(tuple(s) for s in stacks),
            cost=self.costs.fixed + sum(self.edges[n].cost for n in ordered),
            score=sum(self.edges[n].score for n in ordered),
        )
