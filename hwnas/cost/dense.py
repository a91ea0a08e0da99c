"""What every choice of a dense space costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hwnas.nets.densenas.graph import DenseSpace
from hwnas.nets.densenas.layers import candidates, layer_places
from hwnas.spec import BlockSpec


@dataclass(frozen=True)
class Costs:
    """Cost of every candidate, all in one unit (ms or MACs).

    Attributes:
        fixed: what every network pays (stem, classifier).
        layers: for mixed layer k, in the order of `layer_places`, one cost per operator.
        sink: of the 1x1 convolution, for each in-edge of the sink, nearest first.
    """

    fixed: float
    layers: tuple[tuple[float, ...], ...]
    sink: tuple[float, ...]


def price_choices(space: DenseSpace, price: Callable[[BlockSpec], float], *, skip: float = 0.0) -> Costs:
    """Price every candidate of a space.

    Args:
        space: the dense space.
        price: cost of one block; raises where it cannot say (never zero for unknown).
        skip: cost of a skipped layer: 0 where a runtime compiles it away, its measured time in a
            published list of eager timings.
    """
    sink = space.routing[space.sink]
    tails = [space.head_block(i, space.sink, space.head_ops[0]) for i in space.in_edges[space.sink]]
    head = BlockSpec(
        kind="classifier", c_in=sink.width, c_out=space.classes, kernel=1, act="none", size_in=sink.size
    )
    return Costs(
        fixed=sum(price(b) for b in space.stem) + price(head),
        layers=tuple(
            tuple(skip if b is None else price(b) for b in candidates(space, place))
            for place in layer_places(space)
        ),
        sink=tuple(price(b) if space.tail_in_network else 0.0 for b in tails),
    )
