"""What an ONNX graph costs on the fake device: a roofline per operator, with effects between them.

Per operator: max(arithmetic / peak, bytes / bandwidth) + overhead (Williams et al. 2009, "Roofline").
Between operators, as in real runtimes, so that a sum of isolated blocks is not a network:

- an element-wise operator behind a convolution is fused into it: no overhead, no extra traffic;
- a tensor that fits in half the cache is read from the cache, else from memory;
- weights beyond the cache size are streamed from memory on every call, so a large network pays
  for weights that its blocks alone would keep in the cache;
- at the edges of a graph four-dimensional tensors are converted to and from the device's layout.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any

from hwnas.errors import BuildError
from hwnas.lazy import lazy_import
from hwnas.records import Precision

onnx = lazy_import("onnx")

BYTES: Mapping[Precision, int] = {"fp32": 4, "fp16": 2}
SPEED_UP: Mapping[Precision, float] = {"fp32": 1.0, "fp16": 2.0}
FREE = frozenset({"Constant", "Identity", "Flatten", "Reshape", "Dropout", "Squeeze", "Unsqueeze", "Cast"})
ELEMENTWISE = frozenset(
    {"Relu", "Clip", "Add", "Sub", "Mul", "Div", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "LeakyRelu"}
    | {"Erf", "Gelu", "Sqrt", "Pow", "Exp", "Elu", "PRelu", "Neg", "Abs", "Min", "Max"}
)
# Operators that move or reduce values and have no multiply-accumulates.
MOVES = frozenset(
    {"MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceSum", "ReduceMax"}
    | {"BatchNormalization", "LayerNormalization", "InstanceNormalization", "Softmax", "LogSoftmax", "ArgMax"}
    | {"Concat", "Split", "Slice", "Pad", "Transpose", "Gather", "Expand", "Resize", "Shape"}
)


@dataclass(frozen=True)
class FakeDevice:
    """Figures of the fake device. They describe no real device; they are near one core of a current server.

    Attributes:
        gmacs_per_s: peak of one thread in fp32, 10^9 multiply-accumulates a second.
        cache_gb_per_s, memory_gb_per_s: bandwidths of one thread from the cache, of all from memory.
        cache_bytes: size of the cache.
        op_overhead_us, call_overhead_us: fixed cost of an operator and of a call.
        lane: channels are worked off in groups of this many, so 9 cost as much as 16.
        depthwise_efficiency: share of the peak that a grouped convolution reaches.
        thread_exponent: `n` threads are n ** exponent times as fast.
        cores: largest number of threads.
    """

    gmacs_per_s: float = 90.0
    cache_gb_per_s: float = 60.0
    memory_gb_per_s: float = 12.0
    cache_bytes: int = 1 << 20
    op_overhead_us: float = 2.0
    call_overhead_us: float = 6.0
    lane: int = 8
    depthwise_efficiency: float = 0.15
    thread_exponent: float = 0.85
    cores: int = 4


@dataclass(frozen=True)
class _OnnxGraph:
    shapes: Mapping[str, tuple[int, ...]]
    weights: frozenset[str]
    producer: Mapping[str, str]  # tensor -> operator type
    uses: Mapping[str, int]
    outputs: frozenset[str]


@lru_cache(maxsize=64)  # a sweep builds the same few models again and again
def price_ms(model: bytes, device: FakeDevice, precision: Precision, batch: int, threads: int) -> float:
    """Milliseconds of one call of an ONNX model on the fake device, without any noise.

    Raises:
        BuildError: the model cannot be read, or a shape cannot be inferred.
    """
    graph, nodes = _read(model, batch)
    size = BYTES[precision]
    weight_bytes = sum(prod(graph.shapes[w]) for w in graph.weights) * size
    streamed = max(0.0, 1.0 - device.cache_bytes / weight_bytes) if weight_bytes else 0.0
    scale = threads**device.thread_exponent
    total_us = device.call_overhead_us
    for node in nodes:
        if node.op_type in FREE:
            continue
        macs = _padded_macs(node, graph, device)
        compute_us = macs / (device.gmacs_per_s * SPEED_UP[precision] * scale) / 1e3
        cached, memory = _traffic(node, graph, device, size, streamed)
        bytes_us = (cached / (device.cache_gb_per_s * scale) + memory / device.memory_gb_per_s) / 1e3
        overhead_us = 0.0 if _is_fused(node, graph) else device.op_overhead_us
        total_us += max(compute_us, bytes_us) + overhead_us + _edges_us(node, graph, device, size)
    return total_us / 1e3


def _read(model: bytes, batch: int) -> tuple[_OnnxGraph, Sequence[Any]]:
    try:
        proto = onnx.load_model_from_string(model)
        for dim in (d for v in proto.graph.input for d in v.type.tensor_type.shape.dim[:1]):
            if not dim.dim_value:
                dim.dim_value = batch
        for value in proto.graph.output:  # may name the batch as unknown: leave it to the inference
            value.type.tensor_type.ClearField("shape")
        graph = onnx.shape_inference.infer_shapes(proto, strict_mode=True).graph
    except Exception as exc:  # protobuf and the checker have no common base
        raise BuildError(f"the fake device cannot read this model: {exc}") from exc
    shapes: dict[str, tuple[int, ...]] = {t.name: tuple(t.dims) for t in graph.initializer}
    weights = frozenset(shapes)
    for value in (*graph.input, *graph.value_info, *graph.output):
        shapes[value.name] = tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
    for node in graph.node:
        for name in (*node.input, *node.output):
            if name and (name not in shapes or 0 in shapes[name]):
                raise BuildError(f"the fake device cannot infer the shape of {name!r} ({node.op_type})")
    producer = {name: node.op_type for node in graph.node for name in node.output}
    uses = Counter(name for node in graph.node for name in node.input)
    outputs = frozenset(v.name for v in graph.output)
    return _OnnxGraph(shapes, weights, producer, uses, outputs), graph.node


def _padded_macs(node: Any, graph: _OnnxGraph, device: FakeDevice) -> float:
    """Multiply-accumulates as the device does them: whole lanes, grouped ones at low efficiency."""
    out = prod(graph.shapes[node.output[0]])
    if node.op_type == "Conv":
        c_out, c_in, *kernel = graph.shapes[node.input[1]]
        groups = next((a.i for a in node.attribute if a.name == "group"), 1)
        if groups > 1:
            return out * c_in * prod(kernel) / device.depthwise_efficiency
        return out * prod(kernel) * _ceil(c_in, device.lane) * _ceil(c_out, device.lane) / c_out
    if node.op_type in ("Gemm", "MatMul"):
        return float(out * prod(graph.shapes[node.input[0]]) / graph.shapes[node.output[0]][0])
    if node.op_type in ELEMENTWISE or node.op_type in MOVES:
        return 0.0
    raise BuildError(
        f"the fake device has no price for the ONNX operator {node.op_type!r} ({node.name or 'unnamed'}); "
        "give it one in hwnas/backends/fake_price.py"
    )


def _ceil(channels: int, lane: int) -> int:
    # Three channels of an image are read as they are; everything else in whole lanes.
    return channels if channels < lane // 2 else -(-channels // lane) * lane


def _is_fused(node: Any, graph: _OnnxGraph) -> bool:
    """Element-wise behind a producer that computes, and the only one to read its output."""
    return node.op_type in ELEMENTWISE and any(
        graph.producer.get(name) in ("Conv", "Gemm", "Add") and graph.uses[name] == 1 for name in node.input
    )


def _traffic(
    node: Any, graph: _OnnxGraph, device: FakeDevice, size: int, streamed: float
) -> tuple[float, float]:
    """Bytes moved by an operator: (from and to the cache, from and to memory)."""
    cached = memory = 0.0
    fused = _is_fused(node, graph)
    for name in (*node.input, *node.output):
        if not name:
            continue
        amount = prod(graph.shapes[name]) * size
        if name in graph.weights:
            cached += amount * (1.0 - streamed)
            memory += amount * streamed
        elif fused and (name in node.output or graph.producer.get(name) in ("Conv", "Gemm")):
            continue  # stays in registers
        elif amount <= device.cache_bytes // 2:
            cached += amount
        else:
            memory += amount
    return cached, memory


def _edges_us(node: Any, graph: _OnnxGraph, device: FakeDevice, size: int) -> float:
    """Layout conversion of four-dimensional tensors that enter or leave the graph here."""
    enters = (n for n in node.input if n and n not in graph.weights and n not in graph.producer)
    leaves = (n for n in node.output if n in graph.outputs)
    shapes = [graph.shapes[n] for n in (*enters, *leaves)]
    return sum(
        prod(s) * size / device.cache_gb_per_s / 1e3 + device.op_overhead_us for s in shapes if len(s) == 4
    )
