"""Blocks without a branch: one convolution, the stem of NASNet, the classifier."""

from __future__ import annotations

from hwnas.nets.blocks.rules import behind_activation
from hwnas.nets.draft import Draft
from hwnas.nets.kind import EVERY_AXIS, BlockKind, GrowthRule
from hwnas.nets.op import INPUT
from hwnas.spec import BlockSpec


def _conv(draft: Draft, b: BlockSpec) -> None:
    draft.act("act_out", draft.conv("conv", INPUT, b.c_out, b.kernel, b.stride), b.act)


def _pooled(draft: Draft, b: BlockSpec) -> None:
    """The image is halved by a maximum over overlapping windows, not by the convolution."""
    conv = draft.conv("conv", INPUT, b.c_out, b.kernel, max(1, b.stride // 2))
    x = draft.act("act", conv, b.act)
    if b.stride > 1:
        draft.window("pool", x, "max", 2)


def _nasnet_stem(draft: Draft, b: BlockSpec) -> None:
    draft.act("act_out", draft.conv("conv", INPUT, b.c_out, b.kernel, b.stride, bias=False), b.act)


def _classifier(draft: Draft, b: BlockSpec) -> None:
    draft.linear("linear", draft.pool("pool", draft.act("act_in", INPUT, b.act)), b.c_out)


CONV = BlockKind(_conv, GrowthRule(EVERY_AXIS, inserts=behind_activation), ends_in_act=True)
# The maximum of values that passed an activation has passed it, too.
POOLED_CONV = BlockKind(_pooled, GrowthRule(EVERY_AXIS, inserts=behind_activation), ends_in_act=True)
NASNET_STEM = BlockKind(_nasnet_stem, GrowthRule(EVERY_AXIS, inserts=behind_activation))
CLASSIFIER = BlockKind(_classifier, GrowthRule(EVERY_AXIS))
