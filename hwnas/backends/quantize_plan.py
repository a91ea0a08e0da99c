"""Which tensors of a graph are quantized, and which of its nodes are computed in int8.

Some tensors are *points*: what a quantized operator reads and what it gives, an activation that its kernel
can apply (ReLU, a clip from 0) included. `quantize` writes a pair for each of them.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx
from onnx import numpy_helper

from hwnas.backends.graphs import read, without_hard_swish
from hwnas.errors import BuildError
from hwnas.protocols import Int8Form

WEIGHTED = ("Conv", "Gemm", "MatMul")  # where int8 arithmetic pays
SUMS = ("Add", "AveragePool", "GlobalAveragePool", "Concat", "Sigmoid")
# Values stay as they are.
MOVES = ("Flatten", "Identity", "MaxPool", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
GATES = ("Sigmoid", "HardSigmoid")
PAIRS = ("QuantizeLinear", "DequantizeLinear")


def is_quantized(model: bytes) -> bool:
    """Whether a graph already carries quantized tensors."""
    return _has_pairs(read(model))


def _has_pairs(proto: onnx.ModelProto) -> bool:
    return any(node.op_type in PAIRS for node in proto.graph.node)


def points(model: bytes, form: Int8Form) -> list[str]:
    """Tensors whose ranges `to_int8` needs; BuildError where the graph cannot be quantized."""
    plan = QuantizePlan(float_graph(model, form), form)
    return [name for name in plan.points if name not in plan.same_as and name not in plan.known]


def weighted_inputs(model: bytes, form: Int8Form) -> dict[str, str]:
    """The tensor that each quantized weighted node reads, by the node's output."""
    plan = QuantizePlan(float_graph(model, form), form)
    return {name: str(plan.producer[name].input[0]) for name in plan.weighted}


def float_graph(model: bytes, form: Int8Form, floats: Collection[str] = ()) -> onnx.ModelProto:
    """A graph without pairs, as it is planned: HardSwish as products, where sums are quantized."""
    proto = read(model)
    if _has_pairs(proto):
        raise BuildError("the graph is quantized already")
    if form.sums == "all":
        without_hard_swish(proto, floats)
    return proto


class QuantizePlan:
    """Which tensors of a graph are points, which nodes are computed in int8, and what is fused away.

    Attributes:
        points: names of the tensors that get a pair, in order of the graph.
        same_as: points whose values are those of another point, moved: they share its range.
        weighted: outputs of the weighted nodes that are quantized.
        moved: by a tensor whose values are another's in other places, that other one.
        cut: by the output of a HardSigmoid that is written as a sum, its slope and its value at 0.
        known: ranges that need no images.
    """

    def __init__(self, proto: onnx.ModelProto, form: Int8Form, floats: Collection[str] = ()) -> None:
        graph = proto.graph
        self.constants = {t.name: t for t in graph.initializer}
        self.outputs = {v.name for v in graph.output}
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        self.producer = {name: node for node in graph.node for name in node.output}
        for node in graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        self.form = form
        self.weighted: set[str] = set()
        self.same_as: dict[str, str] = {}
        self.cut: dict[str, tuple[float, float]] = {}
        self.known = {n.output[0]: (0.0, 1.0) for n in graph.node if n.op_type == "HardSigmoid"}
        self.moved = {n.output[0]: n.input[0] for n in graph.node if n.op_type in MOVES}
        found: set[str] = set()
        used: dict[str, str] = {}
        for node in graph.node:
            out = node.output[0]
            if out in floats:
                continue
            if node.op_type in WEIGHTED:
                self._check_weight(node, used)
            if node.op_type in MOVES and form.sums == "all":
                if node.input[0] in found and out not in self.outputs:
                    found.add(out)
                    self.same_as[out] = node.input[0]
            elif self._is_quantized(node):
                found.update(name for name in node.input if name and name not in self.constants)
                if node.op_type in WEIGHTED:
                    self.weighted.add(out)
                end = self._end(node)
                if node.op_type == "HardSigmoid":
                    self.cut[out] = slope_of(node)
                if form.sums == "all" and end not in self.outputs:
                    found.add(end)
        order = [v.name for v in graph.input] + [name for node in graph.node for name in node.output]
        self.points = [name for name in order if name in found]

    def _check_weight(self, node: onnx.NodeProto, used: dict[str, str]) -> None:
        weight = node.input[1]
        if weight not in self.constants:
            raise BuildError(f"{node.op_type} {node.name!r} has computed weights; it cannot be quantized")
        if weight in used:
            raise BuildError(f"weight {weight!r} is used twice; quantizing shared weights is not supported")
        used[weight] = node.name
        for name in node.input[1:]:
            if name in self.constants and not np.isfinite(numpy_helper.to_array(self.constants[name])).all():
                raise BuildError(f"weight {name!r} holds values that are not finite; it cannot be quantized")

    def _is_quantized(self, node: onnx.NodeProto) -> bool:
        if node.op_type in WEIGHTED:
            return self.form.depthwise or not self._is_depthwise(node)
        if self.form.sums == "none":
            return False
        inputs = [name for name in node.input if name not in self.constants]
        if node.op_type == "Mul":  # by a gate; the products inside other activations stay in float
            made = [self.producer[name].op_type for name in inputs if name in self.producer]
            return len(inputs) == 2 and any(op in GATES for op in made)
        if node.op_type == "HardSigmoid":
            return (
                self.form.sums == "all"
                and self.form.activations == "uint8"
                and node.output[0] not in self.outputs
                and slope_of(node)[0] > 0
            )
        return node.op_type in SUMS and (node.op_type != "Add" or len(inputs) == 2)

    def _is_depthwise(self, node: onnx.NodeProto) -> bool:
        """Whether each channel is convolved by itself."""
        groups = next((int(a.i) for a in node.attribute if a.name == "group"), 1)
        return groups > 1 and int(self.constants[node.input[1]].dims[1]) == 1

    def _end(self, node: onnx.NodeProto) -> str:
        """The tensor that the kernel of a node gives: that of its activation, where it can apply it."""
        out: str = node.output[0]
        readers = self.readers.get(out, [])
        if len(readers) != 1 or out in self.outputs:
            return out
        after = readers[0]
        if after.op_type == "Relu" or (after.op_type == "Clip" and self._from_zero(after)):
            return str(after.output[0])
        return out

    def _from_zero(self, clip: onnx.NodeProto) -> bool:
        least = self.constants.get(clip.input[1]) if len(clip.input) > 1 and clip.input[1] else None
        return least is not None and float(numpy_helper.to_array(least)) == 0.0


def slope_of(node: onnx.NodeProto) -> tuple[float, float]:
    """Slope of a HardSigmoid, and its value at 0."""
    given = {a.name: float(a.f) for a in node.attribute}
    return given.get("alpha", 0.2), given.get("beta", 0.5)
