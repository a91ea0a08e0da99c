"""Growth of operators apart from shapes: vital blocks by themselves, the others by themselves.

`SearchSpace.grow` raises a kernel, an expansion or a gate in a whole stage. These moves raise it
either in the stage's vital blocks (`hwnas.nets.hournas.vital`) or in the others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from hwnas.nets.chainspace import RAISES, ChainSpace, raised
from hwnas.nets.hournas.vital import vital_blocks
from hwnas.protocols import Move, SearchSpace
from hwnas.spec import BlockSpec, NetworkSpec

BlockSet = Literal["vital", "other"]
SHAPES = ("deeper", "wider")


@dataclass(frozen=True)
class View:
    """A space of which only some moves are seen; its members are those of the space."""

    space: SearchSpace
    moves: Callable[[NetworkSpec], list[Move]]

    @property
    def name(self) -> str:
        """See `hwnas.protocols.SearchSpace`."""
        return self.space.name

    def grow(self, spec: NetworkSpec) -> list[Move]:
        """The moves that are seen."""
        return self.moves(spec)

    def smallest(self) -> NetworkSpec:
        """See `hwnas.protocols.SearchSpace`."""
        return self.space.smallest()

    def sample(self, rng: np.random.Generator) -> NetworkSpec:
        """See `hwnas.protocols.SearchSpace`."""
        return self.space.sample(rng)

    def mutate(self, spec: NetworkSpec, rng: np.random.Generator) -> NetworkSpec:
        """See `hwnas.protocols.SearchSpace`."""
        return self.space.mutate(spec, rng)

    def uniform(self) -> list[NetworkSpec]:
        """See `hwnas.protocols.SearchSpace`."""
        return self.space.uniform()

    def blocks(self) -> tuple[BlockSpec, ...]:
        """See `hwnas.protocols.SearchSpace`."""
        return self.space.blocks()

    def __contains__(self, spec: object) -> bool:
        """See `hwnas.protocols.SearchSpace`."""
        return spec in self.space


def shapes(space: SearchSpace, spec: NetworkSpec) -> list[Move]:
    """Moves of the macro phase: deeper and wider."""
    return [move for move in space.grow(spec) if move.kind in SHAPES]


def has_operators(space: SearchSpace) -> bool:
    """Whether there are operators to choose between."""
    if isinstance(space, ChainSpace):
        return any(len(level.operators) > 1 for level in space.levels)
    return any(move.kind not in SHAPES for move in space.grow(space.smallest()))


def operators(space: SearchSpace, spec: NetworkSpec, part: BlockSet) -> list[Move]:
    """One-step growths of operators in the vital blocks of each stage, or in the others.

    The move's kind names the part: ``vital kernel``, ``other expand``.
    """
    vital = set(vital_blocks(spec))
    chosen = [
        [i for i in range(len(stage)) if (f"stages.{s}.{i}" in vital) == (part == "vital")]
        for s, stage in enumerate(spec.stages)
    ]
    if isinstance(space, ChainSpace):
        return _of_chain(space, spec, chosen, part)
    moves = []
    for move in space.grow(spec):
        if move.kind in SHAPES or len(move.spec.stages[move.stage]) != len(spec.stages[move.stage]):
            continue
        now, to = spec.stages[move.stage], move.spec.stages[move.stage]
        grown = spec.replace_stage(
            move.stage, tuple(to[i] if i in chosen[move.stage] else block for i, block in enumerate(now))
        )
        if grown.key != spec.key and grown in space:
            moves.append(replace(move, kind=f"{part} {move.kind}", spec=grown))
    return moves


def _of_chain(space: ChainSpace, spec: NetworkSpec, chosen: list[list[int]], part: BlockSet) -> list[Move]:
    gene = space.gene(spec)
    moves = []
    for s, (at, now) in enumerate(zip(gene.path, gene.operators, strict=True)):
        for kind in RAISES:
            larger = dict(zip(chosen[s], raised(tuple(now[i] for i in chosen[s]), kind, space.levels[at])))
            changed = tuple(larger.get(i, operator) for i, operator in enumerate(now))
            if changed != now:
                genes = (*gene.operators[:s], changed, *gene.operators[s + 1 :])
                moves.append(Move(s, f"{part} {kind}", space.express(replace(gene, operators=genes))))
    return moves
