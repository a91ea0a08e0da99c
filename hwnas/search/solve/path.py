"""The best path through a graph of choices that keeps a budget, exactly.

Searches over block lists, dense graphs and operator choices all end in the same question: of all
paths from source to sink, which has the highest sum of scores at a sum of costs within the budget
(a resource-constrained shortest path; choices at one place are parallel edges). The answer here is
the optimum, not a relaxation: labels (cost, score) are extended node by node, dominated ones are
dropped, and those that no completion can bring above the best path found so far are cut by
Lagrangian bounds (Handler and Zang 1980). That makes 10^45 networks a matter of a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hwnas.arrays import Bools, Float64s, Int64s
from hwnas.errors import BudgetInfeasible, InputError

MULTIPLIERS = 30  # Lagrange multipliers tried by bisection; the bounds are flat around the best
BOUNDS = 16  # of them kept for pruning, nearest the best
MAX_LABELS = 2_000_000  # per node; beyond it the answer would need more memory than it is worth


@dataclass(frozen=True)
class Edge:
    """A choice: from node `tail` to the later node `head`, at a cost, for a score."""

    tail: int
    head: int
    cost: float
    score: float


@dataclass(frozen=True)
class Solution:
    """Edges of the best path (indices into the given list), its cost and score."""

    edges: tuple[int, ...]
    cost: float
    score: float


def best_path(edges: Sequence[Edge], source: int, sink: int, budget: float) -> Solution:
    """The path of highest score among those whose cost is at most `budget`.

    Args:
        edges: nodes are numbered so that every edge leads to a higher number; costs are not
            negative; parallel edges are choices.
        source, sink: where paths begin and end.
        budget: largest sum of costs.

    Raises:
        BudgetInfeasible: even the cheapest path costs more (`smallest_ms` holds its cost).
        InputError: an edge leads backwards, a cost is negative or not a number, or no path exists.
    """
    # Step 1: the cheapest path from every node; without one within the budget there is no solution.
    graph = _PathGraph(edges, source, sink)
    cheapest = graph.value(graph.cost, largest=False)
    if not np.isfinite(cheapest[source]):
        raise InputError(f"no path leads from {source} to {sink}")
    if cheapest[source] > budget:
        raise BudgetInfeasible(
            f"the cheapest path costs {cheapest[source]:.6g}, more than the budget {budget:.6g}",
            smallest_ms=float(cheapest[source]),
        )
    # Step 2: a feasible path and upper bounds, by Lagrangian relaxation of the budget.
    incumbent, bounds = graph.lagrangian(budget)
    # Step 3: the optimum, by labels that those bounds do not exclude.
    return graph.labels(budget, cheapest, incumbent, bounds)


@dataclass
class _Labels:
    """Partial paths that end at one node: columns of one table."""

    cost: Float64s
    score: Float64s
    edge: Int64s
    before: Int64s  # row in the labels of the edge's tail

    def take(self, rows: Int64s | Bools) -> _Labels:
        return _Labels(self.cost[rows], self.score[rows], self.edge[rows], self.before[rows])


class _PathGraph:
    def __init__(self, edges: Sequence[Edge], source: int, sink: int) -> None:
        self.source, self.sink = source, sink
        self.tail = np.array([e.tail for e in edges], dtype=np.int64)
        self.head = np.array([e.head for e in edges], dtype=np.int64)
        self.cost = np.array([e.cost for e in edges], dtype=np.float64)
        self.score = np.array([e.score for e in edges], dtype=np.float64)
        if len(edges) and not np.all(self.tail < self.head):
            raise InputError("every edge must lead to a node of a higher number")
        if not (np.all(self.cost >= 0) and np.all(np.isfinite(self.score))):
            raise InputError("costs must be numbers of at least zero, and scores finite")
        self.nodes = max(int(self.head.max(initial=0)), sink) + 1
        self.out = [np.flatnonzero(self.tail == n) for n in range(self.nodes)]
        self.into = [np.flatnonzero(self.head == n) for n in range(self.nodes)]

    def value(self, weight: Float64s, *, largest: bool) -> Float64s:
        """Best sum of weights from every node to the sink (infinite where no path leads there)."""
        nowhere = -np.inf if largest else np.inf
        value = np.full(self.nodes, nowhere)
        value[self.sink] = 0.0
        for node in range(self.nodes - 1, -1, -1):
            rows = self.out[node]
            if node != self.sink and rows.size:
                ahead = weight[rows] + value[self.head[rows]]
                value[node] = ahead.max() if largest else ahead.min()
        return value

    def _follow(self, weight: Float64s, value: Float64s) -> list[int]:
        """Edges of the path that `value` is the value of."""
        path, node = [], self.source
        while node != self.sink:
            rows = self.out[node]
            best = rows[np.argmax(weight[rows] + value[self.head[rows]])]
            path.append(int(best))
            node = int(self.head[best])
        return path

    def lagrangian(self, budget: float) -> tuple[Solution, list[tuple[float, Float64s]]]:
        """The best feasible path of the relaxation score - m * cost, and value functions for bounds."""
        tried: list[tuple[float, float, Float64s]] = []  # dual bound, multiplier, values
        best: Solution | None = None

        def attempt(multiplier: float) -> float:
            nonlocal best
            weight = self.score - multiplier * self.cost
            value = self.value(weight, largest=True)
            path = self._follow(weight, value)
            cost, score = float(self.cost[path].sum()), float(self.score[path].sum())
            tried.append((float(value[self.source]) + multiplier * budget, multiplier, value))
            if cost <= budget and (best is None or score > best.score):
                best = Solution(tuple(path), cost, score)
            return cost

        # Bisection over the multiplier: the smallest one whose path is within the budget.
        low, high = 0.0, 1.0
        if attempt(low) > budget:
            while attempt(high) > budget and high < 1e30:
                low, high = high, high * 8.0
            for _ in range(MULTIPLIERS):
                middle = 0.5 * (low + high)
                low, high = (middle, high) if attempt(middle) > budget else (low, middle)
        if best is None:  # the multiplier met its limit among ties of cost: the cheapest path is feasible
            path = self._follow(-self.cost, self.value(-self.cost, largest=True))
            best = Solution(tuple(path), float(self.cost[path].sum()), float(self.score[path].sum()))
        tried.sort(key=lambda item: item[0])
        return best, [(multiplier, value) for _, multiplier, value in tried[:BOUNDS]]

    def labels(
        self, budget: float, cheapest: Float64s, incumbent: Solution, bounds: list[tuple[float, Float64s]]
    ) -> Solution:
        """Extend all partial paths that can still win; the incumbent stays unless one beats it."""
        zero, none = np.zeros(1), np.full(1, -1, dtype=np.int64)
        table: list[_Labels | None] = [None] * self.nodes
        table[self.source] = _Labels(zero, zero, none, none)
        for node in range(self.source + 1, self.sink + 1):
            parts = [part for edge in self.into[node] if (part := self._extend(table, int(edge))) is not None]
            if not parts:
                continue
            merged = _Labels(*(np.concatenate(column) for column in zip(*map(_columns, parts))))
            # Drop what cannot be completed within the budget, then what cannot beat the incumbent.
            useful = merged.cost + cheapest[node] <= budget
            for multiplier, value in bounds:
                ceiling = merged.score + value[node] + multiplier * (budget - merged.cost)
                useful &= ceiling > incumbent.score
            table[node] = _undominated(merged.take(useful))
            if len(merged.cost) > MAX_LABELS:
                raise InputError(f"more than {MAX_LABELS} partial paths remain; round the costs or scores")
        return self._trace(table, incumbent)

    def _extend(self, table: list[_Labels | None], edge: int) -> _Labels | None:
        start = table[self.tail[edge]]
        if start is None or not start.cost.size:
            return None
        n = start.cost.size
        return _Labels(
            start.cost + self.cost[edge],
            start.score + self.score[edge],
            np.full(n, edge, dtype=np.int64),
            np.arange(n, dtype=np.int64),
        )

    def _trace(self, table: list[_Labels | None], incumbent: Solution) -> Solution:
        end = table[self.sink]
        if end is None or not end.cost.size:
            return incumbent
        row = int(np.argmax(end.score))
        cost, score = float(end.cost[row]), float(end.score[row])
        path: list[int] = []
        node = self.sink
        while node != self.source:
            labels = table[node]
            assert labels is not None
            edge = int(labels.edge[row])
            path.append(edge)
            row, node = int(labels.before[row]), int(self.tail[edge])
        return Solution(tuple(reversed(path)), cost, score)


def _columns(labels: _Labels) -> tuple[Float64s, Float64s, Int64s, Int64s]:
    return labels.cost, labels.score, labels.edge, labels.before


def _undominated(labels: _Labels) -> _Labels:
    """Drop labels that another one beats or equals in both cost and score."""
    order = np.lexsort((-labels.score, labels.cost))
    labels = labels.take(order)
    best_before = np.concatenate([[-np.inf], np.maximum.accumulate(labels.score)[:-1]])
    return labels.take(labels.score > best_before)
