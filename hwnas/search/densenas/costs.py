"""What a dense space's choices cost, and what they are worth before anything was trained.

A search sees latency only as `SearchContext.estimate` of whole networks: posterior block times, a
constant, slots that a published list prices even when skipped, the factor of a percentile. All of
that is a sum over the layers of a path, so the price of every choice follows exactly from networks
that differ in that one choice.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from hwnas.cost.dense import Costs
from hwnas.nets.densenas.graph import SKIP, CandidateOp, DenseSpace
from hwnas.nets.densenas.layers import LayerPlace, candidates, layer_places
from hwnas.search.densenas.derive import Scores, Trust
from hwnas.search.solve.entropy import block_entropy
from hwnas.spec import NetworkSpec

Path = tuple[int, ...]


def costs(space: DenseSpace, price: Callable[[NetworkSpec], float]) -> Costs:
    """Costs of all choices, such that a network's sum equals `price` of it.

    With A(i) any path from the source to i and B(i) any path from i to the sink, the price of the
    path A(i), edge, B(j) less that of A(i), B(i) is the edge's cost up to a potential of its ends;
    potentials cancel along every path. They are chosen here so that no cost is negative.

    Args:
        space: the dense space.
        price: additive over the layers of a network (predicted ms, MACs, parameters).
    """
    return _Pricing(space, price).costs()


class _Pricing:
    """Networks that differ in one choice, each priced once."""

    def __init__(self, space: DenseSpace, price: Callable[[NetworkSpec], float]) -> None:
        self.space, self.price = space, price
        self.known: dict[object, float] = {}
        self.before: list[Path] = [(0,)]
        for j in range(1, space.sink + 1):
            self.before.append((*self.before[space.in_edges[j][0]], j))
        self.after: list[Path] = [(space.sink,)] * (space.sink + 1)
        for i in range(space.sink - 1, -1, -1):
            self.after[i] = (i, *self.after[space.out_edges[i][0]])

    def path_price(
        self, path: Path, block: int = -1, head: CandidateOp | None = None, stack: CandidateOp = SKIP
    ) -> float:
        """Price of a path with the first operators and no stacks, but for one head and one stack layer."""
        key = (path, block, head, stack)
        if key not in self.known:
            usual = self.space.head_ops[0]
            heads = [head if j == block and head else usual for j in path[1:]]
            stacks = [[stack] if j == block and stack != SKIP else [] for j in path[1:]]
            self.known[key] = self.price(self.space.network(path, heads, stacks))
        return self.known[key]

    def edge(self, i: int, j: int, op: CandidateOp | None) -> float:
        """Cost of an edge with an operator, up to potentials."""
        changed = self.path_price((*self.before[i], *self.after[j]), j, op)
        return changed - self.path_price((*self.before[i], *self.after[i][1:]))

    def layer(self, place: LayerPlace) -> list[float]:
        """Costs of a layer's operators, those of an edge up to potentials."""
        if place.edge is not None:
            return [self.edge(*place.edge, op) for op in place.operators]
        path = (*self.before[place.block], *self.after[place.block][1:])
        bare = self.path_price(path)
        # A table may price a skip above the cheapest operator only by noise; costs are not negative.
        return [max(self.path_price(path, place.block, None, op) - bare, 0.0) for op in place.operators]

    def costs(self) -> Costs:
        places = layer_places(self.space)
        rows = [self.layer(place) for place in places]
        sink = self.space.sink
        tails = {i: self.edge(i, sink, None) for i in self.space.in_edges[sink]}
        cheapest = {p.edge: min(row) for p, row in zip(places, rows) if p.edge is not None}
        cheapest |= {(i, sink): cost for i, cost in tails.items()}
        far = [0.0] * (sink + 1)
        for j in range(1, sink + 1):
            far[j] = min(far[i] + cheapest[i, j] for i in self.space.in_edges[j])

        def shifted(row: list[float], edge: tuple[int, int]) -> tuple[float, ...]:
            return tuple(max(cost + far[edge[0]] - far[edge[1]], 0.0) for cost in row)

        return Costs(
            fixed=self.path_price(self.after[0]) + far[sink],
            layers=tuple(
                tuple(row) if place.edge is None else shifted(row, place.edge)
                for place, row in zip(places, rows, strict=True)
            ),
            sink=tuple(shifted([tails[i]], (i, sink))[0] for i in self.space.in_edges[sink]),
        )


def entropies(space: DenseSpace) -> Scores:
    """The untrained score of all choices (`hwnas.search.solve.entropy`), in nats; a skip is worth nothing."""
    sink = space.sink
    tail = space.head_ops[0]
    worth = {
        (i, sink): block_entropy(space.head_block(i, sink, tail)) if space.tail_in_network else 0.0
        for i in space.in_edges[sink]
    }
    return Scores(
        edges=tuple(worth.get(edge, 0.0) for edge in space.edges),
        layers=tuple(
            tuple(0.0 if block is None else block_entropy(block) for block in candidates(space, place))
            for place in layer_places(space)
        ),
    )


def gains(space: DenseSpace, learned: Scores, trust: Trust) -> Scores:
    """How much more probable than by chance each choice is, in nats, weighted by how reliable it is.

    Log-probabilities add up over layers to less and less, whatever was learned, so that they favour
    short paths. A gain, log p - log 1/n among n candidates, is zero where nothing was learned.

    Args:
        space: the dense space.
        learned: log-probabilities.
        trust: factors of the gains of edges and of operators.
    """
    edges = (v + math.log(len(space.out_edges[i])) for (i, _), v in zip(space.edges, learned.edges))
    return Scores(
        edges=tuple(trust.edges * v for v in edges),
        layers=tuple(
            tuple(trust.operators * (v + math.log(len(row))) for v in row) for row in learned.layers
        ),
    )


def mixed(scores: Scores, prior: Scores, weight: float) -> Scores:
    """Scores plus `weight` times a prior."""
    return Scores(
        edges=tuple(a + weight * b for a, b in zip(scores.edges, prior.edges, strict=True)),
        layers=tuple(
            tuple(a + weight * b for a, b in zip(row, other, strict=True))
            for row, other in zip(scores.layers, prior.layers, strict=True)
        ),
    )
