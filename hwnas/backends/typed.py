"""ONNX graphs in the types that a runtime is to compute in: fp16 written out (int8: `quantize`).

TensorRT 11 computes in the types of the graph and nothing else. All graphs keep float32 input
and output, so that an engine is used alike whatever it computes in.

The graphs come from `hwnas.nets.onnx` (batch norm folded, weights as initialisers). Another
operator than those below is refused, since its types are not defined here.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from hwnas.arrays import Float32s
from hwnas.backends import calibrate, quantize
from hwnas.backends.graphs import read, rename, with_nodes
from hwnas.errors import BuildError, InputError
from hwnas.protocols import Int8Form
from hwnas.records import Precision

# Computed in half precision like any other value; shapes and types follow from the inputs.
HALF_SAFE = frozenset(
    {
        *("Add", "Clip", "Concat", "Conv", "Flatten", "Gemm", "GlobalAveragePool", "HardSigmoid"),
        *("HardSwish", "Identity", "MatMul", "MaxPool", "AveragePool", "Mul", "Relu", "Reshape"),
        *("Sigmoid", "Transpose"),
    }
)


def in_precision(
    model: bytes,
    precision: Precision,
    form: Int8Form | None,
    calibration: Float32s | None,
    *,
    correct: bool = True,
    floats: Collection[str] = (),
) -> bytes:
    """A float32 model written in another precision; itself at fp32.

    Args:
        model: from `hwnas.nets.onnx`.
        precision: fp16 (weights and arithmetic) or int8 (Q/DQ pairs, static).
        form: the int8 graph that the runtime wants.
        calibration: (n, C, H, W) normalised training images, for int8.
        correct: biases by what rounding the weights moves, at int8.
        floats: outputs of the nodes that stay in float, at int8.

    Raises:
        InputError: int8 without images or for a runtime that takes none, or a precision that is not
            written as ONNX.
        BuildError: an operator or weight that cannot be written so.
    """

    if precision == "fp32":
        return model
    if precision == "fp16":
        return to_half(model)
    if precision != "int8":
        raise InputError(
            f"--precision {precision}: ONNX is written in fp32, fp16 or int8; bf16 is for a runtime that "
            "offers it (--format openvino)"
        )
    if form is None:
        raise InputError("--precision int8: the runtime of this format takes no int8 graphs")
    if calibration is None or not len(calibration):
        raise InputError(
            "--precision int8 needs real images to find the ranges of activations; give --data DATA"
        )
    found = calibrate.calibrate(model, calibration, form)
    return quantize.to_int8(model, found.ranges, form, found.means if correct else None, floats)


def plain(model: bytes) -> bytes:
    """The same network in operators that every TensorRT since 8 imports.

    HardSwish became an ONNX operator of its own in opset 14; TensorRT's parser lacked it for long
    (Paddle2ONNX issue 1602 with 8.2). It is x * HardSigmoid(x) with slope 1/6, which is fused anyway.
    """
    proto = read(model)
    nodes = []
    for node in proto.graph.node:
        if node.op_type != "HardSwish":
            nodes.append(node)
            continue
        gate = f"{node.output[0]}.gate"
        nodes += [
            helper.make_node("HardSigmoid", [node.input[0]], [gate], name=gate, alpha=1 / 6, beta=0.5),
            helper.make_node("Mul", [node.input[0], gate], [node.output[0]], name=node.name),
        ]
    return with_nodes(proto, nodes)


def spare_depthwise(model: bytes) -> bytes:
    """A quantized graph whose depthwise convolutions, and those behind a pool to one pixel, stay float."""
    proto = read(model)
    made = {out: node for node in proto.graph.node for out in node.output}
    weights = {tensor.name: tensor.dims for tensor in proto.graph.initializer}

    def source(name: str) -> str:
        """What goes into a Q/DQ pair; the tensor itself where it comes from none."""
        behind = made.get(name)
        if behind is None or behind.op_type != "DequantizeLinear":
            return name
        before = made.get(behind.input[0])
        is_pair = before is not None and before.op_type == "QuantizeLinear"
        return before.input[0] if is_pair and before is not None else name

    def pooled(name: str) -> bool:
        """Whether a tensor is a global pool's, up to four operators on."""
        for _ in range(4):
            node = made.get(source(name))
            if node is None:
                return False
            if node.op_type == "GlobalAveragePool":
                return True
            name = node.input[0]
        return False

    for node in proto.graph.node:
        if node.op_type != "Conv":
            continue
        groups = next((a.i for a in node.attribute if a.name == "group"), 1)
        shape = weights.get(source(node.input[1]), ())
        if (groups > 1 and groups == next(iter(shape), 0)) or pooled(node.input[0]):
            for at in (0, 1):
                node.input[at] = source(node.input[at])
    read_by_others = {name for node in proto.graph.node for name in node.input}
    read_by_others |= {port.name for port in proto.graph.output}
    kept = list(proto.graph.node)
    for kind in ("DequantizeLinear", "QuantizeLinear"):  # pairs that nothing reads any more
        kept = [n for n in kept if n.op_type != kind or n.output[0] in read_by_others]
        read_by_others = {name for node in kept for name in node.input}
        read_by_others |= {port.name for port in proto.graph.output}
    return with_nodes(proto, kept)


def to_half(model: bytes) -> bytes:
    """Weights and arithmetic in float16, behind a cast at the input and before one at the output.

    Raises:
        BuildError: an operator whose types are not known here, or a weight beyond float16's range.
    """
    proto = read(model)
    _refuse_others(proto, HALF_SAFE, "float16")
    halves = []
    for tensor in proto.graph.initializer:
        value = numpy_helper.to_array(tensor)
        if value.dtype == np.float32:
            with np.errstate(over="ignore"):
                half = value.astype(np.float16)
            if not np.isfinite(half).all() and np.isfinite(value).all():
                raise BuildError(
                    f"weight {tensor.name!r} reaches {np.abs(value).max():.3g}, beyond float16's 65504; "
                    "use fp32"
                )
            halves.append(numpy_helper.from_array(half, tensor.name))
        else:
            halves.append(tensor)
    del proto.graph.initializer[:], proto.graph.value_info[:]
    proto.graph.initializer.extend(halves)
    inside = {v.name: f"{v.name}.half" for v in (*proto.graph.input, *proto.graph.output)}
    for node in proto.graph.node:
        rename(node.input, inside)
        rename(node.output, inside)
    casts_in = [_cast(v.name, inside[v.name], TensorProto.FLOAT16) for v in proto.graph.input]
    casts_out = [_cast(inside[v.name], v.name, TensorProto.FLOAT) for v in proto.graph.output]
    return with_nodes(proto, [*casts_in, *proto.graph.node, *casts_out])


def _cast(source: str, out: str, to: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [out], name=f"{out}.cast", to=to)


def _refuse_others(proto: onnx.ModelProto, known: frozenset[str], target: str) -> None:
    other = sorted({n.op_type for n in proto.graph.node} - known)
    if other:
        raise BuildError(f"no {target} graph can be written for the operator {', '.join(other)}; use fp32")
