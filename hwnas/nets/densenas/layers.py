"""Where the choices of a dense space are: every layer that holds candidate operators."""

from __future__ import annotations

from dataclasses import dataclass

from hwnas.nets.densenas.graph import SKIP, CandidateOp, DenseSpace
from hwnas.spec import BlockSpec


@dataclass(frozen=True)
class LayerPlace:
    """A mixed layer: the head of edge `edge` into `block`, or slot `slot` of `block`'s stack."""

    block: int
    edge: tuple[int, int] | None
    slot: int | None
    operators: tuple[CandidateOp, ...]

    @property
    def name(self) -> str:
        """``head.2-5`` or ``stack.5.0``."""
        return f"head.{self.edge[0]}-{self.edge[1]}" if self.edge else f"stack.{self.block}.{self.slot}"


def layer_places(space: DenseSpace) -> tuple[LayerPlace, ...]:
    """Every mixed layer of a space: by block, its heads (nearest in-edge first), then its stack."""
    places = []
    for j in range(1, space.sink):
        places += [LayerPlace(j, (i, j), None, space.head_ops) for i in space.in_edges[j]]
        places += [LayerPlace(j, None, slot, space.stack_ops) for slot in range(space.routing[j].stack)]
    return tuple(places)


def candidates(space: DenseSpace, place: LayerPlace) -> list[BlockSpec | None]:
    """The block of each operator of a layer; None for skip."""
    if place.edge is not None:
        return [space.head_block(*place.edge, op) for op in place.operators]
    return [None if op == SKIP else space.stack_block(place.block, op) for op in place.operators]
