"""ONNX graphs in the types that a runtime is to compute in: fp16 written out (int8: `quantize`).

TensorRT 11 computes in the types of the graph and nothing else. Graphs keep float32 input and output,
so that an engine is used alike whatever it computes in; only those of a part of a network may have half
precision at an end that another block would read or give (`inner_ends`).

The graphs come from `hwnas.nets.onnx` (batch norm folded, weights as initialisers). Another
operator than those below is refused, since its types are not defined here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from hwnas.arrays import Float32s
from hwnas.backends import calibrate, quantize
from hwnas.backends.graphs import read, rename, with_nodes, without_hard_swish
from hwnas.backends.quantize_plan import PAIRS, WEIGHTED
from hwnas.errors import BuildError, InputError
from hwnas.nets.onnx import PART
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
HALF_PAIRS_OPSET, HALF_PAIRS_IR = 19, 9  # the first in which the scale of a pair may be float16
LEAST_HALF = 2.0**-14  # the least float16 with all its digits
PIXELS = 4  # channels of an image at most


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
    without_hard_swish(proto)
    return bytes(proto.SerializeToString())


def quantized_layers(model: bytes) -> frozenset[str]:
    """Names of the convolutions and linear layers that read Q/DQ pairs."""
    proto = read(model)
    made = _makers(proto)
    return frozenset(
        node.name
        for node in proto.graph.node
        if node.op_type in WEIGHTED and _behind_pair(made, node.input[0]) != node.input[0]
    )


def hard_to_quantize(model: bytes) -> frozenset[str]:
    """Names of the depthwise convolutions of a graph, and of those behind a pool to one pixel (gates)."""
    proto = read(model)
    made, shapes = _makers(proto), {tensor.name: tensor.dims for tensor in proto.graph.initializer}

    def pooled(name: str) -> bool:
        """Whether a tensor is a global pool's, up to four operators on."""
        for _ in range(4):
            node = made.get(_behind_pair(made, name))
            if node is None:
                return False
            if node.op_type == "GlobalAveragePool":
                return True
            name = node.input[0]
        return False

    found = set()
    for node in proto.graph.node:
        if node.op_type == "Conv":
            groups = next((a.i for a in node.attribute if a.name == "group"), 1)
            shape = shapes.get(_behind_pair(made, node.input[1]), ())
            if (groups > 1 and groups == next(iter(shape), 0)) or pooled(node.input[0]):
                found.add(node.name)
    return frozenset(found)


def spare(model: bytes, layers: Collection[str]) -> bytes:
    """A quantized graph in which these layers stay float: they read what goes into the Q/DQ pairs."""
    proto = read(model)
    made = _makers(proto)
    for node in proto.graph.node:
        if node.name in layers and node.op_type in WEIGHTED:
            for at in (0, 1):
                node.input[at] = _behind_pair(made, node.input[at])
    kept = list(proto.graph.node)
    for kind in reversed(PAIRS):  # pairs that nothing reads any more
        in_use = {name for node in kept for name in node.input} | {port.name for port in proto.graph.output}
        kept = [n for n in kept if n.op_type != kind or n.output[0] in in_use]
    return with_nodes(proto, kept)


def _makers(proto: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    return {out: node for node in proto.graph.node for out in node.output}


def _behind_pair(made: Mapping[str, onnx.NodeProto], name: str) -> str:
    """What goes into a Q/DQ pair; the tensor itself where it comes from none."""
    back = made.get(name)
    if back is None or back.op_type != "DequantizeLinear":
        return name
    small = made.get(back.input[0])
    return str(small.input[0]) if small is not None and small.op_type == "QuantizeLinear" else name


def inner_ends(model: bytes) -> frozenset[str]:
    """Ends of a part of a network (`nets.onnx.chain`) that other blocks would read or give: feature maps.

    An image and the scores of classes are no such ends; neither is any end of a whole network.
    """
    graph = read(model).graph
    if graph.doc_string != PART:
        return frozenset()
    ends = set()
    for port in (*graph.input, *graph.output):
        dims = port.type.tensor_type.shape.dim
        if len(dims) == 4 and (dims[1].dim_value > PIXELS or port.name == graph.output[0].name):
            ends.add(port.name)
    return frozenset(ends)


def to_half(model: bytes, inner: Collection[str] = ()) -> bytes:
    """Weights and arithmetic in float16, behind a cast at the input and before one at the output.

    A quantized graph keeps its pairs: what lies between them becomes float16, their scales with it.

    Args:
        model: float32.
        inner: ends that are float16 themselves, without a cast.

    Raises:
        BuildError: an operator whose types are not known here, a weight beyond float16's range, or a
            pair's scale that float16 holds with fewer digits.
    """
    proto = read(model)
    _refuse_others(proto, HALF_SAFE | set(PAIRS), "float16")
    scales = {node.input[1] for node in proto.graph.node if node.op_type in PAIRS}
    if scales:
        # Newer versions of the other operators written here only add attributes with the old meaning.
        del proto.opset_import[:]
        proto.opset_import.append(helper.make_opsetid("", HALF_PAIRS_OPSET))
        proto.ir_version = max(proto.ir_version, HALF_PAIRS_IR)
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
            if tensor.name in scales and (value < LEAST_HALF).any():
                raise BuildError(
                    f"the scale {tensor.name!r} is {value.min():.3g}, below what float16 holds with all its "
                    "digits; keep float32 between the pairs"
                )
            halves.append(numpy_helper.from_array(half, tensor.name))
        else:
            halves.append(tensor)
    del proto.graph.initializer[:], proto.graph.value_info[:]
    proto.graph.initializer.extend(halves)
    ports = [*proto.graph.input, *proto.graph.output]
    for port in ports:
        if port.name in inner:
            port.type.tensor_type.elem_type = TensorProto.FLOAT16
    inside = {v.name: f"{v.name}.half" for v in ports if v.name not in inner}
    for node in proto.graph.node:
        rename(node.input, inside)
        rename(node.output, inside)
    casts = {
        v.name: _cast(v.name, inside[v.name], TensorProto.FLOAT16)
        for v in proto.graph.input
        if v.name in inside
    }
    back = [_cast(inside[v.name], v.name, TensorProto.FLOAT) for v in proto.graph.output if v.name in inside]
    return with_nodes(proto, [*casts.values(), *proto.graph.node, *back])


def _cast(source: str, out: str, to: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [out], name=f"{out}.cast", to=to)


def _refuse_others(proto: onnx.ModelProto, known: frozenset[str], target: str) -> None:
    other = sorted({n.op_type for n in proto.graph.node} - known)
    if other:
        raise BuildError(f"no {target} graph can be written for the operator {', '.join(other)}; use fp32")
