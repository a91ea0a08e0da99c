"""Inverted residuals with one full convolution (EfficientNetV2, Tan & Le 2021; torchvision's `FusedMBConv`).

kxk convolution to `expand` times the width and 1x1 back; at expand=1 one kxk convolution. The input
is added where the shapes are equal.
"""

from __future__ import annotations

from hwnas.nets.draft import SLOPE_AT_ZERO, Draft
from hwnas.nets.kind import EVERY_AXIS, BlockKind, GrowthRule
from hwnas.nets.op import INPUT
from hwnas.spec import BlockSpec


def _hidden(b: BlockSpec) -> int:
    return b.c_out if b.expand == 1 else b.expand * b.c_in


def _write(draft: Draft, b: BlockSpec) -> None:
    if b.expand == 1:
        x = draft.act("act1", draft.conv("conv", INPUT, b.c_out, b.kernel, b.stride), b.act)
    else:
        x = draft.act("act1", draft.conv("fused", INPUT, _hidden(b), b.kernel, b.stride), b.act)
        x = draft.conv("project", x, b.c_out)
    if b.joins_identity:
        draft.residual("add", x, INPUT)


def _check(b: BlockSpec) -> str | None:
    return "a fused_mbconv block has no squeeze and excitation; leave out se" if b.se else None


def _keeps(old: BlockSpec, new: BlockSpec, before: BlockSpec) -> bool:
    # With expand=1 the one convolution makes the output; it cannot become the first of two.
    return old.joins_identity == new.joins_identity and (old.expand == 1) == (new.expand == 1)


def _inserts(before: BlockSpec, block: BlockSpec, after: BlockSpec) -> bool:
    # A branch that ends in ReLU and starts at zero would never leave it.
    return block.expand > 1 or block.act in ("none", *SLOPE_AT_ZERO)


FUSED_MBCONV = BlockKind(
    _write, GrowthRule(EVERY_AXIS, _hidden, keeps=_keeps, inserts=_inserts), check=_check
)
