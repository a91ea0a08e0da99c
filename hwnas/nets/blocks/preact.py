"""Layers of pre-activation chains (Efficient Global NAS, operators 0 and 1)."""

from __future__ import annotations

from collections.abc import Mapping

from hwnas.arrays import Float32s
from hwnas.nets.draft import Draft
from hwnas.nets.kind import EVERY_AXIS, IDEMPOTENT, BlockKind, GrowthRule
from hwnas.nets.op import INPUT
from hwnas.spec import BlockSpec

_KINDS = ("sep_preact", "conv_preact")


def _separable(draft: Draft, b: BlockSpec) -> None:
    x = draft.act("act_in", INPUT, b.act)
    x = draft.conv("depth", x, b.c_in, b.kernel, b.stride, depthwise=True, norm=False, bias=False)
    draft.conv("conv", x, b.c_out)


def _full(draft: Draft, b: BlockSpec) -> None:
    draft.conv("conv", draft.act("act_in", INPUT, b.act), b.c_out, b.kernel, b.stride)


def _inserts(before: BlockSpec, block: BlockSpec, after: BlockSpec) -> bool:
    # The activation is applied again by the next block, or there is none.
    followed = after.kind in _KINDS and after.act == block.act
    return block.act == "none" or (block.act in IDEMPOTENT and followed)


def _merged(old: Mapping[str, Float32s]) -> Mapping[str, Float32s]:
    """A depthwise and a 1x1 convolution in a row are one full convolution."""
    return {"conv.weight": old["conv.weight"] * old["depth.weight"][None, :, 0]}


SEP_PREACT = BlockKind(_separable, GrowthRule(EVERY_AXIS, inserts=_inserts, before_last=True))
CONV_PREACT = BlockKind(
    _full,
    GrowthRule(
        EVERY_AXIS,
        inserts=_inserts,
        before_last=True,
        computes=frozenset({"sep_preact"}),
        merge=_merged,
    ),
)
