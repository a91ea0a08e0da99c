"""A space of levels as places to fill: which blocks every network passes, and which may be left out.

Along a path of levels, each level offers as many places as its greatest depth. Around a place that
may stay empty leads an identity edge; the others lie on every path from input to output, and are the
vital blocks of the space (`hwnas.nets.hournas.vital`). A network fills every vital place with an operator and
every other one with an operator or nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from hwnas.errors import InputError
from hwnas.nets.chainspace import ChainSpace
from hwnas.nets.hournas.vital import on_every_path
from hwnas.nets.levels import Gene, Operator
from hwnas.protocols import SearchSpace
from hwnas.spec import BlockSpec, NetworkSpec

# A fill of one place: index of the operator in its level, or None where it stays empty.
Fill = int | None
MOST_PATHS = 4096


@dataclass(frozen=True)
class Slot:
    """A place for a block: of which stage (position of its level on the path), and which in it."""

    stage: int
    index: int
    vital: bool

    @property
    def place(self) -> str:
        """Its name, as in `NetworkSpec.walk` of a network that fills all places."""
        return f"stages.{self.stage}.{self.index}"


def chain_of(space: SearchSpace) -> ChainSpace:
    """The space as one of levels, all of whose paths have one level per stage.

    Raises:
        InputError: it is another kind of space, or has too many paths to look at each.
    """
    if not isinstance(space, ChainSpace) or len({len(path) for path in paths(space)}) != 1:
        raise InputError(
            f"space {space.name} has no blocks that can be chosen or left out one by one; use --space "
            "mbv2-cifar, resnet-cifar, resnet-cifar-wide or resnet-imagenet, or another strategy"
        )
    return space


def placed(space: SearchSpace) -> bool:
    """Whether `chain_of` takes the space."""
    try:
        chain_of(space)
    except InputError:
        return False
    return True


def paths(space: ChainSpace) -> list[tuple[int, ...]]:
    """Every path over the levels.

    Raises:
        InputError: there are more than `MOST_PATHS`.
    """
    total = sum(space.paths_from[i] for i in space.starts)
    if total > MOST_PATHS:
        raise InputError(f"space {space.name} has {total} paths over its levels; at most {MOST_PATHS} can be")

    def onwards(path: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
        if path[-1] in space.ends:
            yield path
        for level in space.successors(path[-1]):
            yield from onwards((*path, level))

    return [path for start in sorted(space.starts) for path in onwards((start,))]


def slots(space: ChainSpace, path: Sequence[int]) -> tuple[Slot, ...]:
    """Places along a path, in order; the vital ones are the dominators of the output."""
    return _slots(tuple(space.levels[at].depth for at in path))


@lru_cache(maxsize=4096)
def _slots(depths: tuple[tuple[int, int], ...]) -> tuple[Slot, ...]:
    """Places of stages with these least and greatest depths."""
    where = [(s, i) for s, (_, most) in enumerate(depths) for i in range(most)]
    edges: dict[int, list[int]] = {}
    # Node 2n is the tensor before place n, node 2n+1 the block in it.
    for n, (s, i) in enumerate(where):
        edges[2 * n] = [2 * n + 1, 2 * n + 2] if i >= depths[s][0] else [2 * n + 1]
        edges[2 * n + 1] = [2 * n + 2]
    crossed = on_every_path(edges, 0, 2 * len(where))
    return tuple(Slot(s, i, 2 * n + 1 in crossed) for n, (s, i) in enumerate(where))


def network(space: ChainSpace, path: Sequence[int], fills: Sequence[Fill]) -> NetworkSpec:
    """The network of a path whose places are filled; empty ones are left out."""
    operators: list[list[Operator]] = [[] for _ in path]
    for slot, fill in zip(slots(space, path), fills, strict=True):
        if fill is not None:
            operators[slot.stage].append(space.levels[path[slot.stage]].operators[fill])
    return space.express(Gene(tuple(path), tuple(map(tuple, operators))))


def filled(space: ChainSpace, path: Sequence[int], fills: Sequence[Fill]) -> list[tuple[str, BlockSpec]]:
    """Stem, filled places and head with their blocks, by the names that shared weights go by."""
    found = [("stem", space.stem_block(path[0]))]
    for slot, fill in zip(slots(space, path), fills, strict=True):
        if fill is not None:
            found.append((slot.place, block(space, path, slot, fill)))
    return [*found, ("head", space.head_block(path[-1]))]


def block(space: ChainSpace, path: Sequence[int], slot: Slot, fill: int) -> BlockSpec:
    """The block of an operator in a place."""
    level = path[slot.stage]
    operator = space.levels[level].operators[fill]
    if slot.index:
        return space.rest(level, operator)
    return space.first(path[slot.stage - 1] if slot.stage else None, level, operator)
