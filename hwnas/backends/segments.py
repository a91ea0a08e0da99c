"""The blocks of an ONNX graph: which of its nodes are quantized, or left in float, together."""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from hwnas.backends.graphs import read
from hwnas.backends.quantize_plan import WEIGHTED

MOST = 32  # parts of a graph without places: each is built and timed twice


def by_place(model: bytes, places: Sequence[str]) -> dict[str, frozenset[str]]:
    """Outputs of the nodes of each block, by its place, which the nodes' names begin with.

    A block without a weighted layer belongs to the one before it.
    """
    nodes = read(model).graph.node
    found = [
        (place, [node for node in nodes if node.name.startswith(f"{place}.") or node.name == place])
        for place in places
    ]
    return _joined(found)


def by_cut(model: bytes) -> dict[str, frozenset[str]]:
    """Parts of any graph: it is cut wherever all that goes on is one tensor. At most `MOST`, in order.

    A part is named as its first weighted node.
    """
    graph = read(model).graph
    constant = {tensor.name for tensor in graph.initializer}
    last_read = {name: at for at, node in enumerate(graph.node) for name in node.input}
    last_read |= {port.name: len(graph.node) for port in graph.output}
    parts: list[tuple[str, list[onnx.NodeProto]]] = []
    part: list[onnx.NodeProto] = []
    alive = {port.name for port in graph.input}
    for at, node in enumerate(graph.node):
        part.append(node)
        alive |= set(node.output) - constant
        alive = {name for name in alive if last_read.get(name, -1) > at}
        if len(alive) <= 1:
            parts.append(("", part))
            part = []
    parts.append(("", part))
    found = list(_joined([(_name(nodes), nodes) for _, nodes in parts]).items())
    most = -(-len(found) // MOST)
    return {
        found[at][0]: frozenset[str]().union(*(names for _, names in found[at : at + most]))
        for at in range(0, len(found), most)
    }


def _name(nodes: Sequence[onnx.NodeProto]) -> str:
    return next((node.name or node.output[0] for node in nodes if node.op_type in WEIGHTED), "")


def _joined(parts: Sequence[tuple[str, list[onnx.NodeProto]]]) -> dict[str, frozenset[str]]:
    """Parts with a weighted node; what has none goes to the part before, at the front to the one after."""
    found: dict[str, set[str]] = {}
    front: set[str] = set()
    for name, nodes in parts:
        outputs = {out for node in nodes for out in node.output}
        if any(node.op_type in WEIGHTED for node in nodes):
            found[name] = outputs | front
            front = set()
        elif found:
            found[next(reversed(found))] |= outputs
        else:
            front |= outputs
    return {name: frozenset(outputs) for name, outputs in found.items()}
