"""What a network costs, counted from its recipes. The rules are in docs/counting.md.

A MAC is one multiply-accumulate; only convolutions and fully connected layers have any. Biases,
batch norm, activations, pooling and adds count as none, as in the published figures that the
tests compare with.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

from hwnas import sizes
from hwnas.nets.blocks import recipe
from hwnas.nets.draft import Dataflow
from hwnas.nets.op import INPUT, SKIP, Shape
from hwnas.nets.ops import Conv
from hwnas.spec import BlockSpec, Convention, NetworkSpec
from hwnas.traced import PieceSpec

BYTES = 4  # fp32


@dataclass(frozen=True)
class Counts:
    """Counts of a block or network, for one image.

    Attributes:
        macs: multiply-accumulates of convolutions and fully connected layers.
        params_trainable: weights, biases, batch-norm scales and shifts.
        params_stored: the same and the batch-norm moving mean and variance.
        params: the one of the two that the network's convention publishes.
        depth: convolutions on feature maps, 1x1 shortcuts included; not the two of a
            squeeze-and-excitation gate, not the classifier.
        activation_bytes: largest sum of activations alive at once, fp32 (see docs/counting.md).
        weight_bytes: what is deployed, fp32: weights and biases after batch norm is folded.
    """

    macs: int
    params: int
    params_trainable: int
    params_stored: int
    depth: int
    activation_bytes: int
    weight_bytes: int


def count(spec: NetworkSpec) -> Counts:
    """Count a whole network."""
    return _total((count_block(b, spec.convention) for b in spec.blocks), spec.convention)


@lru_cache(maxsize=65536)
def count_block(block: BlockSpec, convention: Convention = "torch") -> Counts:
    """Count one block."""
    if isinstance(block, PieceSpec):
        names = ("macs", "params", "activation_bytes", "weight_bytes", "depth")
        told = {name: getattr(block, name) for name in names}
        return Counts(**told, params_trainable=block.params, params_stored=block.params)
    ops = recipe(block, convention)
    return _total(
        [
            Counts(
                macs=sum(op.macs for op in ops.ops),
                params=0,
                params_trainable=sum(_size(op.weights()) for op in ops.ops),
                params_stored=sum(_size(op.weights()) + _size(op.statistics()) for op in ops.ops),
                depth=sum(isinstance(op, Conv) and not op.name.startswith("se_") for op in ops.ops),
                activation_bytes=BYTES * max(_alive(block, ops)),
                weight_bytes=BYTES * sum(op.deployed for op in ops.ops),
            )
        ],
        convention,
    )


def _total(parts: Iterable[Counts], convention: Convention) -> Counts:
    parts = list(parts)

    def add(name: str) -> int:
        return sum(getattr(part, name) for part in parts)

    return Counts(
        macs=add("macs"),
        params=add("params_stored" if convention == "keras" else "params_trainable"),
        params_trainable=add("params_trainable"),
        params_stored=add("params_stored"),
        depth=add("depth"),
        activation_bytes=max(part.activation_bytes for part in parts),
        weight_bytes=add("weight_bytes"),
    )


def _size(arrays: Mapping[str, Shape]) -> int:
    """Number of values in all of them."""
    return sum(map(math.prod, arrays.values()))


def _alive(block: BlockSpec, ops: Dataflow) -> Iterator[int]:
    """Activations alive while each operation runs: what is still needed, and its output.

    An element-wise operation overwrites its input when nothing else needs that. The input of a
    cell stays, as the next one's second input.
    """
    elements = {op.name: op.channels * sizes.pixels(op.size) for op in ops.ops}
    elements |= {INPUT: block.elements_in, SKIP: block.elements_skip}
    last_use = {name: at for at, op in enumerate(ops.ops) for name in op.inputs}
    if block.c_skip:
        last_use[INPUT] = len(ops.ops)
    alive = {INPUT, SKIP}
    for at, op in enumerate(ops.ops):
        ending = {name for name in op.inputs if last_use[name] == at}
        in_place = op.overwrites and bool(ending)
        yield sum(elements[name] for name in alive) + (0 if in_place else elements[op.name])
        alive = (alive - ending) | {op.name}
