"""int8 graphs with Q/DQ pairs, in the form that a runtime's kernels fuse.

The same arithmetic can be written in several ways, and a runtime is fast in one of them: what it does
not recognise it computes in float behind the pairs, slower than without them. A backend says its form
(`Int8Form`); this file writes it. Graphs keep float32 input and output, so that an engine is used alike
whatever it computes in.

How a graph is quantized. Some tensors are *points*: what a quantized operator reads and what it
gives, an activation that its kernel can apply (ReLU, a clip from 0) included. Every point is
quantized once, and all its readers read the quantized values. Weights are symmetric by output
channel, biases int32 in the scale of their products.

HardSigmoid has no int8 kernel, in any runtime here. It is a sum that is cut at both ends, and writing a
sum as uint8 cuts it for nothing: clip(a x + b, 0, 1) is x + b / a in steps of 1 / (255 a), whose integers
are then read in steps of 1 / 255.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from hwnas.arrays import Float32s
from hwnas.backends.forms import Range
from hwnas.backends.graphs import read, rename, with_nodes, without_hard_swish
from hwnas.errors import BuildError
from hwnas.protocols import Activations, Int8Form

WEIGHTED = ("Conv", "Gemm", "MatMul")  # where int8 arithmetic pays
SUMS = ("Add", "AveragePool", "GlobalAveragePool", "Concat", "Sigmoid")
# Values stay as they are.
MOVES = ("Flatten", "Identity", "MaxPool", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
GATES = ("Sigmoid", "HardSigmoid")


def is_quantized(model: bytes) -> bool:
    """Whether a graph already carries quantized tensors."""
    return any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in read(model).graph.node)


class QuantizePlan:
    """Which tensors of a graph are points, which nodes are computed in int8, and what is fused away.

    Attributes:
        points: names of the tensors that get a pair, in order of the graph.
        same_as: points whose values are those of another point, moved: they share its range.
        weighted: outputs of the weighted nodes that are quantized.
        ends: by the output of a quantized node, the point that its kernel gives.
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
        self.ends: dict[str, str] = {}
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
                self.ends[out] = end
                if node.op_type == "HardSigmoid":
                    self.cut[out] = _slope(node)
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
            return True
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
                and _slope(node)[0] > 0
            )
        return node.op_type in SUMS and (node.op_type != "Add" or len(inputs) == 2)

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


def points(model: bytes, form: Int8Form) -> list[str]:
    """Tensors whose ranges `to_int8` needs; BuildError where the graph cannot be quantized."""
    plan = QuantizePlan(_checked(model, form), form)
    return [name for name in plan.points if name not in plan.same_as and name not in plan.known]


def weighted_inputs(model: bytes, form: Int8Form) -> dict[str, str]:
    """The tensor that each quantized weighted node reads, by the node's output."""
    plan = QuantizePlan(_checked(model, form), form)
    return {name: str(plan.producer[name].input[0]) for name in plan.weighted}


def to_int8(
    model: bytes,
    ranges: Mapping[str, Range],
    form: Int8Form,
    means: Mapping[str, Float32s] | None = None,
    floats: Collection[str] = (),
) -> bytes:
    """A float32 graph with Q/DQ pairs in a runtime's form.

    Args:
        model: float32 graph without Q/DQ, batch norm folded.
        ranges: least and largest value by tensor name, of all `points`.
        form: what the runtime wants.
        means: mean by channel of the tensors that weighted nodes read (`weighted_inputs`). Where they
            are given, biases are corrected: by how much the rounded weights change the mean of each
            output channel.
        floats: outputs of the nodes that stay in float; ranges of the whole graph serve, too.

    Raises:
        BuildError: the graph is quantized already or cannot be, or a range is missing.
    """
    proto = _checked(model, form, floats)
    plan = QuantizePlan(proto, form, floats)
    if not plan.weighted:
        raise BuildError(
            "the graph has no convolution or linear layer with constant weights"
            f"{' but those that stay in float' if floats else ''}, so nothing is quantized; use "
            "--precision fp32"
        )
    writer = _Writer(plan, ranges, means or {})
    for value in proto.graph.input:
        writer.point(value.name)
    for node in proto.graph.node:
        writer.add(node)
    kept = [t for t in proto.graph.initializer if t.name not in writer.replaced]
    del proto.graph.initializer[:], proto.graph.value_info[:]
    proto.graph.initializer.extend([*kept, *writer.tensors])
    return with_nodes(proto, writer.nodes)


def _checked(model: bytes, form: Int8Form, floats: Collection[str] = ()) -> onnx.ModelProto:
    proto = read(model)
    if any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in proto.graph.node):
        raise BuildError("the graph is quantized already")
    if form.sums == "all":
        without_hard_swish(proto, floats)
    return proto


def _slope(node: onnx.NodeProto) -> tuple[float, float]:
    """Slope of a HardSigmoid, and its value at 0."""
    given = {a.name: float(a.f) for a in node.attribute}
    return given.get("alpha", 0.2), given.get("beta", 0.5)


class _Writer:
    """Copies nodes, with pairs where the plan wants them."""

    def __init__(
        self, plan: QuantizePlan, ranges: Mapping[str, Range], means: Mapping[str, Float32s]
    ) -> None:
        self.plan, self.form, self.means = plan, plan.form, means
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[onnx.TensorProto] = []
        self.replaced: set[str] = set()
        self.read_as: dict[str, str] = {}  # a point's name -> the dequantized tensor that readers take
        ranges = {**ranges, **plan.known}
        sources = {name: _ranged(name, plan, ranges) for name in plan.points}
        missing = [name for name, source in sources.items() if source not in ranges]
        if missing:
            raise BuildError(f"no calibrated range for {', '.join(missing[:3])}; calibrate this very graph")
        self.steps = {name: step(ranges[source], self.form.activations) for name, source in sources.items()}

    def add(self, node: onnx.NodeProto) -> None:
        """One node of the original, reading quantized values."""
        out = node.output[0]
        if out in self.plan.cut:
            self._cut(node)
            return
        copy = onnx.NodeProto.FromString(node.SerializeToString())
        if out in self.plan.weighted:
            self._weigh(copy, node.input[0])
        rename(copy.input, self.read_as)
        self.nodes.append(copy)
        self.point(out)

    def point(self, name: str) -> None:
        """The pair of a point, after what gives it."""
        if name not in self.steps:
            return
        scale, zero, kind = self.steps[name]
        scales = self._constant(f"{name}.scale", np.float32(scale))
        zeros = self._constant(f"{name}.zero", np.asarray(zero, kind))
        small, back = f"{name}.int8", f"{name}.dequantized"
        self.nodes += [
            helper.make_node("QuantizeLinear", [name, scales, zeros], [small], name=small),
            helper.make_node("DequantizeLinear", [small, scales, zeros], [back], name=back),
        ]
        self.read_as[name] = back

    def _cut(self, node: onnx.NodeProto) -> None:
        """A HardSigmoid as a sum of uint8, cut by its own steps."""
        out, (slope, at_0) = node.output[0], self.plan.cut[node.output[0]]
        shift = at_0 / slope
        scale, zero, _ = step((shift, shift), "uint8")
        zeros = self._constant(f"{out}.zero", np.uint8(0))
        operands = [
            self._constant(f"{out}.shift.int8", np.uint8(255 if shift > 0 else 0)),
            self._constant(f"{out}.shift.scale", np.float32(scale)),
            self._constant(f"{out}.shift.zero", np.uint8(zero)),
        ]
        shifts, total, small, back = (f"{out}.{end}" for end in ("shift", "sum", "int8", "dequantized"))
        wide = self._constant(f"{out}.sum.scale", np.float32(1.0 / (255.0 * slope)))
        unit = self._constant(f"{out}.scale", np.float32(1.0 / 255.0))
        source = self.read_as.get(node.input[0], node.input[0])
        self.nodes += [
            helper.make_node("DequantizeLinear", operands, [shifts], name=shifts),
            helper.make_node("Add", [source, shifts], [total], name=total),
            helper.make_node("QuantizeLinear", [total, wide, zeros], [small], name=small),
            helper.make_node("DequantizeLinear", [small, unit, zeros], [back], name=back),
        ]
        self.read_as[out] = back

    def _weigh(self, node: onnx.NodeProto, source: str) -> None:
        """Weight and bias of a node as integers, or the weight behind a pair of its own."""
        name = node.input[1]
        weight: Float32s = numpy_helper.to_array(self.plan.constants[name])
        axis = channel_axis(node)
        scale = weight_scale(weight, axis, self.form.weight_levels)
        small = weight_integers(weight, scale, axis, self.form.weight_levels)
        scales = self._constant(f"{name}.scale", scale)
        zeros = self._constant(f"{name}.zero", np.zeros(scale.shape, np.int8))
        operand = f"{name}.int8"
        if self.form.integers:
            self._constant(operand, small)
            self.replaced.add(name)
        else:
            self.nodes.append(
                helper.make_node("QuantizeLinear", [name, scales, zeros], [operand], name=operand, axis=axis)
            )
        back = f"{name}.dequantized"
        self.nodes.append(
            helper.make_node("DequantizeLinear", [operand, scales, zeros], [back], name=back, axis=axis)
        )
        node.input[1] = back
        self._bias(node, source, weight, small, scale, axis)

    def _bias(
        self,
        node: onnx.NodeProto,
        source: str,
        weight: Float32s,
        small: NDArray[np.int8],
        scale: Float32s,
        axis: int,
    ) -> None:
        given = node.input[2] if len(node.input) > 2 and node.input[2] else ""
        if given and given not in self.plan.constants:
            return
        value: Float32s = np.zeros(len(scale), np.float32)
        if given:
            value = numpy_helper.to_array(self.plan.constants[given])
        if value.shape != scale.shape or node.op_type == "MatMul":
            return
        if (mean := self.means.get(source)) is not None:
            value = value - _shift(weight, small, scale, axis, mean, node)
        elif not given and not self.form.integers:
            return
        name = f"{node.output[0]}.bias"
        if self.form.integers:
            unit = (np.float64(self.steps[source][0]) * scale).astype(np.float32)
            limits = np.iinfo(np.int32)
            whole = np.clip(np.rint(value.astype(np.float64) / unit), limits.min, limits.max).astype(np.int32)
            zeros = self._constant(f"{name}.zero", np.zeros(scale.shape, np.int32))
            inputs = [self._constant(f"{name}.int32", whole), self._constant(f"{name}.scale", unit), zeros]
            self.nodes.append(helper.make_node("DequantizeLinear", inputs, [name], name=name, axis=0))
        else:
            self._constant(name, value.astype(np.float32))
        if given and all(r.output[0] == node.output[0] for r in self.plan.readers[given]):
            self.replaced.add(given)
        del node.input[2:]
        node.input.append(name)

    def _constant(self, name: str, value: NDArray[np.generic] | np.generic) -> str:
        self.tensors.append(numpy_helper.from_array(np.asarray(value), name))
        return name


def _ranged(name: str, plan: QuantizePlan, ranges: Mapping[str, Range]) -> str:
    """The tensor whose range is a point's: that of the point whose values it has, or from where a node in
    float moved them.
    """
    while name in plan.same_as or (name not in ranges and name in plan.moved):
        name = plan.same_as.get(name) or plan.moved[name]
    return name


def step(limits: Range, activations: Activations) -> tuple[float, int, type[np.uint8 | np.int8]]:
    """Scale, zero point and type of a tensor; 0 is always a level, so that padding is exact.

    uint8 has 255 steps over the range; int8 is symmetric with 127 on each side (-128 is left out).
    """
    low, high = min(limits[0], 0.0), max(limits[1], 0.0)
    if activations == "uint8" or (activations == "by sign" and low == 0.0):
        scale = (high - low) / 255.0 or 1.0
        return float(np.float32(scale)), int(np.clip(np.rint(-low / scale), 0, 255)), np.uint8
    return float(np.float32(max(high, -low) / 127.0 or 1.0)), 0, np.int8


def channel_axis(node: onnx.NodeProto) -> int:
    """The axis of the weight that counts output channels."""
    if node.op_type == "Conv":
        return 0
    transposed = any(a.name == "transB" and a.i for a in node.attribute)
    return 0 if transposed else 1


def weight_scale(weight: Float32s, axis: int, levels: int) -> Float32s:
    """Step by output channel; a channel of zeros gets any step, here 1."""
    others = tuple(i for i in range(weight.ndim) if i != axis)
    largest = np.abs(weight).max(axis=others)
    scale: Float32s = (np.where(largest > 0, largest, levels) / levels).astype(np.float32)
    return scale


def weight_integers(weight: Float32s, scale: Float32s, axis: int, levels: int) -> NDArray[np.int8]:
    """The weight in steps."""
    shape = [1] * weight.ndim
    shape[axis] = -1
    whole: NDArray[np.int8] = np.clip(np.rint(weight / scale.reshape(shape)), -levels, levels).astype(np.int8)
    return whole


def _shift(
    weight: Float32s,
    small: NDArray[np.int8],
    scale: Float32s,
    axis: int,
    mean: Float32s,
    node: onnx.NodeProto,
) -> Float32s:
    """By how much rounding the weights moves the mean of each output channel, borders neglected."""
    shape = [1] * weight.ndim
    shape[axis] = -1
    error: Float32s = (small * scale.reshape(shape) - weight).astype(np.float32)
    if node.op_type != "Conv":
        moved: Float32s = np.moveaxis(error, axis, 0) @ mean
        return moved
    groups = next((a.i for a in node.attribute if a.name == "group"), 1)
    by_input = error.sum(axis=tuple(range(2, error.ndim)))  # (out, in of a group)
    per_group = len(weight) // groups
    inputs = mean.reshape(groups, -1).repeat(per_group, axis=0)
    shifted: Float32s = (by_input * inputs).sum(axis=1).astype(np.float32)
    return shifted


def tensor_names(model: bytes, wanted: Iterable[str]) -> list[str]:
    """Those of the wanted tensors that the graph does not give as outputs or take as inputs."""
    graph = read(model).graph
    ends = {v.name for v in (*graph.output, *graph.input)}
    return [name for name in wanted if name not in ends]


def with_outputs(model: bytes, names: Iterable[str]) -> bytes:
    """The graph with more of its tensors as outputs."""
    proto = read(model)
    have = {v.name for v in proto.graph.output}
    proto.graph.output.extend(
        helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in names if n not in have
    )
    data: bytes = proto.SerializeToString()
    return data
