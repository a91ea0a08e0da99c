"""Random members of every space, small enough to run, and weights that leave nothing at its default."""

from __future__ import annotations

import functools

import numpy as np
import torch
from hypothesis import strategies as st
from torch import nn

from hwnas.nets import spaces
from hwnas.nets.build import Block, Network, fresh
from hwnas.nets.conv import ChannelScale
from hwnas.nets.count import count
from hwnas.protocols import SearchSpace
from hwnas.spec import NetworkSpec

# Input sizes small enough for speed, one of them odd; two channels or four show a 3 written in the code.
SPACES: dict[str, tuple[tuple[int, int, int], int]] = {
    "resnet-cifar": ((3, 16, 16), 10),
    "resnet-cifar-wide": ((1, 15, 15), 7),
    "mbv2-cifar": ((4, 12, 12), 5),
    "mbv2-imagenet": ((3, 32, 32), 11),
    "resnet-imagenet": ((3, 32, 32), 6),
    "macromicro": ((1, 9, 9), 4),
    "convnext-cifar": ((3, 11, 11), 6),
    "nasnet-cifar": ((2, 11, 11), 3),
    "densenas-mbv2": ((1, 32, 32), 5),
    "densenas-resnet": ((3, 32, 32), 4),
    "densenas-cifar": ((3, 16, 16), 10),
    "auto": ((3, 17, 17), 6),
}
# For costly tests: without the space whose networks are those of another.
DISTINCT = [name for name in SPACES if name != "densenas-mbv2"]
SEEDS = st.integers(0, 2**32 - 1)


@functools.cache
def space(name: str) -> SearchSpace:
    shape, classes = SPACES[name]
    return spaces.make(name, input_shape=shape, classes=classes)


def sample(name: str, seed: int, deepest: int = 40) -> NetworkSpec:
    """A random member of at most `deepest` blocks and 6 M parameters.

    The first such of a few samples; in spaces of larger networks, a random walk from the smallest.
    """

    def small(spec: NetworkSpec) -> bool:
        return len(spec.blocks) <= deepest and count(spec).params < 6e6

    rng = np.random.default_rng(seed)
    for _ in range(10):
        spec = space(name).sample(rng)
        if small(spec):
            return spec
    spec = space(name).smallest()
    for _ in range(15):
        neighbour = space(name).mutate(spec, rng)
        spec = neighbour if small(neighbour) else spec
    return spec


def randomised(spec: NetworkSpec, seed: int) -> Network:
    """A network in eval mode with random statistics, scales, shifts and biases.

    Residual branches are scaled down, so that sums over many blocks stay near one.
    """
    net = fresh(spec, seed=seed)
    rng = torch.Generator().manual_seed(seed)
    blocks = [b for b in net.modules() if isinstance(b, Block) and _has_norm(b)]
    ends = {id(b.get_submodule(f"{b.recipe.residual_end}_norm")) for b in blocks}

    def uniform(value: torch.Tensor, low: float, high: float) -> None:
        value.uniform_(low, high, generator=rng)

    with torch.no_grad():
        for layer in net.modules():
            if isinstance(layer, nn.BatchNorm2d):
                assert layer.running_mean is not None
                assert layer.running_var is not None
                scale = 0.25 if id(layer) in ends else 1.0
                uniform(layer.running_mean, -0.3, 0.3)
                uniform(layer.running_var, 0.5, 2.0)
                uniform(layer.weight, 0.5 * scale, 1.5 * scale)
                uniform(layer.bias, -0.3, 0.3)
            elif isinstance(layer, nn.LayerNorm):
                uniform(layer.weight, 0.5, 1.5)
                uniform(layer.bias, -0.3, 0.3)
            elif isinstance(layer, ChannelScale):
                uniform(layer.weight, 0.1, 0.4)
            elif isinstance(layer, nn.Conv2d) and layer.bias is not None:
                uniform(layer.bias, -0.2, 0.2)
        head = net.head.get_submodule("linear")
        assert isinstance(head, nn.Linear)
        nn.init.normal_(head.weight, std=head.in_features**-0.5, generator=rng)
        uniform(head.bias, -0.5, 0.5)
    return net.eval()


def _has_norm(module: nn.Module) -> bool:
    recipe = getattr(module, "recipe", None)
    if recipe is None or recipe.residual_end is None:
        return False
    return f"{recipe.residual_end}_norm" in dict(module.named_children())


def images(spec: NetworkSpec, seed: int, n: int = 2) -> torch.Tensor:
    """Standard normal images."""
    return torch.randn(n, *spec.input_shape, generator=torch.Generator().manual_seed(seed))
