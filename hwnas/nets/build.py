"""NetworkSpec to nn.Module, and weights to files and back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from hwnas.arrays import Float32s
from hwnas.errors import DataFormatError
from hwnas.nets import growth
from hwnas.nets.blocks import recipe
from hwnas.nets.op import INPUT, SKIP
from hwnas.nets.weights import read_weights as read_weights
from hwnas.nets.weights import save_weights
from hwnas.spec import BlockSpec, Convention, NetworkSpec
from hwnas.traced import VariantSpec, builder


class Block(nn.Module):
    """One block: interprets its recipe.

    An operation's layer is a child module of its name, its batch norm one named ``<name>_norm``, its
    layer scale ``<name>_scale``.
    """

    def __init__(self, block: BlockSpec, convention: Convention) -> None:
        super().__init__()
        self.recipe = recipe(block, convention)
        for op in self.recipe.ops:
            for name, layer in op.layers().items():
                self.add_module(name, layer)

    def _layer(self, name: str, x: Tensor) -> Tensor:
        y: Tensor = self.get_submodule(name)(x)
        return y

    def forward_with_sum(self, x: Tensor, skip: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The output, and the value before its last activation (the residual sum, if there is one).

        `skip` is the second input, of cells.
        """
        values = {INPUT: x} if skip is None else {INPUT: x, SKIP: skip}
        for op in self.recipe.ops:
            values[op.name] = op.run([values[name] for name in op.inputs], self._layer)
        return values[self.recipe.output], values[self.recipe.before_act]

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        """The output of the block; `skip` is the second input, of cells."""
        return self.forward_with_sum(x, skip)[0]


class Network(nn.Module):
    """A network built from `spec`; names in its state dict start with the places of `spec.walk()`."""

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.spec = spec
        self.stem = Block(spec.stem, spec.convention)
        self.stages = nn.ModuleList(
            nn.ModuleList(Block(b, spec.convention) for b in stage) for stage in spec.stages
        )
        self.head = Block(spec.head, spec.convention)

    @property
    def _blocks(self) -> Iterable[Iterable[Block]]:
        # torch types what a ModuleList holds as Module; `__init__` put blocks into it.
        return cast("Iterable[Iterable[Block]]", self.stages)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (batch, classes) of images (batch, C, H, W)."""
        before = now = self.stem(x)
        for stage in self._blocks:
            for block in stage:
                before, now = now, block(now, before)
        out: Tensor = self.head(now)
        return out

    def features(self, x: Tensor) -> list[Tensor]:
        """Per stage the last residual sum before its activation (batch, channels, size, size).

        For a block without residual sum, what its last convolution and batch norm give; for a cell
        its output.
        """
        sums = []
        before = now = self.stem(x)
        for stage in self._blocks:
            for block in stage:
                out, before_act = block.forward_with_sum(now, before)
                before, now = now, out
            sums.append(before_act)
        return sums


def build(spec: NetworkSpec, *, seed: int) -> nn.Module:
    """A network with fresh weights; the same seed gives the same weights.

    A variant of a traced model has the weights that its model was loaded with.
    """
    if isinstance(spec, VariantSpec):
        return builder().build(spec)
    return fresh(spec, seed=seed)


def fresh(spec: NetworkSpec, *, seed: int) -> Network:
    """A network of blocks with fresh weights; the same seed gives the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = Network(spec)
        for place, block in spec.walk():
            module = net.get_submodule(place)
            assert isinstance(module, Block)
            initialise(module, block)
    return net


def initialise(module: Block, block: BlockSpec) -> None:
    """Fresh weights of one block from torch's global generator.

    He fan-out for convolutions (He et al. 2015), N(0, 0.01) for the classifier, zero biases. The
    last batch norm of a residual branch starts at zero where the shortcut is the identity, so that
    a deep network starts as a shallow one (Goyal et al. 2017, section 5.1). A layer scale starts at
    its own small value.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            fan_out = layer.out_channels * layer.kernel_size[0] ** 2 / layer.groups
            nn.init.normal_(layer.weight, std=(2.0 / fan_out) ** 0.5)
        elif isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.01)
        else:
            continue
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    end = module.recipe.residual_end
    if end is not None and block.joins_identity and f"{end}_norm" in dict(module.named_children()):
        norm = module.get_submodule(f"{end}_norm")
        assert isinstance(norm, nn.BatchNorm2d)
        nn.init.zeros_(norm.weight)


def inherit(module: nn.Module, spec_from: NetworkSpec, spec_to: NetworkSpec, *, seed: int) -> nn.Module:
    """A network for `spec_to` that continues from the weights of a network of `spec_from`.

    Where `growth.preserves(spec_from, spec_to)` it computes the same function in eval mode, up to
    rounding; elsewhere it keeps what can be kept. In training mode inserted blocks without a
    residual branch normalise what they pass on, so the function changes there.

    Args:
        module: the trained network; left as it is.
        spec_from, spec_to: the two networks.
        seed: of the weights that are new.

    Returns:
        A network on the device of `module`, in its mode (training or eval).
    """
    if isinstance(spec_from, VariantSpec) and isinstance(spec_to, VariantSpec):
        return builder().inherit(module, spec_from, spec_to)
    net = build(spec_to, seed=seed)
    load_weights(net, growth.inherited(weights(module), spec_from, spec_to, weights(net)))
    device = next(module.parameters()).device
    return net.to(device).train(module.training)


def refitter(
    module: nn.Module, spec: NetworkSpec, images: Tensor
) -> Callable[[nn.Module, NetworkSpec], None]:
    """What fits a changed form of a user's model to what the model gave; it leaves other networks alone.

    Args:
        module: the network that the changed ones continue from.
        spec: of it.
        images: normalised; no labels are needed.

    Returns:
        To be called with a network that `inherit` made, which it changes in place, and its spec.
    """
    if not isinstance(spec, VariantSpec) or spec.edits:
        return lambda net, changed: None
    fit = builder().refitter(module, images)

    def refit(net: nn.Module, changed: NetworkSpec) -> None:
        if isinstance(changed, VariantSpec) and changed.edits:
            fit(net, changed)

    return refit


def weights(module: nn.Module) -> dict[str, Float32s]:
    """Parameters and batch-norm statistics as float32 arrays by state-dict name."""
    return {
        name: value.detach().to("cpu", torch.float32).contiguous().numpy()
        for name, value in module.state_dict().items()
        if value.is_floating_point()
    }


def load_weights(module: nn.Module, mapping: Mapping[str, Float32s]) -> None:
    """Copy arrays into a module, whose device and precision stay.

    Raises:
        DataFormatError: where names or shapes differ from the module's.
    """
    own = {n: v for n, v in module.state_dict().items() if v.is_floating_point()}
    if mapping.keys() != own.keys():
        missing, extra = sorted(own.keys() - mapping.keys()), sorted(mapping.keys() - own.keys())
        raise DataFormatError(
            f"these weights belong to another network: missing {missing[:3]}, unexpected {extra[:3]}"
        )
    for name, value in mapping.items():
        if value.shape != tuple(own[name].shape):
            raise DataFormatError(
                f"weight {name!r} has shape {value.shape}; the network needs {tuple(own[name].shape)}"
            )
        with torch.no_grad():
            own[name].copy_(torch.from_numpy(np.ascontiguousarray(value)))


def save(path: Path, module: nn.Module) -> None:
    """Write the weights as safetensors, atomically."""
    save_weights(path, weights(module))
