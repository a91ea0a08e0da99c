"""Families of networks that compete under one budget: the space ``auto``.

A family is a kind of block, a place where the image is halved first, and a proportion of widths; its members
differ in width and depth, and in the operators of single blocks where the kind has several. Which family is
best depends on budget, device and length of training (docs/evidence/frontier.md), so that the search lets
them compete (`hwnas.search.families.race`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np

from hwnas.arrays import ImageShape
from hwnas.errors import InputError
from hwnas.nets.chainspace import ChainSpace
from hwnas.nets.count import count
from hwnas.nets.levels import Gene, Level, Operator, Stride
from hwnas.nets.member import is_member
from hwnas.protocols import Move
from hwnas.spec import BlockSpec, Kind, NetworkSpec

NAME = "auto"
Stem = tuple[int, Stride]  # kernel and stride
# Channels come in eights: runtimes are no faster with what lies between (docs/evidence/frontier.md).
CHANNELS = 8
# The first stage is from the first of these to at most the second wide, by the third as a factor; each stage
# is rounded by itself, so that a step of all is finer than a step of one.
NARROWEST, WIDEST, STEP, JUMP = 4.0, 128.0, 1.08, 1.2
Widths = tuple[int, ...]  # channels of each stage
# Blocks of a stage.
MOST_DEPTH = 6
# Images whose shorter side is at least this are halved twice more: by the stem, and by a stage more.
LARGE_SIDE = 128


@dataclass(frozen=True)
class Design:
    """What a family is, apart from image and classes.

    Attributes:
        label: name, for people.
        operators: what its blocks may be, the usual one first.
        stem: kernel and stride of the first block; 5 and 4 are overlapping patches.
        halved: how often a small image (32 pixels) is halved by the end of the first stage's first block.
        ratio: widths of the stages as multiples of the first one's.
        lean: whether the first stage, at the highest resolution, has one block in uniform members.
        stages: of small images; large ones have one more.
        stem_kind: what the first block is.
        stem_part: its width as a part of the first stage's.
    """

    label: str
    operators: tuple[Operator, ...]
    stem: Stem
    halved: int
    ratio: tuple[int, ...] = (1, 2, 4, 8)
    lean: bool = False
    stages: int = 3
    stem_kind: Kind = "conv"
    stem_part: float = 1.0


_INVERTED = tuple(Operator("mbconv", kernel, expand) for expand, kernel in product((3, 6), (3, 5)))
_FUSED = (Operator("fused_mbconv", 3, 2), Operator("fused_mbconv", 3, 4))
_NEXT = (Operator("convnext", 7, 4), Operator("convnext", 5, 4), Operator("convnext", 7, 2))
_BASIC, _PLAIN, _POOLED = (Operator("basic"),), (Operator("conv"),), (Operator("pooled_conv"),)
_BOTTLENECK = (Operator("bottleneck", 3, 4),)

FULL: Stem = (3, 1)
STRIDE: Stem = (3, 2)
PATCH: Stem = (5, 4)
LARGER_STEM: dict[Stem, Stem] = {FULL: STRIDE, STRIDE: PATCH, PATCH: PATCH}
# In the order in which they are tried where the images do not suffice for all: docs/evidence/frontier.md.
DESIGNS = (
    Design("pooled, wide", _POOLED, FULL, 1, (1, 4, 4, 4), lean=True),
    Design("pooled", _POOLED, FULL, 1, lean=True),
    Design("plain, stem halves", _PLAIN, STRIDE, 1),
    Design("plain, first stage halves", _PLAIN, FULL, 1),
    Design("pooled stem", _POOLED, STRIDE, 2, (4, 4, 4), stages=2, stem_kind="pooled_conv", stem_part=3 / 8),
    Design("wide-shallow", _PLAIN, FULL, 1, (1, 4, 4, 4)),
    Design("MBConv, stem halves", _INVERTED, STRIDE, 1),
    Design("residual, first stage halves", _BASIC, FULL, 1),
    Design("residual, stem halves", _BASIC, STRIDE, 1),
    Design("fused MBConv, stem halves", _FUSED, STRIDE, 1),
    Design("MBConv, first stage halves", _INVERTED, FULL, 1),
    Design("residual, full resolution", _BASIC, FULL, 0),
    Design("residual, stem and first stage halve", _BASIC, STRIDE, 2),
    Design("bottleneck, stem halves", _BOTTLENECK, STRIDE, 1, (4, 8, 16, 32)),
    Design("ConvNeXt, stem halves", _NEXT, STRIDE, 1),
    Design("residual, patches", _BASIC, PATCH, 2),
    Design("ConvNeXt, patches", _NEXT, PATCH, 2),
)


@dataclass(frozen=True)
class Family:
    """A family for one image shape and number of classes.

    Attributes:
        label: of its design.
        space: its members.
        widths: channels of the stages of its uniform members, narrowest first.
        lean: whether the first stage of these has one block.
    """

    label: str
    space: ChainSpace
    widths: tuple[Widths, ...]
    lean: bool = False

    @cached_property
    def _level(self) -> dict[tuple[int, int], int]:
        """Place of a level by its stage and its width."""
        return {(level.stage, level.width): at for at, level in enumerate(self.space.levels)}

    def scaled(self, width: int, depth: int) -> NetworkSpec:
        """The uniform member of a width (place in `widths`) with `depth` blocks in every stage."""
        path = tuple(self._level[place] for place in enumerate(self.widths[width]))
        usual = self.space.levels[path[0]].operators[0]
        depths = (1 if self.lean else depth, *(depth,) * (len(path) - 1))
        return self.space.express(Gene(path, tuple((usual,) * blocks for blocks in depths)))


def widths_of(ratio: Sequence[int]) -> tuple[Widths, ...]:
    """The widths of stages in a proportion, narrowest first, each once.

    From 8 channels of the first stage to 16 is half a network more: where it steps by `JUMP` or more, the
    other stages go on alone before, half the way. Where all others step at once, the last one, which costs
    least, goes first.
    """
    steps = round(math.log(WIDEST / NARROWEST) / math.log(STEP))
    bases = [NARROWEST * STEP**at for at in range(steps + 1)]
    ladder: list[Widths] = []
    for base in bases:
        own = _rounded([base * part for part in ratio])
        if ladder and own[0] >= JUMP * ladder[-1][0]:
            first, between = ladder[-1][0], math.sqrt(own[0] / ladder[-1][0])
            alone = (
                _rounded([one * part for part in ratio]) for one in bases if base <= one < base * between
            )
            ladder += [(first, *others) for _, *others in alone]
        ladder.append(own)
    fine: list[Widths] = []
    for own in dict.fromkeys(ladder):
        if fine and len(own) > 2 and all(new > old for old, new in zip(fine[-1][1:], own[1:])):
            fine.append((*fine[-1][:-1], own[-1]))
        fine.append(own)
    return tuple(dict.fromkeys(fine))


def _rounded(channels: Sequence[float]) -> Widths:
    """Numbers of channels that runtimes are fast with; the first stage, the most expensive, rounded down."""
    first, *others = channels
    least = int(NARROWEST) if first < CHANNELS else CHANNELS * int(first / CHANNELS)
    return least, *(CHANNELS * max(1, round(one / CHANNELS)) for one in others)


def family(
    design: Design, input_shape: ImageShape, classes: int, span: tuple[int, int] | None = None
) -> Family:
    """A design for images of a shape; `span` are the first and the last place of the widths to keep."""
    large = int(min(input_shape[1:]) >= LARGE_SIDE)
    stages, halved = design.stages + large, design.halved + large
    stem = LARGER_STEM[design.stem] if large else design.stem
    widths = widths_of(design.ratio[:stages])
    if span is not None:
        widths = widths[span[0] : span[1] + 1]
    of_stage = [sorted(set(channels)) for channels in zip(*widths)]
    places = [(stage, channels) for stage, all_ in enumerate(of_stage) for channels in all_]
    at = {place: number for number, place in enumerate(places)}
    # A stage is as wide as its proportion says, or one step wider: growth may widen from the end on.
    edges = {
        (at[stage, one[stage]], at[stage + 1, to])
        for stage in range(stages - 1)
        for one in widths
        for to in _and_wider(of_stage[stage + 1], one[stage + 1])
    }
    space = ChainSpace(
        NAME,
        input_shape,
        classes,
        levels=tuple(
            Level(channels, halved + stage, design.operators, (1, MOST_DEPTH), stage)
            for stage, channels in places
        ),
        edges=frozenset(edges),
        starts=tuple(at[0, channels] for channels in of_stage[0]),
        ends=tuple(at[stages - 1, channels] for channels in of_stage[-1]),
        reference=tuple(at[place] for place in enumerate(widths[len(widths) // 3])),
        stem=stem,
        stem_kind=design.stem_kind,
        stem_part=design.stem_part,
    )
    return Family(design.label, space, widths, design.lean)


def _and_wider(known: Sequence[int], channels: int) -> Sequence[int]:
    """A width of a stage, and the next one."""
    place = known.index(channels)
    return known[place : place + 2]


@dataclass(frozen=True)
class Families:
    """All families together (`hwnas.protocols.SearchSpace`).

    Attributes:
        name: of the space.
        families: one or more.
        least: the smallest member, where it is in none of the families' widths.
    """

    name: str
    families: tuple[Family, ...]
    least: NetworkSpec | None = None

    def family_of(self, spec: NetworkSpec) -> Family:
        """The first family that a network is a member of.

        Raises:
            InputError: it is in none.
        """
        for one in self.families:
            if spec in one.space:
                return one
        raise InputError(f"network {spec.name or spec.key} is not in the space {self.name}")

    def __contains__(self, spec: object) -> bool:
        """Whether a network is a member; its name does not matter."""
        return is_member(spec, self.family_of)

    @property
    def members(self) -> int:
        """How many networks the families hold together."""
        return sum(one.space.members for one in self.families)

    def describe(self) -> dict[str, Any]:
        """Input, classes, number of members and the families, for display."""
        one = self.families[0].space
        said = [
            {"family": family.label, **stage}
            for family in self.families
            for stage in family.space.describe()["stages"]
        ]
        return {
            "input_shape": list(one.input_shape),
            "classes": one.classes,
            "members": self.members,
            "stages": said,
        }

    @cached_property
    def _smallest(self) -> NetworkSpec:
        if self.least is not None:
            return self.least
        return min((one.space.smallest() for one in self.families), key=lambda spec: count(spec).macs)

    def smallest(self) -> NetworkSpec:
        """The member with the fewest MACs."""
        return self._smallest

    def uniform(self) -> list[NetworkSpec]:
        """The first family at two blocks a stage in every width, by MACs, after the smallest member."""
        first = self.families[0]
        ladder = [first.scaled(width, 2) for width in range(len(first.widths))]
        ladder.sort(key=lambda spec: count(spec).macs)
        return [self._smallest, *(spec for spec in ladder if spec.key != self._smallest.key)]

    def sample(self, rng: np.random.Generator) -> NetworkSpec:
        """A random member: every family equally likely; uniform in width, blocks and operators at random.

        Wide members would crowd out all others if every path were equally likely. The first stage of a lean
        family keeps its one block.
        """
        one = self.families[int(rng.integers(len(self.families)))]
        width = int(rng.integers(len(one.widths)))
        spec = one.scaled(width, 1)
        gene = one.space.gene(spec)
        operators = []
        for at in gene.path:
            choices = one.space.levels[at].operators
            lean = one.lean and at == gene.path[0]
            depth = 1 if lean else int(rng.integers(1, MOST_DEPTH // 2 + 1))
            operators.append(tuple(choices[int(d)] for d in rng.integers(len(choices), size=depth)))
        return one.space.express(Gene(gene.path, tuple(operators)))

    def mutate(self, spec: NetworkSpec, rng: np.random.Generator) -> NetworkSpec:
        """A random neighbour in the same family.

        Raises:
            InputError: for a network that is not a member.
        """
        return self.family_of(spec).space.mutate(spec, rng)

    def grow(self, spec: NetworkSpec) -> list[Move]:
        """Every one-step growth in the same family.

        Raises:
            InputError: for a network that is not a member.
        """
        return self.family_of(spec).space.grow(spec)

    @cached_property
    def _blocks(self) -> tuple[BlockSpec, ...]:
        own = (block for one in self.families for block in one.space.blocks())
        return tuple(dict.fromkeys([*own, *self._smallest.blocks]))

    def blocks(self) -> tuple[BlockSpec, ...]:
        """Every block that a member may hold, stems and heads included, each once."""
        return self._blocks


def auto(*, input_shape: ImageShape = (3, 32, 32), classes: int = 10) -> Families:
    """The registered space: every family of `DESIGNS`."""
    return Families(NAME, tuple(family(design, input_shape, classes) for design in DESIGNS))


def narrowed(space: Families, spans: Mapping[str, tuple[int, int]]) -> Families:
    """The space with less widths: those networks that a latency budget is about.

    Args:
        space: all widths.
        spans: by a family's label the first and the last place of its widths that stay.

    Raises:
        InputError: a span of an unknown family, of a family that has none, or of places that there are not.
    """
    designs = {design.label: design for design in DESIGNS}
    if set(spans) != {one.label for one in space.families}:
        raise InputError("the widths to keep are not those of the families of the space")
    kept = []
    for one in space.families:
        first, last = spans[one.label]
        if not 0 <= first <= last < len(one.widths):
            raise InputError(f"{one.label}: no widths from place {first} to {last} of {len(one.widths)}")
        shape, classes = one.space.input_shape, one.space.classes
        kept.append(family(designs[one.label], shape, classes, (first, last)))
    return Families(space.name, tuple(kept), space.smallest())
