"""NASNet-A cells as recipes (Zoph et al. 2018, figure 4; the variant of StageWise NAS's networks).

Read off the published Keras models of arXiv 2004.11178, whose parameter counts the tests hold to the
digit. A separable convolution is applied twice, each time ReLU, depthwise, 1x1, batch norm. No
convolution of a cell has a bias.
"""

from __future__ import annotations

from hwnas import sizes
from hwnas.nets.draft import Draft
from hwnas.nets.kind import BlockKind, GrowthRule
from hwnas.nets.op import INPUT, SKIP
from hwnas.spec import BlockSpec


def _normal(draft: Draft, b: BlockSpec) -> None:
    """The normal cell: six branches of c_out / 6 filters, side by side."""
    filters = b.c_out // 6
    p = _adjusted(draft, b, filters)
    h = _squeezed(draft, b, filters)
    x1 = draft.add("add1", _separable(draft, "left1", h, 5), _separable(draft, "right1", p, 3))
    x2 = draft.add("add2", _separable(draft, "left2", p, 5), _separable(draft, "right2", p, 3))
    x3 = draft.add("add3", draft.window("left3", h, "mean"), p)
    # The published cell adds the same mean twice; two inputs of one Add are one pooling.
    mean = draft.window("left4", p, "mean")
    x4 = draft.add("add4", mean, mean)
    x5 = draft.add("add5", _separable(draft, "left5", h, 3), h)
    draft.concat("concat", p, x1, x2, x3, x4, x5)


def _reduction(draft: Draft, b: BlockSpec) -> None:
    """The reduction cell: halves the image; four branches of c_out / 4 filters, side by side."""
    filters = b.c_out // 4
    p = _adjusted(draft, b, filters)
    h = _squeezed(draft, b, filters)
    x1 = draft.add("add1", _separable(draft, "left1", h, 5, 2), _separable(draft, "right1", p, 7, 2))
    largest = draft.window("left2", h, "max", 2)
    x2 = draft.add("add2", largest, _separable(draft, "right2", p, 7, 2))
    x3 = draft.add("add3", draft.window("left3", h, "mean", 2), _separable(draft, "right3", p, 5, 2))
    x4 = draft.add("add4", draft.window("left4", x1, "mean"), x2)
    x5 = draft.add("add5", _separable(draft, "left5", x1, 3), largest)
    draft.concat("concat", x2, x3, x4, x5)


def _squeezed(draft: Draft, b: BlockSpec, filters: int) -> str:
    """The cell's input brought to its number of filters."""
    return draft.conv("squeeze", draft.act("squeeze_act", INPUT, b.act), filters, bias=False)


def _adjusted(draft: Draft, b: BlockSpec, filters: int) -> str:
    """The second input brought to the cell's resolution and number of filters.

    At twice the resolution it is sampled at the even pixels and, one pixel further, at the odd ones;
    half of the filters see each. The batch norm over both halves is one for each.
    """
    if b.size_skip != b.size_in:
        x = draft.act("adjust_act", SKIP, b.act)
        even = draft.conv("adjust_even", x, filters // 2, 1, 2, bias=False)
        odd = draft.conv("adjust_odd", draft.shift("adjust_shift", x), filters // 2, 1, 2, bias=False)
        return draft.concat("adjust", even, odd)
    if b.c_skip != filters:
        return draft.conv("adjust", draft.act("adjust_act", SKIP, b.act), filters, bias=False)
    return SKIP


def _separable(draft: Draft, name: str, x: str, kernel: int, stride: int = 1) -> str:
    """Two separable convolutions, the stride in the first."""
    channels = draft.shapes[x][0]
    for step, s in (("a", stride), ("b", 1)):
        x = draft.act(f"{name}_{step}_act", x, "relu")
        x = draft.conv(f"{name}_{step}_depth", x, channels, kernel, s, depthwise=True, norm=False, bias=False)
        x = draft.conv(f"{name}_{step}", x, channels, bias=False)
    return x


def _check(b: BlockSpec, branches: int, stride: int) -> str | None:
    if b.c_out % (2 * branches) or b.stride != stride:
        return f"a {b.kind} cell needs c_out in multiples of {2 * branches} and stride {stride}"
    if not b.c_skip or b.size_in not in (b.size_skip, sizes.divided(b.size_skip, 2)):
        return (
            f"a {b.kind} cell at size {sizes.brief(b.size_in)} needs a second input of that size or twice "
            f"it, not {b.c_skip}x{sizes.text(b.size_skip)}"
        )
    return None


# A cell's output is several branches side by side, which growth would move, and the cell after an
# inserted one finds another second input: nothing is kept.
_GROWTH = GrowthRule(units=("adjust",))
NORMAL = BlockKind(_normal, _GROWTH, check=lambda b: _check(b, 6, 1), two_inputs=True)
REDUCTION = BlockKind(_reduction, _GROWTH, check=lambda b: _check(b, 4, 2), two_inputs=True, repeats=False)
