"""The chains of Efficient Global NAS (arXiv 2502.03553): no residuals, ReLU before each convolution.

A stem to twice the width C; then D layers, of which layer D//3 and layer 2D//3 halve the image and
double the width; C, 2C, 4C channels in the three stages. Each layer is a depthwise-separable or a
full convolution, with kernel 3 or 5.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np

from hwnas import sizes
from hwnas.errors import InputError
from hwnas.nets.member import is_member
from hwnas.protocols import Move
from hwnas.sizes import MapSize
from hwnas.spec import BlockSpec, Kind, NetworkSpec

SEPARABLE: Kind = "sep_preact"
FULL: Kind = "conv_preact"
LAYERS: tuple[tuple[Kind, int], ...] = tuple(product((SEPARABLE, FULL), (3, 5)))


@dataclass(frozen=True)
class Chain:
    """A chain as choices: width C, and kind and kernel of every layer."""

    width: int
    layers: tuple[tuple[Kind, int], ...]

    @property
    def depth(self) -> int:
        """Number of layers D."""
        return len(self.layers)

    @property
    def cuts(self) -> tuple[int, int]:
        """First layers of the second and third stage."""
        return (self.depth // 3, 2 * self.depth // 3)

    def stage_of(self, layer: int) -> int:
        """Stage (0 to 2) that a layer is in."""
        return sum(layer >= cut for cut in self.cuts)


@dataclass(frozen=True)
class MacroMicro:
    """The search space (`hwnas.protocols.SearchSpace`).

    Attributes:
        input_shape: channels, height and width of an image.
        classes: number of classes.
        depth: least and greatest number of layers.
        width: least and greatest width C. The published walk takes steps of two, its repair steps
            of one, so that every width between is in the space.
        name: registered name.
    """

    input_shape: tuple[int, int, int]
    classes: int
    depth: tuple[int, int] = (10, 100)
    width: tuple[int, int] = (8, 64)
    name: str = "macromicro"

    def __post_init__(self) -> None:
        channels, height, width = self.input_shape
        if min(self.input_shape) < 1:
            raise InputError(f"space {self.name} needs images with pixels, not {channels}x{height}x{width}")
        if self.depth[0] < 3:
            raise InputError(f"space {self.name}: a chain of {self.depth[0]} layers has an empty stage")

    def network(
        self, depth: int, width: int, full_conv: Collection[int] = (), kernel5: Collection[int] = ()
    ) -> NetworkSpec:
        """A chain in the terms of the published logs.

        Args:
            depth, width: D and C.
            full_conv: layers, from 0, that hold a full convolution.
            kernel5: layers with kernel 5.

        Raises:
            InputError: for a layer that the chain does not have.
        """
        wrong = sorted(i for i in {*full_conv, *kernel5} if not 0 <= i < depth)
        if wrong:
            raise InputError(f"a chain of {depth} layers has no layer {wrong[0]}")
        layers = tuple(
            (FULL if i in full_conv else SEPARABLE, 5 if i in kernel5 else 3) for i in range(depth)
        )
        return self.express(Chain(width, layers))

    def express(self, chain: Chain) -> NetworkSpec:
        """The network of a chain."""
        stem = self._stem(chain.width)
        stages: list[list[BlockSpec]] = [[], [], []]
        before = stem
        for i, (kind, kernel) in enumerate(chain.layers):
            before = BlockSpec(
                kind=kind,
                c_in=before.c_out,
                c_out=chain.width * 2 ** chain.stage_of(i),
                kernel=kernel,
                stride=2 if i in chain.cuts else 1,
                size_in=before.size_out,
            )
            stages[chain.stage_of(i)].append(before)
        return NetworkSpec(
            stem=stem,
            stages=tuple(map(tuple, stages)),
            head=self._head(before.c_out, before.size_out),
            space=self.name,
        )

    def _stem(self, width: int) -> BlockSpec:
        channels, size = self.input_shape[0], sizes.of(*self.input_shape[1:])
        return BlockSpec(kind="conv", c_in=channels, c_out=2 * width, act="none", size_in=size)

    def _head(self, c_in: int, size: MapSize) -> BlockSpec:
        return BlockSpec(kind="classifier", c_in=c_in, c_out=self.classes, kernel=1, act="none", size_in=size)

    def chain(self, spec: NetworkSpec) -> Chain:
        """The choices behind a member.

        Raises:
            InputError: for a network that is not a member.
        """
        layers = tuple((b.kind, b.kernel) for stage in spec.stages for b in stage)
        chain = Chain(spec.stem.c_out // 2, layers)
        shaped = self._allows(chain) and self.express(chain).model_copy(update={"name": spec.name})
        if not shaped or shaped.key != spec.key:
            raise InputError(f"network {spec.name or spec.key} is not in the space {self.name}")
        return chain

    def _allows(self, chain: Chain) -> bool:
        in_range = self.depth[0] <= chain.depth <= self.depth[1] and self.width[0] <= chain.width
        return in_range and chain.width <= self.width[1] and set(chain.layers) <= set(LAYERS)

    def __contains__(self, spec: object) -> bool:
        """Whether a network is a member; its name does not matter."""
        return is_member(spec, self.chain)

    @property
    def members(self) -> int:
        """How many networks the space holds, exactly."""
        widths = self.width[1] - self.width[0] + 1
        chains = (int(len(LAYERS) ** depth) for depth in range(self.depth[0], self.depth[1] + 1))
        return widths * sum(chains)

    def describe(self) -> dict[str, Any]:
        """Input, classes, number of members and stages, for display."""
        low, high = self.width
        of_stage = [self.express(Chain(low, LAYERS[:3])).stages[s][0].size_out for s in range(3)]
        stages = [
            {
                "stage": s,
                "sizes": [size],
                "widths": [low * 2**s, high * 2**s],
                "depth": [self.depth[0] // 3, -(-self.depth[1] // 3)],
                "kinds": [SEPARABLE, FULL],
                "kernels": [3, 5],
            }
            for s, size in enumerate(of_stage)
        ]
        shape = list(self.input_shape)
        return {"input_shape": shape, "classes": self.classes, "members": self.members, "stages": stages}

    def smallest(self) -> NetworkSpec:
        """The shallowest and narrowest chain, separable with kernel 3."""
        return self.network(self.depth[0], self.width[0])

    def uniform(self) -> list[NetworkSpec]:
        """Separable chains of half the greatest width at every depth, after the smallest member."""
        width = max(self.width[0], self.width[1] // 2)
        ladder = [self.network(depth, width) for depth in range(self.depth[0], self.depth[1] + 1)]
        least = self.smallest()
        return ladder if least == ladder[0] else [least, *ladder]

    def sample(self, rng: np.random.Generator) -> NetworkSpec:
        """A random member: depth, width and every layer drawn evenly."""
        depth, width = (int(rng.integers(low, high + 1)) for low, high in (self.depth, self.width))
        draws = rng.integers(len(LAYERS), size=depth)
        return self.express(Chain(width, tuple(LAYERS[int(d)] for d in draws)))

    def mutate(self, spec: NetworkSpec, rng: np.random.Generator) -> NetworkSpec:
        """A random neighbour: one layer more, fewer or different, or the width two steps up or down.

        Raises:
            InputError: for a network that is not a member.
        """
        edits = list(self._edits(self.chain(spec)))
        kinds = sorted({kind for kind, _ in edits})
        kind = kinds[int(rng.integers(len(kinds)))]
        chains = [chain for of, chain in edits if of == kind]
        return self.express(chains[int(rng.integers(len(chains)))])

    def _edits(self, chain: Chain) -> Iterator[tuple[str, Chain]]:
        layers = chain.layers
        for width in (chain.width - 2, chain.width - 1, chain.width + 1, chain.width + 2):
            if self._allows(replace(chain, width=width)):
                yield "width", replace(chain, width=width)
        if chain.depth > self.depth[0]:
            yield "depth", replace(chain, layers=layers[:-1])
        if chain.depth < self.depth[1]:
            yield "depth", replace(chain, layers=(*layers, layers[-1]))
        for i, old in enumerate(layers):
            for new in LAYERS:
                if new != old:
                    yield "layer", replace(chain, layers=(*layers[:i], new, *layers[i + 1 :]))

    def grow(self, spec: NetworkSpec) -> list[Move]:
        """One layer deeper, two channels wider, or kernel 5 throughout a stage.

        Which stage a deeper chain is longer in follows from D//3 and 2D//3. A move's stage is that
        one; for the width, which all stages share, it is the first.

        Raises:
            InputError: for a network that is not a member.
        """
        chain = self.chain(spec)
        moves = []
        if chain.depth < self.depth[1]:
            deeper = self._longer(chain)
            stage = next(s for s in range(3) if _stage_depth(deeper, s) > _stage_depth(chain, s))
            moves.append(Move(stage, "deeper", self.express(deeper)))
        wider = replace(chain, width=min(chain.width + 2, self.width[1]))
        if wider != chain:
            moves.append(Move(0, "wider", self.express(wider)))
        for stage in range(3):
            layers = tuple(
                (kind, 5) if chain.stage_of(i) == stage else (kind, kernel)
                for i, (kind, kernel) in enumerate(chain.layers)
            )
            if layers != chain.layers:
                moves.append(Move(stage, "kernel", self.express(replace(chain, layers=layers))))
        return moves

    @staticmethod
    def _longer(chain: Chain) -> Chain:
        """The chain with one layer more, put at the end of the stage that becomes longer."""
        longer = replace(chain, layers=(*chain.layers, chain.layers[-1]))
        stage = next(s for s in range(3) if _stage_depth(longer, s) > _stage_depth(chain, s))
        end = (*chain.cuts, chain.depth)[stage]
        return replace(chain, layers=(*chain.layers[:end], chain.layers[end - 1], *chain.layers[end:]))

    @cached_property
    def _blocks(self) -> tuple[BlockSpec, ...]:
        found: dict[BlockSpec, None] = {}
        for width in range(self.width[0], self.width[1] + 1):
            # Three stages of two layers hold a transition and a repeated layer each.
            for layer in LAYERS:
                found |= dict.fromkeys(self.express(Chain(width, (layer,) * 6)).blocks)
        return tuple(found)

    def blocks(self) -> tuple[BlockSpec, ...]:
        """Every block that a member may hold, stems and heads included, each once."""
        return self._blocks


def _stage_depth(chain: Chain, stage: int) -> int:
    return (chain.cuts[0], chain.cuts[1] - chain.cuts[0], chain.depth - chain.cuts[1])[stage]


def macromicro(*, input_shape: tuple[int, int, int] = (3, 32, 32), classes: int = 10) -> MacroMicro:
    """The registered space: widths 8 to 64, depths 10 to 100."""
    return MacroMicro(input_shape, classes)
