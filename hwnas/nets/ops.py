"""Primitive operations: each says in one place what it computes, costs and looks like.

A batch norm belongs to the convolution before it (`Conv.norm`), and so does a layer scale
(`Conv.scale`): in eval mode both are affine maps of that convolution's output, which is how the ONNX
writer folds them. Torch is imported on first use of a layer; counting and ONNX do without it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from hwnas import sizes
from hwnas.lazy import lazy_import
from hwnas.nets.activations import ACTIVATIONS
from hwnas.nets.op import Arithmetic, Op, Shape, WithoutMacs, WithoutWeights
from hwnas.nets.sources import NORM_EPS, ConvForm, Source

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from hwnas.nets import conv as conv_layers
    from hwnas.nets.graph_writer import GraphWriter
    from hwnas.nets.op import Apply
else:
    torch, nn = lazy_import("torch"), lazy_import("torch.nn")
    conv_layers = lazy_import("hwnas.nets.conv")

CHANNEL_NORM_EPS = 1e-6  # of ConvNeXt's layer norms
LAYER_SCALE = 1e-6  # initial value of a layer scale (Liu et al. 2022, table 5)


@dataclass(frozen=True, kw_only=True)
class Conv(Op):
    """Convolution with padding kernel//2; with or without bias, batch norm or layer scale."""

    c_in: int
    kernel: int
    stride: int
    groups: int
    bias: bool
    norm: bool
    scale: bool = False

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        """Shape of the weight: (out, in per group, kernel, kernel)."""
        return (self.channels, self.c_in // self.groups, self.kernel, self.kernel)

    @property
    def depthwise(self) -> bool:
        """Whether every channel is convolved by itself."""
        return self.groups > 1 and self.groups == self.c_in == self.channels

    @property
    def after(self) -> tuple[str, ...]:
        """Names of the layers that follow the convolution and are folded into it."""
        return (f"{self.name}_norm",) * self.norm + (f"{self.name}_scale",) * self.scale

    def weights(self) -> Mapping[str, Shape]:
        """Weight and bias; scale and shift of the batch norm; the layer scale."""
        channel = (self.channels,)
        found: dict[str, Shape] = {f"{self.name}.weight": self.weight_shape}
        if self.bias:
            found[f"{self.name}.bias"] = channel
        if self.norm:
            found |= {f"{self.name}_norm.weight": channel, f"{self.name}_norm.bias": channel}
        if self.scale:
            found[f"{self.name}_scale.weight"] = channel
        return found

    def statistics(self) -> Mapping[str, Shape]:
        """Of the batch norm."""
        parts = ("running_mean", "running_var") if self.norm else ()
        return {f"{self.name}_norm.{part}": (self.channels,) for part in parts}

    @property
    def deployed(self) -> int:
        """The weight, and a bias where there is one or batch norm leaves one."""
        return math.prod(self.weight_shape) + (self.bias or self.norm) * self.channels

    @property
    def macs(self) -> int:
        """Every weight once a pixel of the output."""
        return math.prod(self.weight_shape) * sizes.pixels(self.size)

    @property
    def arithmetic(self) -> Arithmetic:
        """By groups and kernel."""
        if self.groups > 1:
            return "grouped"
        if self.kernel == 1:
            return "pointwise"
        return "winograd" if (self.kernel, self.stride) == (3, 1) else "dense"

    @property
    def overwrites(self) -> bool:
        """A pixel is read again for its neighbours."""
        return False

    def layers(self) -> Mapping[str, nn.Module]:
        """The convolution and what is folded into it."""
        conv = conv_layers.Conv2d(
            self.c_in,
            self.channels,
            self.kernel,
            stride=1 if self.kernel == 1 else self.stride,  # see `run`
            padding=self.kernel // 2,
            groups=self.groups,
            bias=self.bias,
        )
        found: dict[str, nn.Module] = {self.name: conv}
        if self.norm:
            found[f"{self.name}_norm"] = nn.BatchNorm2d(self.channels, eps=NORM_EPS)
        if self.scale:
            found[f"{self.name}_scale"] = conv_layers.ChannelScale(self.channels, LAYER_SCALE)
        return found

    def run(self, inputs: Sequence[Tensor], layer: Apply) -> Tensor:
        """Convolution, then its batch norm or layer scale."""
        # A 1x1 convolution sees only the pixels that its stride keeps. Taking those first also
        # avoids a fault of oneDNN (in torch 2.15 at least): its backward pass of a strided 1x1
        # convolution in channels_last writes out of bounds where the batch is no multiple of
        # the threads and there are fewer than 16 channels.
        y = inputs[0][:, :, :: self.stride, :: self.stride] if self.kernel == 1 else inputs[0]
        for name in (self.name, *self.after):
            y = layer(name, y)
        return y

    def write(
        self, graph: GraphWriter, inputs: Sequence[str], name: str, source: Source, *, ends_branch: bool
    ) -> str:
        """One Conv with everything folded in."""
        form = ConvForm(self.weight_shape, self.bias, self.norm, self.scale, ends_branch)
        weight, bias = source.conv(name, form)
        operands = [inputs[0], graph.tensor(f"{name}.weight", weight)]
        operands += [graph.tensor(f"{name}.bias", bias)] if bias is not None else []
        return graph.node(
            "Conv",
            operands,
            name,
            kernel_shape=[self.kernel] * 2,
            strides=[self.stride] * 2,
            pads=[self.kernel // 2] * 4,
            group=self.groups,
        )


@dataclass(frozen=True, kw_only=True)
class Linear(Op):
    """Fully connected layer with bias, on an input of size 1."""

    c_in: int

    def weights(self) -> Mapping[str, Shape]:
        """Weight and bias."""
        return {f"{self.name}.weight": (self.channels, self.c_in), f"{self.name}.bias": (self.channels,)}

    @property
    def macs(self) -> int:
        """Every weight once."""
        return self.c_in * self.channels

    @property
    def arithmetic(self) -> Arithmetic:
        """A product of a matrix and a vector."""
        return "linear"

    @property
    def overwrites(self) -> bool:
        """Every input is read for every output."""
        return False

    def layers(self) -> Mapping[str, nn.Module]:
        """One layer."""
        return {self.name: nn.Linear(self.c_in, self.channels)}

    def run(self, inputs: Sequence[Tensor], layer: Apply) -> Tensor:
        """(batch, channels)."""
        return layer(self.name, inputs[0].flatten(1))

    def write(
        self, graph: GraphWriter, inputs: Sequence[str], name: str, source: Source, *, ends_branch: bool
    ) -> str:
        """Flatten and Gemm."""
        weight, bias = source.linear(name, (self.channels, self.c_in))
        flat = graph.node("Flatten", (inputs[0],), f"{name}.flat", axis=1)
        operands = (flat, graph.tensor(f"{name}.weight", weight), graph.tensor(f"{name}.bias", bias))
        return graph.node("Gemm", operands, name, transB=1)


@dataclass(frozen=True, kw_only=True)
class ChannelNorm(WithoutMacs):
    """Layer norm over the channels of every pixel (ConvNeXt); like batch norm, it counts no MACs."""

    def weights(self) -> Mapping[str, Shape]:
        """Scale and shift."""
        return {f"{self.name}.weight": (self.channels,), f"{self.name}.bias": (self.channels,)}

    @property
    def overwrites(self) -> bool:
        """It runs in place, as activations do."""
        return True

    def layers(self) -> Mapping[str, nn.Module]:
        """A layer norm that is given the channels last."""
        return {self.name: nn.LayerNorm(self.channels, eps=CHANNEL_NORM_EPS)}

    def run(self, inputs: Sequence[Tensor], layer: Apply) -> Tensor:
        """The norm, channels last meanwhile."""
        return layer(self.name, inputs[0].permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def write(
        self, graph: GraphWriter, inputs: Sequence[str], name: str, source: Source, *, ends_branch: bool
    ) -> str:
        """LayerNormalization between two transpositions: it normalises trailing axes only."""
        scale, shift = source.affine(name, self.channels)
        last = graph.node("Transpose", inputs, f"{name}.last", perm=[0, 2, 3, 1])
        operands = (last, graph.tensor(f"{name}.weight", scale), graph.tensor(f"{name}.bias", shift))
        normed = graph.node(
            "LayerNormalization", operands, f"{name}.normed", axis=-1, epsilon=CHANNEL_NORM_EPS
        )
        return graph.node("Transpose", (normed,), name, perm=[0, 3, 1, 2])


@dataclass(frozen=True, kw_only=True)
class Activation(WithoutWeights):
    """Element-wise function: one of `ACTIVATIONS`."""

    fn: str

    @property
    def overwrites(self) -> bool:
        """Every value is read once."""
        return True

    def run(self, inputs: Sequence[Tensor], layer: Apply) -> Tensor:
        """The function of every value."""
        return ACTIVATIONS[self.fn][0](inputs[0])

    def write(
        self, graph: GraphWriter, inputs: Sequence[str], name: str, source: Source, *, ends_branch: bool
    ) -> str:
        """The function's nodes."""
        return ACTIVATIONS[self.fn][1](graph, inputs[0], name)


@dataclass(frozen=True, kw_only=True)
class Add(WithoutWeights):
    """Sum of two inputs, equal in shape; `residual` where the second bypasses the block's branch."""

    residual: bool = False

    def run(self, inputs: Sequence[Tensor], layer: Apply) -> Tensor:
        """The sum."""
        return inputs[0] + inputs[1]

    def write(
        self, graph: GraphWriter, inputs: Sequence[str], name: str, source: Source, *, ends_branch: bool
    ) -> str:
        """Add."""
        return graph.node("Add", inputs, name)


@dataclass(frozen=True, kw_only=True)
class Scale(WithoutWeights):
    """First input times the second, which has one value per channel."""

    def run(self, inputs: Sequence[Tensor], layer: Apply) -> Tensor:
        """The product."""
        return inputs[0] * inputs[1]

    def write(
        self, graph: GraphWriter, inputs: Sequence[str], name: str, source: Source, *, ends_branch: bool
    ) -> str:
        """Mul."""
        return graph.node("Mul", inputs, name)


@dataclass(frozen=True, kw_only=True)
class GlobalPool(WithoutWeights):
    """Mean over the pixels of every channel; the output has size 1."""

    def run(self, inputs: Sequence[Tensor], layer: Apply) -> Tensor:
        """The means."""
        return inputs[0].mean((2, 3), keepdim=True)

    def write(
        self, graph: GraphWriter, inputs: Sequence[str], name: str, source: Source, *, ends_branch: bool
    ) -> str:
        """GlobalAveragePool."""
        return graph.node("GlobalAveragePool", inputs, name)


@dataclass(frozen=True, kw_only=True)
class Pool(WithoutWeights):
    """Mean (``mean``) or maximum (``max``) over a window, padding kernel//2, which counts in neither."""

    fn: Literal["mean", "max"]
    kernel: int
    stride: int

    def run(self, inputs: Sequence[Tensor], layer: Apply) -> Tensor:
        """The pooled image."""
        pad, functional = self.kernel // 2, nn.functional
        if self.fn == "max":
            return functional.max_pool2d(inputs[0], self.kernel, self.stride, pad)
        return functional.avg_pool2d(inputs[0], self.kernel, self.stride, pad, count_include_pad=False)

    def write(
        self, graph: GraphWriter, inputs: Sequence[str], name: str, source: Source, *, ends_branch: bool
    ) -> str:
        """MaxPool or AveragePool."""
        pads, kernel, strides = [self.kernel // 2] * 4, [self.kernel] * 2, [self.stride] * 2
        node = {"max": "MaxPool", "mean": "AveragePool"}[self.fn]
        return graph.node(node, inputs, name, kernel_shape=kernel, strides=strides, pads=pads)


@dataclass(frozen=True, kw_only=True)
class Shift(WithoutWeights):
    """Everything moved up and to the left by one pixel; zeros come in."""

    def run(self, inputs: Sequence[Tensor], layer: Apply) -> Tensor:
        """The moved image."""
        return nn.functional.pad(inputs[0][:, :, 1:, 1:], (0, 1, 0, 1))

    def write(
        self, graph: GraphWriter, inputs: Sequence[str], name: str, source: Source, *, ends_branch: bool
    ) -> str:
        """Slice and Pad."""
        cut = [(1, 1), (2**31 - 1,) * 2, (2, 3)]
        bounds = [graph.integers(f"shift.{n}", v) for n, v in zip(("starts", "ends", "axes"), cut)]
        inner = graph.node("Slice", (inputs[0], *bounds), f"{name}.cut")
        rim = graph.integers("shift.rim", (0, 0, 0, 0, 0, 0, 1, 1))
        return graph.node("Pad", (inner, rim), name)


@dataclass(frozen=True, kw_only=True)
class Concat(WithoutWeights):
    """The inputs side by side, along the channels."""

    def run(self, inputs: Sequence[Tensor], layer: Apply) -> Tensor:
        """All channels."""
        return torch.cat(list(inputs), dim=1)

    def write(
        self, graph: GraphWriter, inputs: Sequence[str], name: str, source: Source, *, ends_branch: bool
    ) -> str:
        """Concat."""
        return graph.node("Concat", inputs, name, axis=1)
