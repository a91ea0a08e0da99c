"""Vital blocks: those on every path from input to output (HourNAS, arXiv 2005.14446).

Add an identity edge around every block whose input and output shapes are equal; a block that
every remaining path still crosses is vital. In graph terms these are the dominators of the sink,
which covers chains and graphs with parallel branches alike. The public code marks blocks by
"stride or width changes"; on a chain that is the same set, on a graph it is not.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import TypeVar

from hwnas.errors import InputError
from hwnas.spec import NetworkSpec

Node = TypeVar("Node", bound=Hashable)


def on_every_path(edges: Mapping[Node, Iterable[Node]], source: Node, sink: Node) -> frozenset[Node]:
    """Nodes that lie on every path from `source` to `sink` of a directed acyclic graph.

    The dominators of the sink, by the data-flow equations dom(n) = {n} + intersection of dom(p)
    over predecessors p (Allen and Cocke 1972), in one pass over a topological order.

    Raises:
        InputError: the sink cannot be reached, or the graph has a cycle.
    """
    order = _topological(edges, source)
    if sink not in order:
        raise InputError(f"no path leads from {source!r} to {sink!r}")
    before: dict[Node, list[Node]] = {node: [] for node in order}
    for node in order:
        for after in edges.get(node, ()):
            before[after].append(node)
    dominators: dict[Node, frozenset[Node]] = {source: frozenset([source])}
    for node in order[1:]:
        common = frozenset.intersection(*(dominators[p] for p in before[node]))
        dominators[node] = common | {node}
    return dominators[sink]


def _topological(edges: Mapping[Node, Iterable[Node]], source: Node) -> list[Node]:
    """Nodes that `source` reaches, each after all its predecessors among them."""
    order: list[Node] = []
    state: dict[Node, int] = {source: 0}  # 0: open, 1: done
    stack = [(source, iter(edges.get(source, ())))]
    while stack:
        node, children = stack[-1]
        child = next(children, None)
        if child is None:
            state[node] = 1
            order.append(node)
            stack.pop()
        elif child not in state:
            state[child] = 0
            stack.append((child, iter(edges.get(child, ()))))
        elif state[child] == 0:
            raise InputError(f"the graph has a cycle through {child!r}")
    return order[::-1]


def vital_blocks(spec: NetworkSpec) -> tuple[str, ...]:
    """Places (as in `NetworkSpec.walk`) of the vital blocks among the stages, in order."""
    places = list(spec.walk())
    edges: dict[int, list[int]] = {}
    # Node 2i is the tensor before block i, node 2i+1 the block itself; tensors are never the answer.
    for i, (_, block) in enumerate(places):
        edges[2 * i] = [2 * i + 1, 2 * i + 2] if block.joins_identity else [2 * i + 1]
        edges[2 * i + 1] = [2 * i + 2]
    crossed = on_every_path(edges, 0, 2 * len(places))
    inner: Sequence[tuple[int, str]] = [(i, p) for i, (p, _) in enumerate(places) if p.startswith("stages.")]
    return tuple(place for i, place in inner if 2 * i + 1 in crossed)
