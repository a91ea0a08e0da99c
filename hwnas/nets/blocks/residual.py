"""The blocks of ResNet (He et al. 2016a, figures 2 and 5)."""

from __future__ import annotations

from hwnas.nets.blocks.rules import behind_activation, no_new_identity
from hwnas.nets.draft import Draft
from hwnas.nets.kind import EVERY_AXIS, BlockKind, GrowthRule
from hwnas.nets.op import INPUT
from hwnas.spec import BlockSpec


def _basic(draft: Draft, b: BlockSpec) -> None:
    x = draft.act("act1", draft.conv("conv1", INPUT, b.c_out, b.kernel, b.stride), b.act)
    draft.join(b, draft.conv("conv2", x, b.c_out, b.kernel))


def _bottleneck(draft: Draft, b: BlockSpec) -> None:
    # The stride is in the 3x3 convolution, as in torchvision's ResNet-50 ("v1.5").
    hidden = _hidden(b)
    x = draft.act("act1", draft.conv("conv1", INPUT, hidden), b.act)
    x = draft.act("act2", draft.conv("conv2", x, hidden, b.kernel, b.stride), b.act)
    draft.join(b, draft.conv("conv3", x, b.c_out))


def _hidden(b: BlockSpec) -> int:
    return b.c_out // b.expand


def _check(b: BlockSpec) -> str | None:
    if b.c_out % b.expand:
        return f"a bottleneck of {b.c_out} channels cannot be divided by expand={b.expand}"
    return None


BASIC = BlockKind(
    _basic,
    GrowthRule(EVERY_AXIS, keeps=no_new_identity, inserts=behind_activation, units=("shortcut",)),
    ends_in_act=True,
)
BOTTLENECK = BlockKind(
    _bottleneck,
    GrowthRule(EVERY_AXIS, _hidden, keeps=no_new_identity, inserts=behind_activation, units=("shortcut",)),
    check=_check,
    ends_in_act=True,
)
