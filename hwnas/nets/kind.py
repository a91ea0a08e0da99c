"""What a kind of block is: the operations it writes, and what is known of its growth."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from hwnas.arrays import Float32s
from hwnas.nets.draft import Draft
from hwnas.spec import BlockSpec

Axis = Literal["c_in", "c_out", "kernel", "hidden"]
EVERY_AXIS: frozenset[Axis] = frozenset({"c_in", "c_out", "kernel", "hidden"})
# Applying one of these to its own output changes nothing.
IDEMPOTENT = ("none", "relu", "relu6")


@dataclass(frozen=True)
class GrowthRule:
    """What growth may do with a kind. The defaults promise nothing.

    Attributes:
        axes: sizes that may rise while the function is kept; all others must stay.
        hidden: channels inside a block.
        keeps: a further condition on (old, new, block before) for the function to be kept.
        inserts: whether a block of equal shapes, put between two others (before, block, after), can
            pass its input on unchanged: a residual branch of zero, or unit convolutions.
        before_last: whether blocks are inserted before the last one of a stage instead of behind it.
        takes_from: other kinds whose arrays mean the same.
        computes: other kinds whose function this one can compute.
        merge: makes arrays (by name inside the block) from those of a kind in `computes`.
        units: convolutions that start as the identity where the old block has none.
        gated: convolution whose weights are doubled when a gate is new, which starts at 1/2.
    """

    axes: frozenset[Axis] = frozenset()
    hidden: Callable[[BlockSpec], int] = lambda block: block.c_out
    keeps: Callable[[BlockSpec, BlockSpec, BlockSpec], bool] = lambda old, new, before: True
    inserts: Callable[[BlockSpec, BlockSpec, BlockSpec], bool] = lambda before, block, after: False
    before_last: bool = False
    takes_from: frozenset[str] = frozenset()
    computes: frozenset[str] = frozenset()
    merge: Callable[[Mapping[str, Float32s]], Mapping[str, Float32s]] = lambda old: {}
    units: tuple[str, ...] = ()
    gated: str = ""


@dataclass(frozen=True)
class BlockKind:
    """One kind of block.

    Attributes:
        write: writes the operations of a block into a draft.
        growth: its growth rule; without one growth refuses the kind.
        check: says what is wrong with a block of this kind, or nothing.
        two_inputs: whether it reads the block before the previous one, too.
        repeats: whether it may follow itself at stride 1.
        ends_in_act: whether what it gives has passed its activation.
    """

    write: Callable[[Draft, BlockSpec], None]
    growth: GrowthRule | None = None
    check: Callable[[BlockSpec], str | None] = lambda block: None
    two_inputs: bool = False
    repeats: bool = True
    ends_in_act: bool = False
