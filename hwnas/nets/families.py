"""Families of networks that compete under one budget: the space ``auto``.

A family is a kind of block, a place where the image is halved first, and a proportion of widths; its members
differ in width and depth, and in the operators of single blocks where the kind has several. Which family is
best depends on budget, device and length of training (docs/evidence/frontier.md), so that the search lets
them compete (`hwnas.search.families.race`).
"""

from __future__ import annotations

from collections.abc import Mapping
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
from hwnas.spec import BlockSpec, NetworkSpec

NAME = "auto"
Stem = tuple[int, Stride]  # kernel and stride
# Channels of the first stage. Multiples of four: runtimes are no faster with what lies between.
WIDTHS = (4, 8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 128)
# Blocks of a stage.
MOST_DEPTH = 6
# Images of at least this side are halved twice more: by the stem, and by a stage more.
LARGE_SIDE = 128


@dataclass(frozen=True)
class Design:
    """What a family is, apart from image and classes.

    Attributes:
        label: name, for people.
        operators: what its blocks may be, the usual one first.
        stem: kernel and stride of the first convolution; 5 and 4 are overlapping patches.
        halved: how often a small image (32 pixels) is halved by the end of the first stage's first block.
        ratio: widths of the stages as multiples of the first one's.
    """

    label: str
    operators: tuple[Operator, ...]
    stem: Stem
    halved: int
    ratio: tuple[int, ...] = (1, 2, 4, 8)


_INVERTED = tuple(Operator("mbconv", kernel, expand) for expand, kernel in product((3, 6), (3, 5)))
_FUSED = (Operator("fused_mbconv", 3, 2), Operator("fused_mbconv", 3, 4))
_NEXT = (Operator("convnext", 7, 4), Operator("convnext", 5, 4), Operator("convnext", 7, 2))
_BASIC, _PLAIN = (Operator("basic"),), (Operator("conv"),)
_BOTTLENECK = (Operator("bottleneck", 3, 4),)

FULL: Stem = (3, 1)
STRIDE: Stem = (3, 2)
PATCH: Stem = (5, 4)
LARGER_STEM: dict[Stem, Stem] = {FULL: STRIDE, STRIDE: PATCH, PATCH: PATCH}
# In the order in which they are tried where the images do not suffice for all: a judgement, see
# docs/evidence/frontier.md.
DESIGNS = (
    Design("residual, first stage halves", _BASIC, FULL, 1),
    Design("plain, first stage halves", _PLAIN, FULL, 1),
    Design("residual, stem halves", _BASIC, STRIDE, 1),
    Design("wide-shallow", _PLAIN, FULL, 1, (1, 4, 4, 4)),
    Design("MBConv, stem halves", _INVERTED, STRIDE, 1),
    Design("fused MBConv, stem halves", _FUSED, STRIDE, 1),
    Design("plain, stem halves", _PLAIN, STRIDE, 1),
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
    """A family for one image shape and number of classes; `widths` are those of its first stage."""

    label: str
    space: ChainSpace
    stages: int
    widths: tuple[int, ...] = WIDTHS

    def scaled(self, width: int, depth: int) -> NetworkSpec:
        """The uniform member of a width (place in `widths`) with `depth` blocks in every stage."""
        path = tuple(stage * len(self.widths) + width for stage in range(self.stages))
        return self.space.express(
            Gene(path, ((self.space.levels[path[0]].operators[0],) * depth,) * len(path))
        )


def family(design: Design, input_shape: ImageShape, classes: int, widths: tuple[int, ...] = WIDTHS) -> Family:
    """A design for images of a shape."""
    large = int(input_shape[1] >= LARGE_SIDE)
    stages, halved = 3 + large, design.halved + large
    stem = LARGER_STEM[design.stem] if large else design.stem
    levels = [
        Level(width * design.ratio[stage], halved + stage, design.operators, (1, MOST_DEPTH), stage)
        for stage in range(stages)
        for width in widths
    ]
    # A stage is as wide as its proportion says, or one step wider: growth may widen from the end on.
    n = len(widths)
    edges = frozenset(
        (stage * n + at, (stage + 1) * n + to)
        for stage in range(stages - 1)
        for at in range(n)
        for to in (at, at + 1)
        if to < n
    )
    space = ChainSpace(
        NAME,
        input_shape,
        classes,
        levels=tuple(levels),
        edges=edges,
        starts=tuple(range(n)),
        ends=tuple((stages - 1) * n + at for at in range(n)),
        reference=tuple(stage * n + n // 3 for stage in range(stages)),
        stem=stem,
    )
    return Family(design.label, space, stages, widths)


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
        """The first family at two blocks a stage in every width, after the smallest member."""
        first = self.families[0]
        ladder = [first.scaled(width, 2) for width in range(len(first.widths))]
        return [self._smallest, *(spec for spec in ladder if spec.key != self._smallest.key)]

    def sample(self, rng: np.random.Generator) -> NetworkSpec:
        """A random member: every family equally likely; uniform in width, blocks and operators at random.

        Wide members would crowd out all others if every path were equally likely.
        """
        one = self.families[int(rng.integers(len(self.families)))]
        width = int(rng.integers(len(one.widths)))
        spec = one.scaled(width, 1)
        gene = one.space.gene(spec)
        operators = []
        for at in gene.path:
            choices = one.space.levels[at].operators
            depth = int(rng.integers(1, MOST_DEPTH // 2 + 1))
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
        spans: by a family's label the first and the last place in `WIDTHS` that stay.

    Raises:
        InputError: a span of an unknown family, of a family that has none, or outside `WIDTHS`.
    """
    designs = {design.label: design for design in DESIGNS}
    if set(spans) != {one.label for one in space.families}:
        raise InputError("the widths to keep are not those of the families of the space")
    kept = []
    for one in space.families:
        first, last = spans[one.label]
        if not 0 <= first <= last < len(WIDTHS):
            raise InputError(f"{one.label}: no widths from place {first} to {last} of {len(WIDTHS)}")
        shape, classes = one.space.input_shape, one.space.classes
        kept.append(family(designs[one.label], shape, classes, WIDTHS[first : last + 1]))
    return Families(space.name, tuple(kept), space.smallest())
