"""Recipes: what a block computes, as a small dataflow of primitive operations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hwnas import sizes
from hwnas.errors import InputError
from hwnas.nets.activations import ACTIVATIONS
from hwnas.nets.op import INPUT, SKIP, Op
from hwnas.nets.ops import Activation, Add, ChannelNorm, Concat, Conv, GlobalPool, Linear, Pool, Scale, Shift
from hwnas.sizes import MapSize
from hwnas.spec import BlockSpec, Convention

# Activations that are zero at zero and rise there.
SLOPE_AT_ZERO = ("hswish", "swish", "gelu")


@dataclass(frozen=True)
class Dataflow:
    """Operations in the order of computation; the last one gives the block's output."""

    ops: tuple[Op, ...]

    @property
    def output(self) -> str:
        """Name of the operation whose output is the block's."""
        return self.ops[-1].name

    @property
    def before_act(self) -> str:
        """Name of the value before the activation that ends the block (the residual sum where there is one).

        The output where a block ends in something else.
        """
        last = self.ops[-1]
        return last.inputs[0] if isinstance(last, Activation) else last.name

    @property
    def residual_end(self) -> str | None:
        """Name of the layer that ends the residual branch; None for a block without one.

        Where an activation follows that layer, it must have a slope at zero: behind any other a layer
        that starts at zero would never learn, so there None as well.
        """
        sums = [op for op in self.ops if isinstance(op, Add) and op.residual]
        if not sums:
            return None
        end = next(op for op in self.ops if op.name == sums[0].inputs[0])
        if not isinstance(end, Activation):
            return end.name
        return end.inputs[0] if end.fn in SLOPE_AT_ZERO else None

    @property
    def bypassed(self) -> bool:
        """Whether something bypasses the block's branch and is added to it."""
        return any(isinstance(op, Add) and op.residual for op in self.ops)


class Draft:
    """A recipe being written; every method returns the name of the value it adds."""

    def __init__(self, block: BlockSpec, convention: Convention) -> None:
        self.ops: list[Op] = []
        self.keras = convention == "keras"
        self.shapes: dict[str, tuple[int, MapSize]] = {
            INPUT: (block.c_in, block.size_in),
            SKIP: (block.c_skip, block.size_skip),
        }

    def put(self, op: Op) -> str:
        """Add an operation, also one that is not of `hwnas.nets.ops`."""
        self.ops.append(op)
        self.shapes[op.name] = (op.channels, op.size)
        return op.name

    def conv(
        self,
        name: str,
        x: str,
        channels: int,
        kernel: int = 1,
        stride: int = 1,
        *,
        depthwise: bool = False,
        norm: bool = True,
        bias: bool | None = None,
        scale: bool = False,
    ) -> str:
        """Convolution, with a bias by the convention unless `bias` says so; `scale` adds a layer scale."""
        c_in, size = self.shapes[x]
        return self.put(
            Conv(
                name=name,
                inputs=(x,),
                channels=channels,
                size=sizes.divided(size, stride),
                c_in=c_in,
                kernel=kernel,
                stride=stride,
                groups=c_in if depthwise else 1,
                bias=self.keras if bias is None else bias,
                norm=norm,
                scale=scale,
            )
        )

    def act(self, name: str, x: str, fn: str) -> str:
        """Activation; ``none`` adds nothing."""
        if fn == "none":
            return x
        if fn not in ACTIVATIONS:
            raise InputError(f"unknown activation {fn!r} (known: none, {', '.join(ACTIVATIONS)})")
        channels, size = self.shapes[x]
        return self.put(Activation(name=name, inputs=(x,), channels=channels, size=size, fn=fn))

    def add(self, name: str, x: str, shortcut: str) -> str:
        """Sum of two values."""
        channels, size = self.shapes[x]
        return self.put(Add(name=name, inputs=(x, shortcut), channels=channels, size=size))

    def residual(self, name: str, x: str, shortcut: str) -> str:
        """Sum of a residual branch and what bypasses it; blocks are inserted with `x` at zero."""
        channels, size = self.shapes[x]
        return self.put(Add(name=name, inputs=(x, shortcut), channels=channels, size=size, residual=True))

    def channel_norm(self, name: str, x: str) -> str:
        """Layer norm over the channels."""
        channels, size = self.shapes[x]
        return self.put(ChannelNorm(name=name, inputs=(x,), channels=channels, size=size))

    def pool(self, name: str, x: str) -> str:
        """Mean over all pixels."""
        return self.put(GlobalPool(name=name, inputs=(x,), channels=self.shapes[x][0], size=1))

    def window(self, name: str, x: str, fn: Literal["mean", "max"], stride: int = 1) -> str:
        """Pooling over 3x3 pixels."""
        channels, size = self.shapes[x]
        size = sizes.divided(size, stride)
        return self.put(
            Pool(name=name, inputs=(x,), channels=channels, size=size, fn=fn, kernel=3, stride=stride)
        )

    def shift(self, name: str, x: str) -> str:
        """The value moved by one pixel."""
        channels, size = self.shapes[x]
        return self.put(Shift(name=name, inputs=(x,), channels=channels, size=size))

    def concat(self, name: str, *parts: str) -> str:
        """Values side by side."""
        channels, size = sum(self.shapes[x][0] for x in parts), self.shapes[parts[0]][1]
        return self.put(Concat(name=name, inputs=parts, channels=channels, size=size))

    def gate(self, x: str, ratio: float) -> str:
        """Squeeze and excitation (Hu et al. 2018): pool, 1x1, ReLU, 1x1, sigmoid, scale; no bias."""
        channels, size = self.shapes[x]
        pooled = self.pool("se_pool", x)
        squeezed = self.conv("se_reduce", pooled, max(1, int(ratio * channels)), norm=False, bias=False)
        raised = self.conv(
            "se_expand", self.act("se_act", squeezed, "relu"), channels, norm=False, bias=False
        )
        gate = self.act("se_gate", raised, "sigmoid")
        return self.put(Scale(name="se_scale", inputs=(x, gate), channels=channels, size=size))

    def join(self, block: BlockSpec, x: str) -> str:
        """Residual add and activation; where shapes differ the shortcut is a 1x1 convolution."""
        shortcut = INPUT
        if not block.joins_identity:
            shortcut = self.conv("shortcut", INPUT, block.c_out, 1, block.stride, norm=not self.keras)
        return self.act("act_out", self.residual("add", x, shortcut), block.act)

    def linear(self, name: str, x: str, channels: int) -> str:
        """Fully connected layer."""
        return self.put(Linear(name=name, inputs=(x,), channels=channels, size=1, c_in=self.shapes[x][0]))
