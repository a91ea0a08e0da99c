"""ONNX graphs in the types that a runtime is to compute in: fp16 written out, int8 by Q/DQ pairs.

TensorRT 11 computes in the types of the graph and nothing else; earlier ones take int8 the same way
(explicit quantization). All graphs keep float32 input and output, so that an engine is used alike
whatever it computes in.

The graphs come from `hwnas.nets.onnx` (batch norm folded, weights as initialisers). Another
operator than those below is refused, since nobody has thought about its types.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from hwnas.arrays import Float32s
from hwnas.errors import BuildError, InputError
from hwnas.records import Precision

# Computed in half precision like any other value; shapes and types follow from the inputs.
HALF_SAFE = frozenset(
    {
        *("Add", "Clip", "Concat", "Conv", "Flatten", "Gemm", "GlobalAveragePool", "HardSigmoid"),
        *("HardSwish", "Identity", "MatMul", "MaxPool", "AveragePool", "Mul", "Relu", "Reshape"),
        *("Sigmoid", "Transpose"),
    }
)
WEIGHTED = ("Conv", "Gemm", "MatMul")  # where int8 arithmetic pays
LEVELS = 127  # symmetric int8 leaves -128 out, as TensorRT does
QUANTILE = 0.9999  # of absolute activations; a few outliers are cut rather than coarsen every step


def in_precision(model: bytes, precision: Precision, calibration: Float32s | None, batch: int) -> bytes:
    """A float32 model written in another precision; itself at fp32.

    Args:
        model: from `hwnas.nets.onnx`.
        precision: fp16 (weights and arithmetic) or int8 (Q/DQ pairs, static).
        calibration: (n, C, H, W) normalised training images, for int8.
        batch: of the model; calibration uses a multiple of it.

    Raises:
        InputError: int8 without images, or a precision that is not written as ONNX.
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
    if calibration is None or len(calibration) < batch:
        raise InputError(
            "--precision int8 needs real images to find the ranges of activations; give --data DATA"
        )
    whole = len(calibration) // batch * batch
    return to_int8(model, ranges(model, calibration[:whole]))


def plain(model: bytes) -> bytes:
    """The same network in operators that every TensorRT since 8 imports.

    HardSwish became an ONNX operator of its own in opset 14; TensorRT's parser lacked it for long
    (Paddle2ONNX issue 1602 with 8.2). It is x * HardSigmoid(x) with slope 1/6, which is fused anyway.
    """
    proto = _read(model)
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
    return _with_nodes(proto, nodes)


def to_half(model: bytes) -> bytes:
    """Weights and arithmetic in float16, behind a cast at the input and before one at the output.

    Raises:
        BuildError: an operator whose types are not known here, or a weight beyond float16's range.
    """
    proto = _read(model)
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
        _rename(node.input, inside)
        _rename(node.output, inside)
    casts_in = [_cast(v.name, inside[v.name], TensorProto.FLOAT16) for v in proto.graph.input]
    casts_out = [_cast(inside[v.name], v.name, TensorProto.FLOAT) for v in proto.graph.output]
    return _with_nodes(proto, [*casts_in, *proto.graph.node, *casts_out])


def is_quantized(model: bytes) -> bool:
    """Whether a graph already carries QuantizeLinear nodes."""
    return any(node.op_type == "QuantizeLinear" for node in _read(model).graph.node)


def ranges(model: bytes, images: Float32s) -> dict[str, float]:
    """Largest absolute value of every tensor that `to_int8` quantizes, on `images` (n, C, H, W) float32.

    A high quantile rather than the maximum (`QUANTILE`); runs on the CPU by ONNX Runtime.
    """
    import onnxruntime as ort

    proto = _read(model)
    names = _activations(proto)
    batch = _batch(proto)
    if images.ndim != 4 or len(images) == 0 or len(images) % (batch or 1):
        raise InputError(
            f"calibration takes images (n, C, H, W), n a multiple of {batch or 1}: {images.shape}"
        )
    source = proto.graph.input[0].name
    kept = {v.name for v in proto.graph.output}
    watched = [n for n in names if n != source]
    proto.graph.output.extend(helper.make_empty_tensor_value_info(n) for n in watched if n not in kept)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    largest = dict.fromkeys(names, 0.0)
    step = batch or len(images)
    for at in range(0, len(images), step):
        part = images[at : at + step].astype(np.float32)
        values: list[NDArray[Any]] = session.run(watched, {source: part}) if watched else []
        for name, value in ((source, part), *zip(watched, values)):
            if name in largest:
                largest[name] = max(largest[name], float(np.quantile(np.abs(value), QUANTILE)))
    return largest


def to_int8(model: bytes, largest: Mapping[str, float]) -> bytes:
    """Q/DQ pairs around every weighted operator: activations by tensor, weights by output channel.

    A quantized activation replaces the original for all its readers, so that a residual sum reads
    the same int8 values as the convolution beside it (TensorRT then fuses the sum into the
    convolution). Symmetric, zero point 0: the only form that TensorRT takes.

    Args:
        model: float32 graph without Q/DQ.
        largest: largest absolute value by tensor name, from `ranges`.

    Raises:
        BuildError: the graph is quantized already, or a range is missing.
    """
    if is_quantized(model):
        raise BuildError("the graph is quantized already")
    proto = _read(model)
    weights = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
    names = _activations(proto)
    missing = [n for n in names if n not in largest]
    if missing:
        raise BuildError(f"no calibrated range for {', '.join(missing[:3])}; calibrate this graph")
    pairs = {n: f"{n}.dequantized" for n in names}
    nodes: list[onnx.NodeProto] = []
    tensors: list[onnx.TensorProto] = []
    if proto.graph.input[0].name in pairs:
        source = proto.graph.input[0].name
        nodes += _pair(source, pairs[source], _scale(largest[source]), tensors)
    for node in proto.graph.node:
        weight = node.input[1] if node.op_type in WEIGHTED else ""
        _rename(node.input, pairs)
        if weight:
            axis = _channel_axis(node)
            amax = np.abs(weights[weight]).max(
                axis=tuple(i for i in range(weights[weight].ndim) if i != axis)
            )
            nodes += _pair(weight, f"{weight}.dequantized", _scale(amax), tensors, axis)
            node.input[1] = f"{weight}.dequantized"
        nodes.append(node)
        for name in node.output:
            if name in pairs:
                nodes += _pair(name, pairs[name], _scale(largest[name]), tensors)
    proto.graph.initializer.extend(tensors)
    del proto.graph.value_info[:]
    return _with_nodes(proto, nodes)


def _activations(proto: onnx.ModelProto) -> list[str]:
    """Tensors that weighted operators read, in order; each weight must be an initialiser of its own."""
    weights = {t.name for t in proto.graph.initializer}
    found: dict[str, None] = {}
    uses: Counter[str] = Counter()
    for node in proto.graph.node:
        if node.op_type in WEIGHTED:
            if node.input[1] not in weights:
                raise BuildError(f"{node.op_type} {node.name!r} has computed weights; it cannot be quantized")
            uses[node.input[1]] += 1
            found[node.input[0]] = None
    shared = [name for name, count in uses.items() if count > 1]
    if shared:
        raise BuildError(f"weight {shared[0]!r} is used twice; quantizing shared weights is not supported")
    return list(found)


def _channel_axis(node: onnx.NodeProto) -> int:
    """The axis of the weight that counts output channels."""
    if node.op_type == "Conv":
        return 0
    transposed = any(a.name == "transB" and a.i for a in node.attribute)
    return 0 if transposed else 1


def _scale(amax: float | Float32s) -> Float32s:
    """Step between two int8 levels; a tensor of zeros gets any step, here 1."""
    largest = np.asarray(amax, np.float32)
    steps: Float32s = np.where(largest > 0, largest, np.float32(LEVELS)) / np.float32(LEVELS)
    return steps


def _pair(
    source: str, out: str, scale: Float32s, tensors: list[onnx.TensorProto], axis: int | None = None
) -> list[onnx.NodeProto]:
    """A QuantizeLinear and a DequantizeLinear node; their constants are added to `tensors`."""
    steps, zero, small = f"{source}.scale", f"{source}.zero", f"{source}.int8"
    tensors += [
        numpy_helper.from_array(scale, steps),
        numpy_helper.from_array(np.zeros(scale.shape, np.int8), zero),
    ]
    where = {} if axis is None else {"axis": axis}
    return [
        helper.make_node("QuantizeLinear", [source, steps, zero], [small], name=small, **where),
        helper.make_node("DequantizeLinear", [small, steps, zero], [out], name=out, **where),
    ]


def _cast(source: str, out: str, to: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [out], name=f"{out}.cast", to=to)


def _rename(names: Any, table: Mapping[str, str]) -> None:
    for i, name in enumerate(names):
        names[i] = table.get(name, name)


def _batch(proto: onnx.ModelProto) -> int:
    """Fixed batch size of the first input; 0 where it is open."""
    return int(proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value)


def _refuse_others(proto: onnx.ModelProto, known: frozenset[str], target: str) -> None:
    other = sorted({n.op_type for n in proto.graph.node} - known)
    if other:
        raise BuildError(f"no {target} graph can be written for the operator {', '.join(other)}; use fp32")


def _read(model: bytes) -> onnx.ModelProto:
    try:
        proto = onnx.load_model_from_string(model)
    except Exception as exc:  # protobuf's DecodeError has moved between versions
        raise BuildError(f"these {len(model)} bytes are not an ONNX model: {exc}") from exc
    if len(proto.graph.input) != 1 or not proto.graph.output:
        raise BuildError(
            f"expected a model with one input and an output, found {len(proto.graph.input)} inputs"
        )
    return proto


def _with_nodes(proto: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> bytes:
    copies = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
    del proto.graph.node[:]
    proto.graph.node.extend(copies)
    return bytes(proto.SerializeToString())
