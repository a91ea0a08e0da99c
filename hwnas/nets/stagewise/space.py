"""The space of NASNet-A cells whose number is searched (StageWise NAS, arXiv 2004.11178)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np

from hwnas import sizes
from hwnas.errors import InputError
from hwnas.nets.member import is_member
from hwnas.protocols import Move
from hwnas.spec import BlockSpec, NetworkSpec, with_skips

Numbers = tuple[int, ...]


@dataclass(frozen=True)
class CellSpace:
    """Stages of normal cells with a reduction cell between (`hwnas.protocols.SearchSpace`).

    A stage after the first begins with its reduction cell, so it has one block more than normal
    cells. Filters double from stage to stage.

    Attributes:
        input_shape: channels, height and width of an image.
        classes: number of classes.
        filters: of the first stage, even; also the width of the stem.
        stages: how many.
        most: greatest number of normal cells in a stage; the least is one.
        name: registered name.
    """

    input_shape: tuple[int, int, int]
    classes: int
    filters: int = 32
    stages: int = 3
    most: int = 12
    name: str = "nasnet-cifar"

    def __post_init__(self) -> None:
        channels, height, width = self.input_shape
        if min(self.input_shape) < 1:
            raise InputError(f"space {self.name} needs images with pixels, not {channels}x{height}x{width}")

    def express(self, numbers: Numbers, name: str = "") -> NetworkSpec:
        """The network with so many normal cells in each stage.

        Raises:
            InputError: for another number of stages, or a number of cells out of range.
        """
        if len(numbers) != self.stages or not all(1 <= n <= self.most for n in numbers):
            raise InputError(
                f"space {self.name} holds {self.stages} stages of 1 to {self.most} cells, not {list(numbers)}"
            )
        channels, size = self.input_shape[0], sizes.of(*self.input_shape[1:])
        stem = BlockSpec(kind="nasnet_stem", c_in=channels, c_out=self.filters, act="none", size_in=size)
        stages, now = [], stem
        for s, number in enumerate(numbers):
            cells: list[BlockSpec] = []
            for _ in range(number + (s > 0)):
                now = self._cell(now, self.filters * 2**s, reduces=s > 0 and not cells)
                cells.append(now)
            stages.append(tuple(cells))
        head = BlockSpec(
            kind="classifier", c_in=now.c_out, c_out=self.classes, kernel=1, size_in=now.size_out
        )
        return NetworkSpec(
            stem=stem,
            stages=with_skips(stem, tuple(stages)),
            head=head,
            convention="keras",
            space=self.name,
            name=name,
        )

    @staticmethod
    def _cell(before: BlockSpec, filters: int, *, reduces: bool) -> BlockSpec:
        """A cell after another block; its second input is set afterwards."""
        size = before.size_out
        return BlockSpec(
            kind="nasnet_reduction" if reduces else "nasnet_normal",
            c_in=before.c_out,
            c_out=filters * (4 if reduces else 6),
            stride=2 if reduces else 1,
            size_in=size,
            c_skip=before.c_out,
            size_skip=size,
        )

    def numbers(self, spec: NetworkSpec) -> Numbers:
        """Normal cells per stage of a member.

        Raises:
            InputError: for a network that is not a member.
        """
        numbers = tuple(depth - (s > 0) for s, depth in enumerate(spec.depths))
        if len(numbers) == self.stages and all(1 <= n <= self.most for n in numbers):
            own = self.express(numbers)
            if own.model_copy(update={"name": spec.name}).key == spec.key:
                return numbers
        raise InputError(f"network {spec.name or spec.key} is not in the space {self.name}")

    def __contains__(self, spec: object) -> bool:
        """Whether a network is a member; its name does not matter."""
        return is_member(spec, self.numbers)

    @property
    def members(self) -> int:
        """How many networks the space holds."""
        return int(self.most**self.stages)

    def describe(self) -> dict[str, Any]:
        """Input, classes, number of members and stages, for display."""
        stages = [
            {
                "stage": s,
                "sizes": [blocks[0].size_out],
                "widths": [blocks[-1].c_out],
                "depth": [1 + (s > 0), self.most + (s > 0)],
                "kinds": sorted({block.kind for block in blocks}),
            }
            for s, blocks in enumerate(self.smallest().stages)
        ]
        shape = list(self.input_shape)
        return {"input_shape": shape, "classes": self.classes, "members": self.members, "stages": stages}

    def smallest(self) -> NetworkSpec:
        """One normal cell per stage."""
        return self.express((1,) * self.stages)

    def uniform(self) -> list[NetworkSpec]:
        """The same number of normal cells in every stage, fewest first."""
        return [self.express((n,) * self.stages) for n in range(1, self.most + 1)]

    def sample(self, rng: np.random.Generator) -> NetworkSpec:
        """A random member: every number drawn evenly."""
        return self.express(tuple(int(n) for n in rng.integers(1, self.most + 1, size=self.stages)))

    def mutate(self, spec: NetworkSpec, rng: np.random.Generator) -> NetworkSpec:
        """A random neighbour: one cell more or fewer.

        Raises:
            InputError: for a network that is not a member.
        """
        numbers = self.numbers(spec)
        options = [
            made
            for s, step in product(range(self.stages), (-1, 1))
            if 1 <= (made := _stepped(numbers, s, step))[s] <= self.most
        ]
        return self.express(options[int(rng.integers(len(options)))])

    def grow(self, spec: NetworkSpec) -> list[Move]:
        """One normal cell more in a stage.

        Raises:
            InputError: for a network that is not a member.
        """
        numbers = self.numbers(spec)
        return [
            Move(s, "deeper", self.express(_stepped(numbers, s, 1)))
            for s in range(self.stages)
            if numbers[s] < self.most
        ]

    @cached_property
    def _blocks(self) -> tuple[BlockSpec, ...]:
        # A cell's two inputs come from one or two cells before: three cells per stage hold every case.
        cases = product(range(1, min(self.most, 3) + 1), repeat=self.stages)
        return tuple(dict.fromkeys(block for numbers in cases for block in self.express(numbers).blocks))

    def blocks(self) -> tuple[BlockSpec, ...]:
        """Every block that a member may hold, stem and head included, each once."""
        return self._blocks


def _stepped(numbers: Numbers, stage: int, step: int) -> Numbers:
    return (*numbers[:stage], numbers[stage] + step, *numbers[stage + 1 :])


def nasnet_cifar(*, input_shape: tuple[int, int, int] = (3, 32, 32), classes: int = 10) -> CellSpace:
    """The registered space: 32, 64, 128 filters, 1 to 12 normal cells per stage."""
    return CellSpace(input_shape, classes)
