"""What each block kind computes.

A `Recipe` is the one truth about a block. The torch builder, the ONNX writer and the counters
all interpret it, so a new kind is one function here and one line in `KINDS`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from hwnas.nets.ops import INPUT, SKIP, Act, Add, Concat, Conv, Draft, Linear, Op, Pool, Recipe, Scale
from hwnas.nets.stagewise import cells
from hwnas.spec import BlockSpec, Convention

__all__ = [
    "INPUT",
    "KINDS",
    "SKIP",
    "Act",
    "Add",
    "Concat",
    "Conv",
    "Linear",
    "Op",
    "Pool",
    "Recipe",
    "Scale",
    "recipe",
]


def _conv(draft: Draft, b: BlockSpec) -> None:
    draft.act("act_out", draft.conv("conv", INPUT, b.c_out, b.kernel, b.stride), b.act)


def _basic(draft: Draft, b: BlockSpec) -> None:
    x = draft.act("act1", draft.conv("conv1", INPUT, b.c_out, b.kernel, b.stride), b.act)
    draft.join(b, draft.conv("conv2", x, b.c_out, b.kernel))


def _bottleneck(draft: Draft, b: BlockSpec) -> None:
    # The stride is in the 3x3 convolution, as in torchvision's ResNet-50 ("v1.5").
    hidden = b.c_out // b.expand
    x = draft.act("act1", draft.conv("conv1", INPUT, hidden), b.act)
    x = draft.act("act2", draft.conv("conv2", x, hidden, b.kernel, b.stride), b.act)
    draft.join(b, draft.conv("conv3", x, b.c_out))


def _mbconv(draft: Draft, b: BlockSpec, *, always_expand: bool = False) -> None:
    hidden, x = b.expand * b.c_in, INPUT
    if b.expand > 1 or always_expand:
        x = draft.act("act1", draft.conv("expand", x, hidden), b.act)
    x = draft.act("act2", draft.conv("depth", x, hidden, b.kernel, b.stride, depthwise=True), b.act)
    if b.se:
        x = draft.gate(x, b.se)
    x = draft.conv("project", x, b.c_out)
    if b.joins_identity:
        draft.add("add", x, INPUT)


def _mbconv_full(draft: Draft, b: BlockSpec) -> None:
    _mbconv(draft, b, always_expand=True)


def _sep_preact(draft: Draft, b: BlockSpec) -> None:
    x = draft.act("act_in", INPUT, b.act)
    x = draft.conv("depth", x, b.c_in, b.kernel, b.stride, depthwise=True, norm=False, bias=False)
    draft.conv("conv", x, b.c_out)


def _conv_preact(draft: Draft, b: BlockSpec) -> None:
    draft.conv("conv", draft.act("act_in", INPUT, b.act), b.c_out, b.kernel, b.stride)


def _nasnet_stem(draft: Draft, b: BlockSpec) -> None:
    draft.act("act_out", draft.conv("conv", INPUT, b.c_out, b.kernel, b.stride, bias=False), b.act)


def _classifier(draft: Draft, b: BlockSpec) -> None:
    draft.linear("linear", draft.pool("pool", draft.act("act_in", INPUT, b.act)), b.c_out)


KINDS: dict[str, Callable[[Draft, BlockSpec], None]] = {
    "conv": _conv,
    "basic": _basic,
    "bottleneck": _bottleneck,
    "mbconv": _mbconv,
    "mbconv_full": _mbconv_full,
    "sep_preact": _sep_preact,
    "conv_preact": _conv_preact,
    "nasnet_stem": _nasnet_stem,
    "nasnet_normal": cells.normal,
    "nasnet_reduction": cells.reduction,
    "classifier": _classifier,
}


@lru_cache(maxsize=65536)
def recipe(block: BlockSpec, convention: Convention = "torch") -> Recipe:
    """The operations of a block.

    Args:
        block: what to build.
        convention: ``keras`` gives convolutions a bias and shortcuts no batch norm, ``torch`` the
            reverse (`hwnas.spec.NetworkSpec`).
    """
    draft = Draft(block, convention)
    KINDS[block.kind](draft, block)
    return Recipe(tuple(draft.ops))
