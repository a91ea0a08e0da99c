"""A graph in segments, cut where one tensor alone is alive, and the segments of a block together.

A tensor that alone is alive dominates the output (`hwnas.nets.hournas.vital` has the rule); on a graph in
order that is one pass. Segments of one module are one piece, so that a piece has a name that its user knows,
unless the module holds several residual blocks or many layers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx

from hwnas.nets.model.tracer import BATCH, NO_OPERATION, TRAINING_ONLY

MOST_LAYERS = 5  # with weights, in a piece without a residual sum
LOOSE_LAYERS = 3  # of layers that are in no module of their own
_ADD = frozenset(["add", "iadd", "add_"])
# Twice is once, so that a copy with an empty branch behind it changes nothing.
TWICE_IS_ONCE = frozenset(["relu", "relu_", "relu6", "ReLU", "ReLU6"])

ACTS = TWICE_IS_ONCE | {"silu", "SiLU", "gelu", "GELU", "hardswish", "Hardswish", "Hardtanh"}


@dataclass(frozen=True)
class Segment:
    """What lies between two places where one tensor alone is alive: operations in order, and their module."""

    start: fx.Node
    nodes: tuple[fx.Node, ...]
    end: fx.Node
    path: str


def segments(graph: fx.GraphModule) -> list[Segment]:
    """Cut a graph where one tensor alone is alive."""
    aside = free(graph.graph)
    nodes = [n for n in graph.graph.nodes if n not in aside and n.op != "output"]
    order = {node: at for at, node in enumerate(nodes)}
    last = {n: max([order[u] for u in n.users if u in order] + [_at_output(n, len(nodes))]) for n in nodes}
    found: list[Segment] = []
    alive: set[fx.Node] = set()
    start, run_ = nodes[0], []
    for at, node in enumerate(nodes):
        alive = {n for n in alive if last[n] > at}
        if last[node] > at:
            alive.add(node)
        if at == 0:
            continue
        run_.append(node)
        if alive == {node} and node.meta.get("shape", ())[:1] == (BATCH,):
            found.append(Segment(start, tuple(run_), node, common_path(run_)))
            start, run_ = node, []
    return found


def _at_output(node: fx.Node, end: int) -> int:
    return end if any(u.op == "output" for u in node.users) else -1


def free(graph: fx.Graph) -> frozenset[fx.Node]:
    """Operations that any piece can repeat: parameters, what is computed of them alone, the batch size."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        size = node.op == "call_method" and node.target == "size" and node.args[1:] == (0,)
        if node.op == "get_attr" or (size and node.args[0].op == "placeholder"):
            found.add(node)
        elif node.op not in ("placeholder", "output") and node.all_input_nodes:
            if all(n in found for n in node.all_input_nodes):
                found.add(node)
        elif node.op in ("call_function", "call_method") and not node.all_input_nodes:
            found.add(node)
    return frozenset(found)


def common_path(nodes: Iterable[fx.Node]) -> str:
    """The innermost module that all operations belong to; of one that calls a module, the one around it."""
    paths = [_around(node) for node in nodes]
    return ".".join(_shared(paths))


def _around(node: fx.Node) -> list[str]:
    path = str(node.meta.get("path", ""))
    parts = path.split(".") if path else []
    return parts[:-1] if node.op == "call_module" else parts


def _shared(paths: Sequence[Sequence[str]]) -> list[str]:
    first, found = paths[0], []
    for at, part in enumerate(first):
        if any(len(p) <= at or p[at] != part for p in paths):
            break
        found.append(part)
    return found


def weighted(graph: fx.GraphModule, nodes: Iterable[fx.Node]) -> int:
    """Layers on feature maps that have weights; the two of a gate on pooled values are not among them."""
    count = 0
    for node in nodes:
        shape = node.meta.get("shape", ())
        pooled = len(shape) == 4 and shape[2:] == (1, 1)
        count += bool(node.meta.get("macs", 0)) and not (pooled and _squeezed(node))
    return count


def _squeezed(node: fx.Node) -> bool:
    first = node.args[0]
    return isinstance(first, fx.Node) and tuple(first.meta.get("shape", ()))[2:] == (1, 1)


def joins_identity(graph: fx.GraphModule, start: fx.Node, end: fx.Node) -> fx.Node | None:
    """The addition of a branch to what entered, at the end but for activations; None where there is none."""
    node = end
    while operation_name(graph, node) in ACTS or does_nothing(graph, node):
        first = node.args[0]
        if not isinstance(first, fx.Node) or node is start:
            return None
        node = first
    if operation_name(graph, node) not in _ADD or len(node.args) < 2 or node.kwargs.get("alpha", 1) != 1:
        return None
    sides = [through(graph, side) for side in node.args[:2]]
    shapes = [side.meta.get("shape") for side in node.args[:2] if isinstance(side, fx.Node)]
    if sides.count(start) != 1 or len(shapes) != 2 or shapes[0] != shapes[1]:
        return None
    return node if start.meta["shape"] == end.meta["shape"] else None


def through(graph: fx.GraphModule, node: Any) -> Any:
    """Past what does nothing in eval mode."""
    while isinstance(node, fx.Node) and does_nothing(graph, node):
        node = node.args[0]
    return node


def does_nothing(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Whether an operation changes nothing outside of training."""
    if node.op == "call_module":
        module = graph.get_submodule(str(node.target))
        return isinstance(module, NO_OPERATION) or type(module).__name__ in TRAINING_ONLY
    return operation_name(graph, node) in ("contiguous", "stochastic_depth", "drop_path")


def operation_name(graph: fx.GraphModule, node: fx.Node) -> str:
    """A module's class, or the name of a function or method."""
    if node.op == "call_module":
        return type(graph.get_submodule(str(node.target))).__name__
    return str(getattr(node.target, "__name__", node.target)) if node.op.startswith("call") else node.op


def blocks(graph: fx.GraphModule) -> list[list[Segment]]:
    """Segments joined to blocks, by the user's own modules."""
    found = _split(graph, segments(graph), 0)
    # What pools for the head is a part of it.
    while len(found) > 1 and not any(weighted(graph, s.nodes) for s in found[-2]):
        found[-2:] = [found[-2] + found[-1]]
    return found


def _split(graph: fx.GraphModule, found: list[Segment], depth: int) -> list[list[Segment]]:
    """Divide the segments of one module among its children, until each part is one block."""
    runs: list[tuple[str | None, list[Segment]]] = []
    for segment in found:
        parts = segment.path.split(".") if segment.path else []
        child = parts[depth] if len(parts) > depth else None
        if runs and runs[-1][0] == child:
            runs[-1][1].append(segment)
        else:
            runs.append((child, [segment]))
    out: list[list[Segment]] = []
    for child, run_ in runs:
        if child is None:
            out += _loose(graph, run_)
        elif _one_block(graph, run_):
            out.append(run_)
        else:
            out += _split(graph, run_, depth + 1)
    return out


def _one_block(graph: fx.GraphModule, run_: list[Segment]) -> bool:
    residual = sum(joins_identity(graph, s.start, s.end) is not None for s in run_)
    layers = [weighted(graph, s.nodes) for s in run_]
    if residual:
        others = sum(n for s, n in zip(run_, layers) if joins_identity(graph, s.start, s.end) is None)
        return residual == 1 and not others and joins_identity(graph, run_[0].start, run_[-1].end) is not None
    branched = sum(len(s.nodes) > 1 for s in run_)
    return branched <= 1 and (len(run_) == 1 or sum(layers) <= MOST_LAYERS)


def _loose(graph: fx.GraphModule, run_: list[Segment]) -> list[list[Segment]]:
    """Segments in no module of their own: a branched one is a block, others go together by threes."""
    out: list[list[Segment]] = []
    now: list[Segment] = []

    def close() -> None:
        if now:
            out.append(list(now))
            now.clear()

    for segment in run_:
        layers = weighted(graph, segment.nodes)
        before = sum(weighted(graph, s.nodes) for s in now)
        if len(segment.nodes) > 1:
            close()
            out.append([segment])
        elif layers:
            if before >= LOOSE_LAYERS or (before and _shrinks(now[-1])):
                close()
            now.append(segment)
        elif not now and out and _ends(graph, out[-1], segment):
            out[-1].append(segment)
        else:
            now.append(segment)
    close()
    return out


def _shrinks(segment: Segment) -> bool:
    return bool(segment.start.meta["shape"][2:] != segment.end.meta["shape"][2:])


def _ends(graph: fx.GraphModule, block: list[Segment], segment: Segment) -> bool:
    """Whether an operation behind a block belongs to it: an activation, or nothing at all."""
    acts = operation_name(graph, segment.end) in ACTS or does_nothing(graph, segment.end)
    return acts and segment.path == block[-1].path
