"""Shared weights: one set for every network of a space, each using the part that its blocks need.

A place keeps, for every operation that any of its blocks has, one weight of the largest shape. A
block uses the first channels of it and the middle of its kernels, so that kernels 3, 5 and 7, all
expansions and all widths share what they have in common (as in once-for-all networks, Cai et al.
2020). Batch norms take the statistics of the batch in training and evaluation alike: running ones
would belong to no network in particular.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from hwnas.nets.blocks import recipe
from hwnas.nets.conv import conv2d
from hwnas.nets.op import INPUT, Op, Shape
from hwnas.nets.ops import LAYER_SCALE, Conv, Linear
from hwnas.nets.sources import NORM_EPS
from hwnas.spec import BlockSpec, Convention

Places = Sequence[tuple[str, BlockSpec]]


class Shared(nn.Module):
    """Weights for every network whose blocks are among those of their places.

    Args:
        blocks: for each place the blocks that it may hold.
        convention: see `hwnas.spec.NetworkSpec`.
        seed: of the initial weights.
    """

    def __init__(
        self, blocks: Mapping[str, Iterable[BlockSpec]], convention: Convention, *, seed: int
    ) -> None:
        super().__init__()
        self.convention = convention
        self.values = nn.ParameterDict()
        shapes: dict[str, tuple[int, ...]] = {}
        for place, held in blocks.items():
            for block in held:
                for op in recipe(block, convention).ops:
                    for name, shape in op.weights().items():
                        key = _key(place, name)
                        shapes[key] = tuple(map(max, shapes.get(key, shape), shape))
        generator = torch.Generator().manual_seed(seed)
        for key, shape in sorted(shapes.items()):
            self.values[key] = nn.Parameter(_fresh(key, shape, generator))

    def forward(self, x: Tensor, places: Places) -> Tensor:
        """Logits (batch, classes) of one network, given as its blocks in order."""
        for place, block in places:
            values = {INPUT: x}
            ops = recipe(block, self.convention)
            for op in ops.ops:
                values[op.name] = self._run_op(place, op, [values[name] for name in op.inputs])
            x = values[ops.output]
        return x

    def _run_op(self, place: str, op: Op, inputs: list[Tensor]) -> Tensor:
        if isinstance(op, Conv):
            return self._conv(place, op, inputs[0])
        if isinstance(op, Linear):
            weight, bias = (self.values[_key(place, f"{op.name}.{part}")] for part in ("weight", "bias"))
            return F.linear(inputs[0].flatten(1), weight[:, : op.c_in], bias)

        def layer(name: str, x: Tensor) -> Tensor:
            own = {n: s for n, s in op.weights().items() if n.rpartition(".")[0] == name}
            cut = {n.rpartition(".")[2]: self._cut(place, n, shape) for n, shape in own.items()}
            y: Tensor = functional_call(op.layers()[name], cut, (x,))
            return y

        return op.run(inputs, layer)

    def _cut(self, place: str, name: str, shape: Shape) -> Tensor:
        """The first values of a shared array on every axis."""
        values: Tensor = self.values[_key(place, name)][tuple(map(slice, shape))]
        return values

    def _conv(self, place: str, op: Conv, x: Tensor) -> Tensor:
        whole = self.values[_key(place, f"{op.name}.weight")]
        rim = (whole.shape[2] - op.kernel) // 2
        rows, columns = op.weight_shape[:2]
        weight = whole[:rows, :columns, rim : rim + op.kernel, rim : rim + op.kernel]
        bias = self.values[_key(place, f"{op.name}.bias")][:rows] if op.bias else None
        if op.kernel == 1:  # see hwnas.nets.build.Block: a strided 1x1 convolution takes its pixels first
            y = F.conv2d(x[:, :, :: op.stride, :: op.stride], weight, bias, groups=op.groups)
        else:
            y = conv2d(x, weight, bias, op.stride, op.kernel // 2, op.groups)
        if op.scale:
            y = y * self._cut(place, f"{op.name}_scale.weight", (rows,))[:, None, None]
        if not op.norm:
            return y
        scale, shift = (
            self.values[_key(place, f"{op.name}_norm.{part}")][:rows] for part in ("weight", "bias")
        )
        return F.batch_norm(y, None, None, scale, shift, training=True, eps=NORM_EPS)


class Sampled(nn.Module):
    """Shared weights as one module that trains another network at every step.

    Which one is a function of (seed, number of steps), and that number is part of the state, so that
    a resumed training sees the networks of an unbroken one.

    Args:
        shared: the weights.
        draw: gives the blocks of a network; called with a generator of random numbers.
        fixed: the network that is evaluated.
        seed: of the draws.
    """

    calls: Tensor

    def __init__(
        self,
        shared: Shared,
        draw: Callable[[np.random.Generator], Places],
        fixed: Places,
        *,
        seed: int,
    ) -> None:
        super().__init__()
        self.shared, self._draw, self._fixed, self._seed = shared, draw, fixed, seed
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        """Logits of this step's network, or in evaluation of the fixed one."""
        if not self.training:
            return self._only(x, self._fixed)
        places = self._draw(np.random.default_rng([self._seed, int(self.calls)]))
        self.calls += 1
        return self._only(x, places)

    def _only(self, x: Tensor, places: Places) -> Tensor:
        logits: Tensor = self.shared(x, places)
        return logits


@torch.no_grad()
def losses(shared: Shared, networks: Sequence[Places], images: Tensor, labels: Tensor) -> list[float]:
    """Mean cross-entropy of each network on the same images, in one batch each (statistics are its own)."""
    found = []
    for places in networks:
        logits = shared(images, places).float()
        found.append(float(F.cross_entropy(logits, labels)))
    return found


def _key(place: str, name: str) -> str:
    return f"{place}/{name}".replace(".", "_")


def _fresh(key: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """He fan-in for convolutions, N(0, 0.01) for the classifier, ones for scales, zeros for shifts."""
    if key.endswith("scale_weight"):
        return torch.full(shape, LAYER_SCALE)
    if len(shape) == 1:
        return torch.ones(shape) if key.endswith("norm_weight") else torch.zeros(shape)
    std = 0.01 if len(shape) == 2 else (2.0 / float(np.prod(shape[1:]))) ** 0.5
    return std * torch.randn(shape, generator=generator)
