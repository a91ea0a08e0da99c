"""Chain networks described by levels and edges: one declaration for every space.

A *level* is a place that a network may pass through: a width at a resolution, with a range of
depths and the operators that its blocks may be. A network is a path over the edges, a depth for
each level on it, and an operator for each block. The usual staged skeletons (one level per stage) and
DenseNAS's densely connected blocks (several levels a stage, some left out) are both of this form.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

from hwnas import sizes
from hwnas.errors import InputError
from hwnas.nets.member import is_member
from hwnas.sizes import MapSize
from hwnas.spec import Act, BlockSpec, Convention, Kind, NetworkSpec

Stride = Literal[1, 2, 4]


@dataclass(frozen=True)
class Operator:
    """What a block is, apart from its shape."""

    kind: Kind
    kernel: int = 3
    expand: int = 1
    se: float = 0.0


@dataclass(frozen=True)
class Level:
    """A width at a resolution.

    Attributes:
        width: channels.
        halvings: how often the image was halved by the end of the level's first block.
        operators: what its blocks may be, the usual one first.
        depth: least and greatest number of blocks.
        stage: number of the stage; levels of one stage are each other's wider and narrower forms.
    """

    width: int
    halvings: int
    operators: tuple[Operator, ...]
    depth: tuple[int, int] = (1, 1)
    stage: int = 0


@dataclass(frozen=True)
class Gene:
    """A network as choices: levels passed, and the operators of the blocks in each."""

    path: tuple[int, ...]
    operators: tuple[tuple[Operator, ...], ...]


@dataclass(frozen=True)
class Levels:
    """A set of networks: paths over levels, with depths and operators.

    Attributes:
        name: registered name.
        input_shape: channels, height and width of an image.
        classes: number of classes.
        levels: in an order in which edges lead forwards.
        edges: which level may follow which.
        starts, ends: levels where a path may begin and end.
        stem: kernel and stride of the first block; its width is `stem_width`, or (None) that of the first
            level.
        stem_kind: what the first block is.
        stem_part: part of the first level's width that the stem has, in steps of eight channels.
        act: activation of all blocks.
        convention: see `hwnas.spec.NetworkSpec`.
        reference: the path whose depths are scaled by `uniform`, with each level's first operator.

    Raises:
        InputError: a level on no path (named), an edge that leads backwards or halves the image more
            than once, or an image without pixels.
    """

    name: str
    input_shape: tuple[int, int, int]
    classes: int
    levels: tuple[Level, ...]
    edges: frozenset[tuple[int, int]]
    starts: tuple[int, ...]
    ends: tuple[int, ...]
    reference: tuple[int, ...]
    stem: tuple[int, Stride] = (3, 1)
    stem_width: int | None = None
    stem_kind: Kind = "conv"
    stem_part: float = 1.0
    stem_act: Act = "relu"
    act: Act = "relu"
    convention: Convention = "torch"

    def __post_init__(self) -> None:
        channels, height, width = self.input_shape
        if min(self.input_shape) < 1:
            raise InputError(f"space {self.name} needs images with pixels, not {channels}x{height}x{width}")
        if self.classes < 2:
            raise InputError(f"space {self.name} needs at least two classes, not {self.classes}")
        for i, j in self.edges:
            if j <= i or self.levels[j].halvings - self.levels[i].halvings not in (0, 1):
                raise InputError(f"space {self.name}: no block can lead from level {i} to level {j}")
        for i, level in enumerate(self.levels):
            if not self.paths_from[i] or not self.paths_to[i]:
                raise InputError(
                    f"space {self.name}: level {i} ({level.width} channels, stage {level.stage}) "
                    "is on no path"
                )

    # -- the graph ---------------------------------------------------------------------------

    def successors(self, level: int) -> list[int]:
        """Levels that may follow."""
        return sorted(j for i, j in self.edges if i == level)

    @cached_property
    def paths_from(self) -> list[int]:
        """Number of paths from each level to an end."""
        ways = [int(i in self.ends) for i in range(len(self.levels))]
        for i in reversed(range(len(self.levels))):
            ways[i] += sum(ways[j] for j in self.successors(i))
        return ways

    @cached_property
    def paths_to(self) -> list[int]:
        """Number of paths from a start to each level."""
        ways = [int(i in self.starts) for i in range(len(self.levels))]
        for i in range(len(self.levels)):
            for j in self.successors(i):
                ways[j] += ways[i]
        return ways

    @cached_property
    def members(self) -> int:
        """How many networks the space holds, exactly."""

        def variants(level: Level) -> int:
            low, high = level.depth
            return sum(len(level.operators) ** depth for depth in range(low, high + 1))

        total = [0] * len(self.levels)
        for i in reversed(range(len(self.levels))):
            after = int(i in self.ends) + sum(total[j] for j in self.successors(i))
            total[i] = variants(self.levels[i]) * after
        return sum(total[i] for i in self.starts)

    # -- blocks ------------------------------------------------------------------------------

    def size(self, halvings: int) -> MapSize:
        """Size in pixels of an image that was halved so often."""
        size = sizes.of(*self.input_shape[1:])
        for _ in range(halvings):
            size = sizes.divided(size, 2)
        return size

    def stem_block(self, first: int) -> BlockSpec:
        """The stem of networks whose path begins at level `first`."""
        kernel, stride = self.stem
        width = self.stem_width or self.levels[first].width
        if self.stem_part != 1.0:
            width = 8 * max(1, round(self.stem_part * width / 8))
        stem = Operator(self.stem_kind, kernel)
        shape = (self.input_shape[0], width, self.size(0))
        return _made(stem, shape, stride, self.stem_act)

    def head_block(self, last: int) -> BlockSpec:
        """The classifier of networks whose path ends at level `last`."""
        level = self.levels[last]
        shape = (level.width, self.classes, self.size(level.halvings))
        return _made(Operator("classifier", 1), shape, 1, "none")

    def _block(self, operator: Operator, c_in: int, c_out: int, halvings: tuple[int, int]) -> BlockSpec:
        """A block that leads from one number of halvings to another."""
        stride: Stride = 2 if halvings[1] > halvings[0] else 1
        return _made(operator, (c_in, c_out, self.size(halvings[0])), stride, self.act)

    def first(self, before: int | None, at: int, operator: Operator) -> BlockSpec:
        """The first block of a level, after another level or (None) the stem."""
        level = self.levels[at]
        if before is None:
            c_in, halvings = self.stem_block(at).c_out, self.stem[1] // 2
        else:
            c_in, halvings = self.levels[before].width, self.levels[before].halvings
        return self._block(operator, c_in, level.width, (halvings, level.halvings))

    def rest(self, at: int, operator: Operator) -> BlockSpec:
        """A block of a level other than its first."""
        level = self.levels[at]
        return self._block(operator, level.width, level.width, (level.halvings, level.halvings))

    @cached_property
    def _blocks(self) -> tuple[BlockSpec, ...]:
        found: dict[BlockSpec, None] = {self.stem_block(i): None for i in self.starts}
        into: list[tuple[int | None, int]] = [(None, i) for i in self.starts]
        for before, at in into + sorted(self.edges):
            found |= {self.first(before, at, op): None for op in self.levels[at].operators}
        for at, level in enumerate(self.levels):
            if level.depth[1] > 1:
                found |= {self.rest(at, op): None for op in level.operators}
        found |= {self.head_block(i): None for i in self.ends}
        return tuple(found)

    def blocks(self) -> tuple[BlockSpec, ...]:
        """Every block that a member may hold, stems and heads included, each once."""
        return self._blocks

    # -- choices to networks and back --------------------------------------------------------

    def express(self, gene: Gene, name: str = "") -> NetworkSpec:
        """The network of a gene."""
        stages = []
        for before, at, operators in zip((None, *gene.path), gene.path, gene.operators):
            first = self.first(before, at, operators[0])
            stages.append((first, *(self.rest(at, op) for op in operators[1:])))
        return NetworkSpec(
            stem=self.stem_block(gene.path[0]),
            stages=tuple(stages),
            head=self.head_block(gene.path[-1]),
            convention=self.convention,
            space=self.name,
            name=name,
        )

    def gene(self, spec: NetworkSpec) -> Gene:
        """The choices behind a member.

        Raises:
            InputError: for a network that is not a member.
        """
        operators = tuple(tuple(Operator(b.kind, b.kernel, b.expand, b.se) for b in s) for s in spec.stages)
        for path in self._readings(spec, ()):
            gene = Gene(path, operators)
            own = self.express(gene)
            if (own.stem, own.stages, own.head, own.convention) == (
                spec.stem,
                spec.stages,
                spec.head,
                spec.convention,
            ):
                return gene
        raise InputError(f"network {spec.name or spec.key} is not in the space {self.name}")

    def _readings(self, spec: NetworkSpec, path: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
        """Paths whose levels fit the widths, depths and operators of a network."""
        if len(path) == len(spec.stages):
            if path[-1] in self.ends:
                yield path
            return
        stage = spec.stages[len(path)]
        used = {Operator(b.kind, b.kernel, b.expand, b.se) for b in stage}
        for at in self.successors(path[-1]) if path else self.starts:
            level = self.levels[at]
            fits = level.width == stage[0].c_out and level.depth[0] <= len(stage) <= level.depth[1]
            if fits and used <= set(level.operators):
                yield from self._readings(spec, (*path, at))

    def __contains__(self, spec: object) -> bool:
        """Whether a network is a member; its name does not matter."""
        return is_member(spec, self.gene)


@lru_cache(maxsize=65536)
def _made(operator: Operator, shape: tuple[int, int, MapSize], stride: Stride, act: Act) -> BlockSpec:
    """A block of `shape` (input and output channels, input size), made and checked once."""
    c_in, c_out, size_in = shape
    return BlockSpec(
        kind=operator.kind,
        kernel=operator.kernel,
        expand=operator.expand,
        se=operator.se,
        c_in=c_in,
        c_out=c_out,
        stride=stride,
        act=act,
        size_in=size_in,
    )
