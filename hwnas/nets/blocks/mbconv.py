"""Inverted residuals (MobileNetV2; with squeeze and excitation, MobileNetV3)."""

from __future__ import annotations

from dataclasses import replace

from hwnas.nets.blocks.rules import activated, always
from hwnas.nets.draft import Draft
from hwnas.nets.kind import EVERY_AXIS, BlockKind, GrowthRule
from hwnas.nets.op import INPUT
from hwnas.spec import BlockSpec


def _hidden(b: BlockSpec) -> int:
    return b.expand * b.c_in


def _squeeze(b: BlockSpec) -> int:
    return max(1, int(b.se * _hidden(b))) if b.se else 0


def _write(draft: Draft, b: BlockSpec, *, always_expand: bool = False) -> None:
    hidden, x = _hidden(b), INPUT
    if b.expand > 1 or always_expand:
        x = draft.act("act1", draft.conv("expand", x, hidden), b.act)
    x = draft.act("act2", draft.conv("depth", x, hidden, b.kernel, b.stride, depthwise=True), b.act)
    if b.se:
        x = draft.gate(x, b.se)
    x = draft.conv("project", x, b.c_out)
    if b.joins_identity:
        draft.residual("add", x, INPUT)


def _write_full(draft: Draft, b: BlockSpec) -> None:
    _write(draft, b, always_expand=True)


def _keeps_full(old: BlockSpec, new: BlockSpec, before: BlockSpec) -> bool:
    return old.joins_identity == new.joins_identity and (old.se == 0 or _squeeze(new) >= _squeeze(old))


def _keeps(old: BlockSpec, new: BlockSpec, before: BlockSpec) -> bool:
    if (old.expand == 1) != (new.expand == 1) and not activated(before, new.act):
        return False  # an activation has come between the input and the depthwise convolution
    return _keeps_full(old, new, before)


_GROWTH = GrowthRule(
    EVERY_AXIS,
    _hidden,
    keeps=_keeps,
    inserts=always,
    takes_from=frozenset({"mbconv_full"}),
    units=("expand",),
    gated="project",
)
MBCONV = BlockKind(_write, _GROWTH)
MBCONV_FULL = BlockKind(_write_full, replace(_GROWTH, keeps=_keeps_full, takes_from=frozenset({"mbconv"})))
