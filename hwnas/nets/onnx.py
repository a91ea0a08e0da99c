"""Write ONNX straight from a spec and weights: the only file that writes a model; operations add nodes.

About 0.3 ms a block, where tracing an nn.Module takes a second, so latency tables and exports
use the same graphs. Batch norm is folded into the convolutions. Needs no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

import onnx
from onnx import TensorProto, helper

from hwnas import sizes
from hwnas.arrays import Float32s
from hwnas.errors import InputError
from hwnas.nets.blocks import recipe
from hwnas.nets.graph_writer import GraphWriter
from hwnas.nets.op import INPUT, SKIP
from hwnas.nets.ops import Linear
from hwnas.nets.sources import GivenWeights, RandomWeights, Source
from hwnas.sizes import MapSize
from hwnas.spec import BlockSpec, Convention, NetworkSpec
from hwnas.traced import PieceSpec, VariantSpec, builder

# Old enough for TensorRT 8.6, new enough for HardSwish; onnx's own defaults are refused by
# current runtimes.
OPSET, IR_VERSION = 17, 8
INPUT_NAME, OUTPUT_NAME = "input", "scores"
# `doc_string` of a graph that stands for a piece of a network: its ends are what lies between two blocks.
PART = "part of a network"


def network(
    spec: NetworkSpec,
    weights: Mapping[str, Float32s] | None = None,
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
    if isinstance(spec, VariantSpec):
        return builder().network_onnx(spec, weights, batch)
    source: Source = GivenWeights(weights) if weights is not None else RandomWeights(seed)
    return _model(spec.walk(), source, spec.convention, batch, title=f"network {spec.key}")


def with_metadata(model: bytes, told: Mapping[str, str]) -> bytes:
    """A model with `metadata_props` for programs that run it."""
    proto = onnx.load_from_string(model)
    helper.set_model_props(proto, dict(told))
    written: bytes = proto.SerializeToString()
    return written


def chain(
    blocks: Sequence[BlockSpec], *, batch: int | None = 1, seed: int = 0, convention: Convention = "torch"
) -> bytes:
    """Blocks whose shapes join as an ONNX model with random weights, for measuring time.

    Input and output are named as for a network, whatever the last block is. A chain that begins
    with a cell of two inputs takes them flattened, (batch, elements_in + elements_skip).

    Raises:
        InputError: for no blocks, or neighbours whose shapes differ.
    """
    pieces = [block for block in blocks if isinstance(block, PieceSpec)]
    if pieces:
        return builder().chain_onnx(pieces, batch)
    if not blocks:
        raise InputError("a chain needs at least one block")
    for before, after in pairwise(blocks):
        if (before.c_out, before.size_out) != (after.c_in, after.size_in):
            raise InputError(f"{after.key} cannot follow {before.key}: their shapes differ")
    for at, block in enumerate(blocks):
        if block.c_skip and at:
            given = _second_input(blocks, at)
            if given != (block.c_skip, block.size_skip):
                raise InputError(f"{block.key} does not fit here: its second input would be {given}")
    walk = ((str(i), b) for i, b in enumerate(blocks))
    return _model(
        walk, RandomWeights(seed), convention, batch, title=" + ".join(b.key for b in blocks), doc=PART
    )


def as_part(model: bytes) -> bytes:
    """A model marked as a part of a network."""
    proto = onnx.load_from_string(model)
    proto.graph.doc_string = PART
    return bytes(proto.SerializeToString())


def _second_input(blocks: Sequence[BlockSpec], at: int) -> tuple[int, MapSize]:
    """Channels and size of what a cell at a place in a chain finds at its second input."""
    if at > 1:
        return blocks[at - 2].c_out, blocks[at - 2].size_out
    first = blocks[0]
    return (first.c_in, first.size_in) if first.c_skip else (first.c_out, first.size_out)


def _model(
    walk: Iterable[tuple[str, BlockSpec]],
    source: Source,
    convention: Convention,
    batch: int | None,
    title: str,
    doc: str | None = None,
) -> bytes:
    """The model; `title` names its graph, for the messages of runtimes that refuse it."""
    places = list(walk)
    first, writer = places[0][1], GraphWriter()
    size = "batch" if batch is None else batch
    now, before, shape_in = _open(writer, first, size)
    for at, (place, block) in enumerate(places):
        ops, values = recipe(block, convention), {INPUT: now, SKIP: before}
        for op in ops.ops:
            inputs, name = [values[i] for i in op.inputs], f"{place}.{op.name}"
            ends_branch = op.name == ops.residual_end
            values[op.name] = op.write(writer, inputs, name, source, ends_branch=ends_branch)
        # The first block after the stem finds the stem's output at both inputs.
        before, now = now if at or first.c_skip else values[ops.output], values[ops.output]
    last = ops.ops[-1]
    writer.nodes[-1].output[0] = OUTPUT_NAME
    shape_out = [size, last.channels] + ([] if isinstance(last, Linear) else [*sizes.sides(last.size)])
    graph = helper.make_graph(
        writer.nodes,
        title,
        [helper.make_tensor_value_info(INPUT_NAME, TensorProto.FLOAT, shape_in)],
        [helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, shape_out)],
        list(writer.tensors.values()),
        doc,
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="hwnas"
    )
    return bytes(model.SerializeToString())


def _open(writer: GraphWriter, first: BlockSpec, size: int | str) -> tuple[str, str, list[int | str]]:
    """The first block's inputs, and the shape of the graph's only one.

    A chain that begins with a cell takes both of the cell's inputs, flattened and side by side, so
    that every graph has one input.
    """
    shapes = [(first.c_in, first.size_in), (first.c_skip, first.size_skip)]
    if not first.c_skip:
        return INPUT_NAME, "", [size, first.c_in, *sizes.sides(first.size_in)]
    lengths = [first.elements_in, first.elements_skip]
    parts = ["x.flat", "skip.flat"]
    node = helper.make_node("Split", [INPUT_NAME, writer.integers("lengths", lengths)], parts, axis=1)
    writer.nodes.append(node)
    names = []
    for part, (channels, of) in zip(parts, shapes):
        shape = writer.integers(f"{part}.shape", (-1, channels, *sizes.sides(of)))
        names.append(writer.node("Reshape", (part, shape), part.removesuffix(".flat")))
    return names[0], names[1], [size, sum(lengths)]
