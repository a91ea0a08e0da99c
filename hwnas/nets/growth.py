"""Weights of a network for a larger one that computes the same function, as far as that exists.

The rules (Net2Net, Chen et al. 2016, with zeros in the place of copies; Goyal et al. 2017 for the
inserted residual block):

- Channels are added at the end. New outputs start fresh; whatever read the old channels reads the
  new ones with weight zero.
- A larger kernel is the old one with a rim of zeros.
- An inserted residual block ends in a batch norm of scale and shift zero, so the sum is its input.
- An inserted block without a residual branch is a unit convolution and a neutral batch norm.
- A cell of two inputs starts fresh: the cell after it finds another second input, so nothing is exact.
- A block that ends in a layer scale starts with that at zero.
- A gate (squeeze and excitation) starts at sigmoid(0) = 1/2, which the projection's weights undo.

What is true of a kind is said by its `hwnas.nets.kind.GrowthRule`; a kind without one is refused.
`preserves` says for which pairs of networks this is exact in eval mode.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher

import numpy as np

from hwnas.arrays import Float32s
from hwnas.nets.blocks import growth_of, kind_of, recipe
from hwnas.nets.draft import Dataflow
from hwnas.nets.kind import EVERY_AXIS
from hwnas.nets.ops import Conv
from hwnas.nets.sources import NORM_EPS
from hwnas.spec import BlockSpec, NetworkSpec

StateDict = dict[str, Float32s]


def inherited(
    old: Mapping[str, Float32s], spec_from: NetworkSpec, spec_to: NetworkSpec, fresh: StateDict
) -> StateDict:
    """Weights for `spec_to` from the weights `old` of `spec_from`.

    Args:
        old: arrays by state-dict name.
        spec_from, spec_to: the two networks.
        fresh: initial weights of `spec_to`; what is new starts from them.
    """
    state = {name: value.copy() for name, value in fresh.items()}
    blocks_from, blocks_to = dict(spec_from.walk()), dict(spec_to.walk())
    for place, origin in _origins(spec_from, spec_to):
        block = blocks_to[place]
        # An inserted or unrelated block starts as an identity if it can; others carry weights over.
        if origin is None or (origin and not _related(blocks_from[origin], block)):
            _start_as_identity(state, place, block, spec_to)
        elif origin:
            _carry_over(state, old, place, origin, block, blocks_from[origin], spec_to)
    return state


def carried(spec_from: NetworkSpec, spec_to: NetworkSpec) -> tuple[str, ...]:
    """Places of `spec_to` whose blocks take weights over from `spec_from`, as `inherited` does it.

    None where the two count and build differently (`convention`), or where nothing is known of how weights of
    one of the blocks are handed on.
    """
    if spec_from.convention != spec_to.convention:
        return ()
    old, new, found = dict(spec_from.walk()), dict(spec_to.walk()), []
    for place, origin in _origins(spec_from, spec_to):
        block = new[place]
        if origin and old[origin] == block:
            found.append(place)
        elif origin != "" and kind_of(block.kind).growth is None:
            return ()
        elif origin and _related(old[origin], block):
            found.append(place)
    return tuple(found)


def preserves(spec_from: NetworkSpec, spec_to: NetworkSpec) -> bool:
    """Whether `inherited` keeps the function exactly: equal outputs in eval mode, up to rounding."""
    if len(spec_from.stages) != len(spec_to.stages) or spec_from.convention != spec_to.convention:
        return False
    origins = list(_origins(spec_from, spec_to))
    if {origin for _, origin in origins if origin} != {place for place, _ in spec_from.walk()}:
        return False  # a block was left out
    old, new = dict(spec_from.walk()), list(spec_to.walk())
    for at, (place, origin) in enumerate(origins):
        block = new[at][1]
        if origin is None:
            if not _can_be_identity(new[at - 1][1], block, new[at + 1][1]):
                return False
        elif not _keeps(old[origin], block, place, new[at - 1][1]):
            return False
    return True


def _origins(spec_from: NetworkSpec, spec_to: NetworkSpec) -> list[tuple[str, str | None]]:
    """For every place of `spec_to` the place of `spec_from` that it comes from.

    None marks a block inserted into a stage that was there, "" one of a stage that was not.
    """
    found: list[tuple[str, str | None]] = [("stem", "stem")]
    stage_of = _matching_stages(spec_from, spec_to)
    for t, stage in enumerate(spec_to.stages):
        f = stage_of[t]
        if f is None:
            found += [(f"stages.{t}.{i}", "") for i in range(len(stage))]
            continue
        for i, j in enumerate(_align(spec_from.stages[f], stage)):
            found.append((f"stages.{t}.{i}", None if j is None else f"stages.{f}.{j}"))
    return [*found, ("head", "head")]


def _matching_stages(spec_from: NetworkSpec, spec_to: NetworkSpec) -> list[int | None]:
    if len(spec_from.stages) == len(spec_to.stages):
        return list(range(len(spec_to.stages)))
    # A stage was put in or left out: the others are recognised by their width and resolution.
    before, after = ([(s[-1].c_out, s[-1].size_out) for s in spec.stages] for spec in (spec_from, spec_to))
    found: list[int | None] = [None] * len(after)
    for run in SequenceMatcher(None, before, after, autojunk=False).get_matching_blocks():
        for k in range(run.size):
            found[run.b + k] = run.a + k
    return found


def _align(old: Sequence[BlockSpec], new: Sequence[BlockSpec]) -> list[int | None]:
    """For every block of a stage the old block it comes from; None where it is inserted.

    New blocks come last, except in a pre-activation chain: there they come before the last block,
    whose own activation makes an identity of theirs.
    """
    extra = len(new) - len(old)
    if extra <= 0:
        return list(range(len(new)))
    kept: list[int | None] = list(range(len(old)))
    rule = kind_of(new[-1].kind).growth
    if rule and rule.before_last and len(old) > 1 and _keeps(old[-1], new[-1], "", new[-2]):
        return [*kept[:-1], *[None] * extra, kept[-1]]
    return [*kept, *[None] * extra]


# -- what is exact ---------------------------------------------------------------------------


def _related(old: BlockSpec, new: BlockSpec) -> bool:
    """Whether weights of the old block mean something in the new one."""
    if old == new:
        return True  # carried over as they are, which needs no rule
    rule = growth_of(new.kind)
    return old.kind == new.kind or old.kind in rule.takes_from | rule.computes


def _keeps(old: BlockSpec, new: BlockSpec, place: str, before: BlockSpec) -> bool:
    """Whether an old block's function can be computed by the new one on the old channels."""
    rule = kind_of(new.kind).growth
    if rule is None:
        return old == new
    if old.kind != new.kind and old.kind not in rule.computes:
        return False
    stays = ("act", "stride", "size_in", "c_skip", "size_skip")
    if any(getattr(old, name) != getattr(new, name) for name in stays):
        return False
    for axis in EVERY_AXIS:
        was, now = (rule.hidden(b) if axis == "hidden" else getattr(b, axis) for b in (old, new))
        if now < was or (now > was and axis not in rule.axes):
            return False
    fixed = {"stem": "c_in", "head": "c_out"}.get(place, "stride")
    return getattr(old, fixed) == getattr(new, fixed) and rule.keeps(old, new, before)


def _can_be_identity(before: BlockSpec, block: BlockSpec, after: BlockSpec) -> bool:
    """Whether a block inserted between two others can pass its input on unchanged."""
    rule = kind_of(block.kind).growth
    return rule is not None and block.joins_identity and rule.inserts(before, block, after)


# -- how it is done --------------------------------------------------------------------------


def _start_as_identity(state: StateDict, place: str, block: BlockSpec, spec: NetworkSpec) -> None:
    growth_of(block.kind)  # without a rule the effect of an inserted block is unknown
    if not block.joins_identity or kind_of(block.kind).two_inputs:
        return
    ops = recipe(block, spec.convention)
    if ops.residual_end is not None:
        for name in _ends(ops):
            state[f"{place}.{name}"][:] = 0.0
    elif not ops.bypassed:
        for op in ops.ops:
            if isinstance(op, Conv):
                _unit(state, f"{place}.{op.name}", op)


def _ends(ops: Dataflow) -> list[str]:
    """Arrays that make a residual branch zero: of the last norm or layer scale, else of the last layer."""
    end = next(op for op in ops.ops if op.name == ops.residual_end)
    last = end.after[-1] if isinstance(end, Conv) and end.after else end.name
    return [name for name in end.weights() if name.rpartition(".")[0] == last]


def _unit(state: StateDict, name: str, op: Conv) -> None:
    """Make a convolution pass its input on, as far as it has channels; new outputs stay fresh."""
    weight = state[f"{name}.weight"]
    centre = op.kernel // 2
    channels = min(op.c_in, op.channels)
    weight[:channels] = 0.0
    for c in range(channels):
        weight[c, 0 if op.depthwise else c, centre, centre] = 1.0
    if op.norm:
        # Running mean 0 and variance 1 are the initial ones; the scale undoes epsilon.
        state[f"{name}_norm.weight"][:channels] = np.sqrt(1.0 + NORM_EPS)
        state[f"{name}_norm.bias"][:channels] = 0.0


def _carry_over(
    state: StateDict,
    old: Mapping[str, Float32s],
    place: str,
    origin: str,
    block: BlockSpec,
    block_from: BlockSpec,
    spec: NetworkSpec,
) -> None:
    ops_from = {op.name for op in recipe(block_from, spec.convention).ops}
    rule = kind_of(block.kind).growth
    for op in recipe(block, spec.convention).ops:
        name = f"{place}.{op.name}"
        if op.name in ops_from:
            for part in (*op.weights(), *op.statistics()):
                state[f"{place}.{part}"] = _overlap(state[f"{place}.{part}"], old[f"{origin}.{part}"])
        elif rule and isinstance(op, Conv) and op.name in rule.units:
            _unit(state, name, op)
        elif op.name == "se_expand":
            state[f"{name}.weight"][:] = 0.0
    if rule and block_from.kind in rule.computes:
        within = {n.removeprefix(f"{origin}."): v for n, v in old.items() if n.startswith(f"{origin}.")}
        for part, merged in rule.merge(within).items():
            state[f"{place}.{part}"] = _overlap(state[f"{place}.{part}"], merged)
    if rule and rule.gated and block.se and not block_from.se:
        state[f"{place}.{rule.gated}.weight"] *= 2.0


def _overlap(fresh: Float32s, old: Float32s) -> Float32s:
    """`old` in the corner of an array shaped like `fresh`; see the rules in the module's docstring.

    Axes are (out), (out, in) or (out, in, height, width); old outputs read new inputs with weight
    zero, kernels keep their centre, new outputs are `fresh`.
    """
    made: Float32s = fresh.copy()
    rows = min(len(fresh), len(old))
    made[:rows] = 0.0
    to, of = [slice(rows)], [slice(rows)]
    if old.ndim > 1:
        columns = min(fresh.shape[1], old.shape[1])
        to.append(slice(columns))
        of.append(slice(columns))
    for have, want in zip(old.shape[2:], fresh.shape[2:]):
        rim = (want - have) // 2
        to.append(slice(max(rim, 0), max(rim, 0) + min(have, want)))
        of.append(slice(max(-rim, 0), max(-rim, 0) + min(have, want)))
    made[tuple(to)] = old[tuple(of)]
    return made
