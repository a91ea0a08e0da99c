"""Reading and rewriting ONNX graphs: what the typed and the quantized forms share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import onnx
from onnx import TensorProto, helper

from hwnas.errors import BuildError, InputError

HARD_SWISH_OPSET = 14  # the first that has it


def read(model: bytes) -> onnx.ModelProto:
    """A model with one input; BuildError for anything else."""
    try:
        proto = onnx.load_model_from_string(model)
    except Exception as exc:  # protobuf's DecodeError has moved between versions
        raise BuildError(f"these {len(model)} bytes are not an ONNX model: {exc}") from exc
    if len(proto.graph.input) != 1 or not proto.graph.output:
        raise BuildError(
            f"expected a model with one input and an output, found {len(proto.graph.input)} inputs"
        )
    return proto


def rename(names: Any, table: Mapping[str, str]) -> None:
    """Replace names in place."""
    for i, name in enumerate(names):
        names[i] = table.get(name, name)


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


def with_nodes(proto: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> bytes:
    """The model with other nodes."""
    copies = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
    del proto.graph.node[:]
    proto.graph.node.extend(copies)
    return bytes(proto.SerializeToString())


def without_hard_swish(proto: onnx.ModelProto, but: Collection[str] = ()) -> None:
    """HardSwish becomes x * HardSigmoid(x) with slope 1/6, in place; not where its output is one of `but`."""
    nodes = []
    for node in proto.graph.node:
        if node.op_type != "HardSwish" or node.output[0] in but:
            nodes.append(onnx.NodeProto.FromString(node.SerializeToString()))
            continue
        gate = f"{node.output[0]}.gate"
        nodes += [
            helper.make_node("HardSigmoid", [node.input[0]], [gate], name=gate, alpha=1 / 6, beta=0.5),
            helper.make_node("Mul", [node.input[0], gate], [node.output[0]], name=node.name),
        ]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)


def with_hard_swish(proto: onnx.ModelProto) -> None:
    """x * HardSigmoid(x) with slope 1/6 becomes HardSwish, in place, where nothing else reads the gate.

    ONNX Runtime's rewriting takes it apart; OpenVINO applies it within a convolution only in one piece.
    """
    if next((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), 0) < HARD_SWISH_OPSET:
        return
    read_by = Counter(name for node in proto.graph.node for name in node.input)
    read_by.update(port.name for port in proto.graph.output)
    gates = {
        node.output[0]: node.input[0]
        for node in proto.graph.node
        if node.op_type == "HardSigmoid" and read_by[node.output[0]] == 1 and _is_sixth(node)
    }
    nodes, gone = [], set()
    for node in proto.graph.node:
        gate = next((name for name in node.input if name in gates), None)
        if node.op_type == "Mul" and gate is not None and sorted(node.input) == sorted((gate, gates[gate])):
            nodes.append(helper.make_node("HardSwish", [gates[gate]], list(node.output), name=node.name))
            gone.add(gate)
        else:
            nodes.append(onnx.NodeProto.FromString(node.SerializeToString()))
    del proto.graph.node[:]
    proto.graph.node.extend(node for node in nodes if node.output[0] not in gone)


def _is_sixth(node: onnx.NodeProto) -> bool:
    """Whether a HardSigmoid is clip(x / 6 + 1 / 2, 0, 1)."""
    given = {a.name: float(a.f) for a in node.attribute}
    return abs(given.get("alpha", 0.2) - 1 / 6) < 1e-6 and abs(given.get("beta", 0.5) - 0.5) < 1e-6


def input_dims(proto: onnx.ModelProto) -> list[int]:
    """Sizes of the input, 0 for any; InputError where it takes no float32 values, as images are."""
    port = proto.graph.input[0].type.tensor_type
    if port.elem_type != TensorProto.FLOAT:
        kind = TensorProto.DataType.Name(port.elem_type).lower()
        raise InputError(f"the model takes {kind} values; images are float32")
    return [max(d.dim_value, 0) for d in port.shape.dim]
