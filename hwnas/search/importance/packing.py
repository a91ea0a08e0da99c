"""Many growths in one network, so that one backward pass judges all of them.

A growth that keeps the function leaves every activation and every gradient of the old channels as they
were: new outputs are read with weight zero, a larger kernel has a rim of zeros, an inserted block is an
identity. So growths made together do not see each other once weights between what two of them add are
zero (`isolate`), and the gradients that one has alone are a part of those of all. Gates are the exception:
one starts at 1/2, which doubles the weights behind it; they share a pass among themselves. Growths that do
not keep the function get one pass each.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

import torch
from torch import Tensor, nn

from hwnas.errors import InputError
from hwnas.nets.build import Network
from hwnas.nets.growth import preserves
from hwnas.protocols import Move
from hwnas.spec import BlockSpec, NetworkSpec

Shapes = dict[str, tuple[int, ...]]


def groups(spec: NetworkSpec, moves: Sequence[Move]) -> list[tuple[list[Move], NetworkSpec]]:
    """The growths in as few networks as judge them alone, with these networks."""
    keeping = [move for move in moves if preserves(spec, move.spec)]
    gates = [move for move in keeping if move.kind.endswith("se")]
    found: list[tuple[list[Move], NetworkSpec]] = []
    for one in ([move for move in keeping if move not in gates], gates):
        found += _packed(spec, one)
    return found + [([move], move.spec) for move in moves if move not in keeping]


def _packed(spec: NetworkSpec, moves: Sequence[Move]) -> list[tuple[list[Move], NetworkSpec]]:
    """Each growth in the first group that it goes together with."""
    found: list[tuple[list[Move], NetworkSpec]] = []
    for move in moves:
        for n, (group, _) in enumerate(found):
            whole = merged(spec, [*group, move])
            if whole is not None and preserves(spec, whole):
                found[n] = ([*group, move], whole)
                break
        else:
            found.append(([move], move.spec))
    return found


def merged(spec: NetworkSpec, moves: Sequence[Move]) -> NetworkSpec | None:
    """The network with all growths, each of another stage or another kind; None where they contradict."""
    stages = []
    for s, stage in enumerate(spec.stages):
        depth = max([len(stage), *(len(move.spec.stages[s]) for move in moves)])
        padded = [*stage, *[None] * (depth - len(stage))]
        versions = [move.spec.stages[s] for move in moves]
        blocks: list[BlockSpec] = []
        for n, old in enumerate(padded):
            # An inserted block repeats the last one, with what that grew by.
            made = _changed(old, [v[n] for v in versions]) if old else blocks[-1].repeated()
            if made is None:
                return None
            blocks.append(made)
        stages.append(tuple(blocks))
    stem = _changed(spec.stem, [move.spec.stem for move in moves])
    head = _changed(spec.head, [move.spec.head for move in moves])
    if stem is None or head is None:
        return None
    try:
        return NetworkSpec(
            stem=stem, stages=tuple(stages), head=head, convention=spec.convention, space=spec.space
        )
    except ValueError:  # what grows together does not join up
        return None


def _changed(old: BlockSpec, versions: Sequence[BlockSpec]) -> BlockSpec | None:
    """A block with every field as the version has it that changes it; None if two change it differently."""
    update: dict[str, object] = {}
    for version in versions:
        for name in BlockSpec.model_fields:
            value = getattr(version, name)
            if value != getattr(old, name) and update.setdefault(name, value) != value:
                return None
    return old.model_copy(update=update)


def shapes(spec: NetworkSpec) -> Shapes:
    """Shapes of a network's parameters, without building them."""
    with torch.device("meta"):
        return {name: tuple(value.shape) for name, value in Network(spec).named_parameters()}


def isolate(net: nn.Module, old: Shapes, single: Sequence[Shapes]) -> None:
    """Zero the weights of a network of all growths that no single growth has, in place.

    Between them, new channels would read new channels of another growth.

    Args:
        net: the network of all growths.
        old: shapes before any growth.
        single: shapes after each growth alone.
    """
    with torch.no_grad():
        for name, value in net.named_parameters():
            if value.ndim < 2:
                continue
            shared = torch.ones_like(value, dtype=torch.bool)
            for known in (old, *single):
                if name in known:
                    shared[_place(known[name], tuple(value.shape))] = False
            value[shared] = 0.0


def added(grad: Tensor, old: tuple[int, ...] | None, new: tuple[int, ...]) -> Tensor:
    """Of a gradient in the network of all growths, the values that one of them adds; flat.

    Args:
        grad: of a parameter.
        old: its shape before any growth; None where it was not there.
        new: its shape after the growth in question.
    """
    mine = grad[_place(new, tuple(grad.shape))]
    if old is None:
        return mine.flatten()
    is_new = torch.ones_like(mine, dtype=torch.bool)
    is_new[_place(old, new)] = False
    return mine[is_new]


def _place(inner: tuple[int, ...], outer: tuple[int, ...]) -> tuple[slice, ...]:
    """Where smaller weights lie in larger ones: channels in front, kernels in the middle."""
    if len(inner) != len(outer) or any(a > b for a, b in zip_longest(inner, outer, fillvalue=0)):
        raise InputError(f"weights of shape {inner} are not contained in those of shape {outer}")
    return tuple(
        slice((b - a) // 2, (b - a) // 2 + a) if axis >= 2 else slice(0, a)
        for axis, (a, b) in enumerate(zip(inner, outer, strict=True))
    )
