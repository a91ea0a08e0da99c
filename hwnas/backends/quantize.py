"""int8 graphs with Q/DQ pairs, in the form that a runtime's kernels fuse.

The same arithmetic can be written in several ways, and a runtime is fast in one of them: what it does
not recognise it computes in float behind the pairs, slower than without them. A backend says its form
(`Int8Form`); this file writes it. Graphs keep float32 input and output, so that an engine is used alike
whatever it computes in.

How a graph is quantized. Every point of the plan (`QuantizePlan`) is quantized once, and all its readers
read the quantized values. Weights are symmetric by output channel, biases int32 in the scale of their
products; a bias that 32 bits do not hold in that scale stays in float.

HardSigmoid has no int8 kernel, in any runtime here. It is a sum that is cut at both ends, and writing a
sum as uint8 cuts it for nothing: clip(a x + b, 0, 1) is x + b / a in steps of 1 / (255 a), whose integers
are then read in steps of 1 / 255.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from hwnas.arrays import Float32s
from hwnas.backends.forms import Range
from hwnas.backends.graphs import rename, with_nodes
from hwnas.backends.int8_steps import (
    bias_integers,
    channel_axis,
    mean_shift,
    step,
    weight_integers,
    weight_scale,
)
from hwnas.backends.quantize_plan import QuantizePlan, float_graph
from hwnas.errors import BuildError
from hwnas.protocols import Int8Form


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
    proto = float_graph(model, form, floats)
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
        """Bias of a node as integers, corrected where the means are known."""
        given = node.input[2] if len(node.input) > 2 and node.input[2] else ""
        if given and given not in self.plan.constants:
            return
        value: Float32s = np.zeros(len(scale), np.float32)
        if given:
            value = numpy_helper.to_array(self.plan.constants[given])
        if value.shape != scale.shape or node.op_type == "MatMul":
            return
        if (mean := self.means.get(source)) is not None:
            value = value - mean_shift(weight, small, scale, axis, mean, node)
        elif not given and not self.form.integers:
            return
        name = f"{node.output[0]}.bias"
        unit = (np.float64(self.steps[source][0]) * scale).astype(np.float32) if self.form.integers else None
        whole = None if unit is None else bias_integers(value, unit)
        if unit is None or whole is None:
            self._constant(name, value.astype(np.float32))
        else:
            zeros = self._constant(f"{name}.zero", np.zeros(scale.shape, np.int32))
            inputs = [self._constant(f"{name}.int32", whole), self._constant(f"{name}.scale", unit), zeros]
            self.nodes.append(helper.make_node("DequantizeLinear", inputs, [name], name=name, axis=0))
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
