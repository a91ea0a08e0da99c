"""Write ONNX straight from a spec and weights: the only file that writes ONNX.

About 0.3 ms a block, where tracing an nn.Module takes a second, so latency tables and exports
use the same graphs. Batch norm is folded into the convolutions. Needs no torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from hwnas.errors import DataFormatError, InputError
from hwnas.nets.blocks import INPUT, NORM_EPS, Act, Add, Conv, GlobalPool, Linear, Op, Scale, recipe
from hwnas.spec import BlockSpec, Convention, NetworkSpec

Floats = NDArray[np.float32]

# Old enough for TensorRT 8.6, new enough for HardSwish; onnx's own defaults are refused by
# current runtimes.
OPSET, IR_VERSION = 17, 8
INPUT_NAME, OUTPUT_NAME = "input", "scores"


def network(
    spec: NetworkSpec,
    weights: Mapping[str, Floats] | None = None,
    *,
    batch: int | None = 1,
    seed: int = 0,
) -> bytes:
    """A network as a serialised ONNX model: ``input`` (batch, C, H, W) to raw ``scores`` (batch, classes).

    Args:
        spec: the network.
        weights: arrays by state-dict name (`hwnas.nets.build.weights`); None gives random ones
            of usual scale, for measuring time.
        batch: batch size; None leaves it open.
        seed: of the random weights.

    Raises:
        DataFormatError: where `weights` lacks an array or its shape is wrong.
    """
    source = _Given(weights) if weights is not None else _Random(seed)
    return _model(spec.walk(), source, spec.convention, batch, title=f"network {spec.key}")


def chain(
    blocks: Sequence[BlockSpec], *, batch: int | None = 1, seed: int = 0, convention: Convention = "torch"
) -> bytes:
    """Blocks whose shapes join as an ONNX model with random weights, for measuring time.

    Input and output are named as for a network, whatever the last block is.

    Raises:
        InputError: for no blocks, or neighbours whose shapes differ.
    """
    if not blocks:
        raise InputError("a chain needs at least one block")
    for before, after in pairwise(blocks):
        if (before.c_out, before.size_out) != (after.c_in, after.size_in):
            raise InputError(f"{after.key} cannot follow {before.key}: their shapes differ")
    walk = ((str(i), b) for i, b in enumerate(blocks))
    return _model(walk, _Random(seed), convention, batch, title=" + ".join(b.key for b in blocks))


class _Given:
    """Weights of a trained network."""

    def __init__(self, weights: Mapping[str, Floats]) -> None:
        self.weights = weights

    def _get(self, name: str, shape: tuple[int, ...]) -> Floats:
        if name not in self.weights:
            raise DataFormatError(f"the weights lack {name!r}; they are of another network")
        value = self.weights[name]
        if value.shape != shape:
            raise DataFormatError(f"weight {name!r} has shape {value.shape}; the network needs {shape}")
        return value

    def conv(self, place: str, op: Conv, *, ends_branch: bool) -> tuple[Floats, Floats | None]:
        """Weight and bias of a convolution with its batch norm folded in."""
        weight = self._get(f"{place}.weight", op.weight_shape)
        channel = (op.channels,)
        bias = self._get(f"{place}.bias", channel) if op.bias else None
        if not op.norm:
            return weight, bias
        gamma, beta, mean, var = (
            self._get(f"{place}_norm.{part}", channel).astype(np.float64)
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        scale = gamma / np.sqrt(var + NORM_EPS)
        shift = beta + ((0.0 if bias is None else bias) - mean) * scale
        return (weight * scale[:, None, None, None]).astype(np.float32), shift.astype(np.float32)

    def linear(self, place: str, op: Linear) -> tuple[Floats, Floats]:
        """Weight and bias of a fully connected layer."""
        return (
            self._get(f"{place}.weight", (op.channels, op.c_in)),
            self._get(f"{place}.bias", (op.channels,)),
        )


@cache
def _normals() -> Floats:
    """Standard normal numbers to be dealt out; the odd length keeps rows of a weight apart."""
    return np.random.default_rng(0).standard_normal(65537, dtype=np.float32)


class _Random:
    """Weights that keep activations at a usual scale, so that no time is spent on denormals."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def _draw(self, shape: tuple[int, ...], std: float) -> Floats:
        pool = _normals()
        start = int(self.rng.integers(len(pool)))
        flat: Floats = np.resize(np.roll(pool, -start), math.prod(shape)) * np.float32(std)
        return flat.reshape(shape)

    def conv(self, place: str, op: Conv, *, ends_branch: bool) -> tuple[Floats, Floats | None]:
        """Weight of variance 2 / fan-in, and a small bias where the folded layer has one.

        At the end of a residual branch a fifth of that, or deep sums would overflow fp16.
        """
        fan_in = op.weight_shape[1] * op.kernel**2
        weight = self._draw(op.weight_shape, (2.0 / fan_in) ** 0.5 * (0.2 if ends_branch else 1.0))
        return weight, self._draw((op.channels,), 0.1) if op.norm or op.bias else None

    def linear(self, place: str, op: Linear) -> tuple[Floats, Floats]:
        """Weight of variance 1 / fan-in and a small bias."""
        return self._draw((op.channels, op.c_in), op.c_in**-0.5), self._draw((op.channels,), 0.1)


class _Writer:
    """Collects nodes and initialisers; methods return the name of the value they add."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: dict[str, onnx.TensorProto] = {}

    def node(self, kind: str, inputs: Iterable[str], name: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def tensor(self, name: str, value: NDArray[Any]) -> str:
        if name not in self.tensors:
            data = np.ascontiguousarray(value, dtype=np.float32).tobytes()
            self.tensors[name] = helper.make_tensor(name, TensorProto.FLOAT, value.shape, data, raw=True)
        return name

    def act(self, fn: str, x: str, name: str) -> str:
        if fn == "relu6":
            low, high = self.tensor("zero", np.array(0.0)), self.tensor("six", np.array(6.0))
            return self.node("Clip", (x, low, high), name)
        if fn == "swish":
            return self.node("Mul", (x, self.node("Sigmoid", (x,), f"{name}.sigmoid")), name)
        return self.node({"relu": "Relu", "hswish": "HardSwish", "sigmoid": "Sigmoid"}[fn], (x,), name)

    def conv(self, op: Conv, x: str, name: str, weight: Floats, bias: Floats | None) -> str:
        inputs = [x, self.tensor(f"{name}.weight", weight)]
        inputs += [self.tensor(f"{name}.bias", bias)] if bias is not None else []
        return self.node(
            "Conv",
            inputs,
            name,
            kernel_shape=[op.kernel] * 2,
            strides=[op.stride] * 2,
            pads=[op.kernel // 2] * 4,
            group=op.groups,
        )

    def linear(self, x: str, name: str, weight: Floats, bias: Floats) -> str:
        flat = self.node("Flatten", (x,), f"{name}.flat", axis=1)
        inputs = (flat, self.tensor(f"{name}.weight", weight), self.tensor(f"{name}.bias", bias))
        return self.node("Gemm", inputs, name, transB=1)

    def op(
        self, op: Op, inputs: Sequence[str], name: str, source: _Given | _Random, *, ends_branch: bool
    ) -> str:
        match op:
            case Conv():
                return self.conv(op, inputs[0], name, *source.conv(name, op, ends_branch=ends_branch))
            case Act():
                return self.act(op.fn, inputs[0], name)
            case Add():
                return self.node("Add", inputs, name)
            case Scale():
                return self.node("Mul", inputs, name)
            case GlobalPool():
                return self.node("GlobalAveragePool", inputs, name)
            case Linear():
                return self.linear(inputs[0], name, *source.linear(name, op))
        raise AssertionError(f"no ONNX for {type(op).__name__}")


def _model(
    walk: Iterable[tuple[str, BlockSpec]],
    source: _Given | _Random,
    convention: Convention,
    batch: int | None,
    title: str,
) -> bytes:
    """The model; `title` names its graph, for the messages of runtimes that refuse it."""
    writer, before = _Writer(), INPUT_NAME
    first: BlockSpec | None = None
    for place, block in walk:
        first = first or block
        ops, values = recipe(block, convention), {INPUT: before}
        for op in ops.ops:
            inputs, name = [values[i] for i in op.inputs], f"{place}.{op.name}"
            values[op.name] = writer.op(op, inputs, name, source, ends_branch=op.name == ops.residual_end)
        before, last = values[ops.output], ops.ops[-1]
    assert first is not None
    writer.nodes[-1].output[0] = OUTPUT_NAME
    size = "batch" if batch is None else batch
    shape_in = [size, first.c_in, first.size_in, first.size_in]
    shape_out = [size, last.channels] + ([] if isinstance(last, Linear) else [last.size] * 2)
    graph = helper.make_graph(
        writer.nodes,
        title,
        [helper.make_tensor_value_info(INPUT_NAME, TensorProto.FLOAT, shape_in)],
        [helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, shape_out)],
        list(writer.tensors.values()),
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="hwnas"
    )
    return bytes(model.SerializeToString())
