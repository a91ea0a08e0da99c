"""The block of ConvNeXt (Liu et al. 2022, figure 4), as in torchvision's `CNBlock`.

Depthwise kxk convolution, layer norm over the channels, 1x1 to `expand` times the width, activation
(GELU as published), 1x1 back, layer scale, residual add. Where the shape changes, a layer norm and a
convolution come first, as between the published stages; of 3x3 pixels in place of 2x2 where it
halves the image, so that odd sizes work.
"""

from __future__ import annotations

from hwnas.nets.blocks.rules import always
from hwnas.nets.draft import Draft
from hwnas.nets.kind import BlockKind, GrowthRule
from hwnas.nets.op import INPUT
from hwnas.spec import BlockSpec


def _hidden(b: BlockSpec) -> int:
    return b.expand * b.c_out


def _write(draft: Draft, b: BlockSpec) -> None:
    x = INPUT
    if not b.joins_identity:
        x, kernel = draft.channel_norm("down_norm", x), 3 if b.stride == 2 else 1
        x = draft.conv("down", x, b.c_out, kernel, b.stride, norm=False, bias=True)
    y = draft.conv("depth", x, b.c_out, b.kernel, depthwise=True, norm=False, bias=True)
    y = draft.channel_norm("layer_norm", y)
    y = draft.act("act", draft.conv("expand", y, _hidden(b), norm=False, bias=True), b.act)
    y = draft.conv("project", y, b.c_out, norm=False, bias=True, scale=True)
    draft.residual("add", y, x)


def _check(b: BlockSpec) -> str | None:
    return "a convnext block has no squeeze and excitation; leave out se" if b.se else None


# A layer norm averages over all channels, so a wider block is another function.
CONVNEXT = BlockKind(
    _write, GrowthRule(frozenset({"kernel", "hidden"}), _hidden, inserts=always), check=_check
)
