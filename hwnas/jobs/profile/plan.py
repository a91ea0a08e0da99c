"""What a profile measures: which blocks, which networks, in which roles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hwnas.cost import extrapolate
from hwnas.measure.rows import RowRole
from hwnas.nets.families import Families, Family
from hwnas.protocols import SearchSpace
from hwnas.spec import BlockSpec, NetworkSpec

# Blocks a stage of the members of a family that are tried first, and the part of the blocks that they may be.
TRIED, TRIED_SHARE = 2, 0.8
LEAST_PRICED = 3  # families


@dataclass(frozen=True)
class Plan:
    """How much a preset measures, and when active probing may stop.

    Of a space with more than `blocks` blocks, those are measured that matter most for its networks;
    the others are extrapolated until ``--only-missing`` adds them. Three `anchors` are always
    measured as a whole. `calibration` networks are drawn at random and give the interval; up to `probes`
    further ones are chosen where the model is least sure, until the cross-validated error of the
    calibration networks is below `target`; `holdout` fresh ones give the printed error. Near one latency
    `blocks_near` are enough.
    """

    calibration: int
    probes: int
    holdout: int
    target: float
    blocks: int
    blocks_near: int = 300


PLANS = {
    "quick": Plan(calibration=20, probes=10, holdout=12, target=0.010, blocks=250),
    "default": Plan(calibration=40, probes=40, holdout=24, target=0.007, blocks=750, blocks_near=600),
    "thorough": Plan(calibration=80, probes=80, holdout=40, target=0.005, blocks=100_000, blocks_near=1_500),
}


def blocks_of(space: SearchSpace, most: int, seed: int) -> Sequence[BlockSpec]:
    """The blocks to measure: all, or of more than `most` those that matter most, and the anchors'.

    A search begins at the smallest member, and without its blocks it would begin with a guess. Where families
    compete, those come first that are tried first.
    """
    blocks = space.blocks()
    if len(blocks) <= most:
        return blocks
    rng = np.random.default_rng([seed, 1])
    needed = {block for spec in anchors(space) for block in spec.blocks}
    priced = priced_part(space, most)
    if isinstance(priced, Families) and priced is not space:
        needed |= {block for one in priced.families for block in _tried(one)}
    needed |= set(extrapolate.choose(blocks, [space.sample(rng) for _ in range(200)], most - len(needed)))
    return [block for block in blocks if block in needed]


def priced_part(space: SearchSpace, most: int) -> SearchSpace:
    """The part of a space that so many blocks can price: of competing families those that are tried first.

    All of it where there are no families, where all of their blocks are measured, or where they suffice for
    less than `LEAST_PRICED` families.
    """
    if not isinstance(space, Families) or len(space.blocks()) <= most:
        return space
    found: list[Family] = []
    blocks: set[BlockSpec] = set()
    for one in space.families:
        blocks |= _tried(one)
        if len(blocks) > TRIED_SHARE * most:
            break
        found.append(one)
    if not LEAST_PRICED <= len(found) < len(space.families):
        return space
    return Families(space.name, tuple(found), space.smallest())


def _tried(family: Family) -> set[BlockSpec]:
    """Blocks of the uniform members of a family."""
    return {block for at in range(len(family.widths)) for block in family.scaled(at, TRIED).blocks}


def anchors(space: SearchSpace) -> list[NetworkSpec]:
    """The smallest, a middle and the largest uniform member: they hold the ends of the model fast."""
    uniform = space.uniform()
    return list({s.key: s for s in (uniform[0], uniform[len(uniform) // 2], uniform[-1])}.values())


# Random members beside the anchors, where a space has operators that no anchor holds, and among how many.
MEMBERS, DRAWN = 3, 200


def representatives(space: SearchSpace) -> list[NetworkSpec]:
    """Few networks that stand for a space where runtimes are compared.

    The anchors, and at most `MEMBERS` of many random members, each the one with the most operators that are
    new: uniform members have one kernel, one expansion and no gates. In `mbv2-cifar` an int8 graph that is
    1 % faster on all three of them takes 30 % longer on members with gates.
    """
    found = anchors(space)
    known = {operator(block) for spec in found for block in spec.blocks}
    drawn = [(spec, set(map(operator, spec.blocks))) for spec in draw(space, DRAWN, 0, "representatives")]
    for _ in range(MEMBERS):
        spec, held = max(drawn, key=lambda pair: len(pair[1] - known), default=(None, set()))
        if spec is None or held <= known:
            break
        found.append(spec)
        known |= held
    return found


def operator(block: BlockSpec) -> tuple[str, int, int, float, str]:
    """What a block computes, whatever its shapes."""
    return block.kind, block.kernel, block.expand, block.se, block.act


def draw(space: SearchSpace, n: int, seed: int, purpose: str) -> list[NetworkSpec]:
    """Different random members, the same ones for the same seed and purpose; fewer of a small space."""
    rng = np.random.default_rng([seed, *purpose.encode()])
    drawn: dict[str, NetworkSpec] = {}
    for _ in range(20 * n):
        spec = space.sample(rng)
        drawn.setdefault(spec.key, spec)
        if len(drawn) == n:
            break
    return list(drawn.values())


def schedule(space: SearchSpace, plan: Plan, seed: int) -> list[tuple[NetworkSpec, RowRole]]:
    """Random networks and anchors in the order of measuring, each with its role.

    Roles are spread evenly, so that every campaign holds some of each: the model is fitted and
    judged in the same states of the machine.
    """
    ends = anchors(space)
    taken = {spec.key for spec in ends}
    total = plan.calibration + plan.holdout
    drawn = [spec for spec in draw(space, total + len(ends), seed, "random") if spec.key not in taken][:total]
    share = plan.holdout / max(len(drawn), 1)
    out: list[tuple[NetworkSpec, RowRole]] = []
    for i, spec in enumerate(drawn):
        out.append((spec, "holdout" if int((i + 1) * share) > int(i * share) else "calibration"))
    for i, spec in enumerate(ends):
        out.insert((i + 1) * len(out) // (len(ends) + 1), (spec, "probe"))
    return out
