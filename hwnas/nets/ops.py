"""Primitive operations, and recipes: small dataflows of them.

A batch norm belongs to the convolution before it (`Conv.norm`): in eval mode it is an affine map
of that convolution's output, which is how the ONNX writer folds it.
"""

from __future__ import annotations

from dataclasses import dataclass

from hwnas.spec import BlockSpec, Convention

INPUT = "x"  # name of the block's input inside its recipe
SKIP = "skip"  # name of its second input, of kinds that have one
NORM_EPS = 1e-5


@dataclass(frozen=True, kw_only=True)
class Op:
    """One primitive operation and the shape of its output: `channels` x `size` x `size`.

    `inputs` names earlier operations of the same recipe, or `INPUT`. `name` is also the prefix of
    the operation's weights inside the block.
    """

    name: str
    inputs: tuple[str, ...]
    channels: int
    size: int


@dataclass(frozen=True, kw_only=True)
class Conv(Op):
    """Convolution with padding kernel//2, with or without bias and batch norm."""

    c_in: int
    kernel: int
    stride: int
    groups: int
    bias: bool
    norm: bool

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        """Shape of the weight: (out, in per group, kernel, kernel)."""
        return (self.channels, self.c_in // self.groups, self.kernel, self.kernel)

    @property
    def depthwise(self) -> bool:
        """Whether every channel is convolved by itself."""
        return self.groups > 1 and self.groups == self.c_in == self.channels


@dataclass(frozen=True, kw_only=True)
class Act(Op):
    """Element-wise function: relu, relu6, hswish, swish or sigmoid."""

    fn: str


@dataclass(frozen=True, kw_only=True)
class Add(Op):
    """Sum of the inputs, equal in shape."""


@dataclass(frozen=True, kw_only=True)
class Scale(Op):
    """First input times the second, which has one value a channel."""


@dataclass(frozen=True, kw_only=True)
class GlobalPool(Op):
    """Mean over the pixels of every channel; the output has size 1."""


@dataclass(frozen=True, kw_only=True)
class Linear(Op):
    """Fully connected layer with bias, on an input of size 1."""

    c_in: int


@dataclass(frozen=True, kw_only=True)
class Pool(Op):
    """Mean or maximum over a window, padding kernel//2; the padding counts in neither."""

    fn: str
    kernel: int
    stride: int


@dataclass(frozen=True, kw_only=True)
class Shift(Op):
    """Everything moved up and to the left by one pixel; zeros come in."""


@dataclass(frozen=True, kw_only=True)
class Concat(Op):
    """The inputs side by side, along the channels."""


@dataclass(frozen=True)
class Recipe:
    """Operations in the order of computation; the last one gives the block's output."""

    ops: tuple[Op, ...]

    @property
    def output(self) -> str:
        """Name of the operation whose output is the block's."""
        return self.ops[-1].name

    @property
    def before_act(self) -> str:
        """Name of the value before the block's last activation (the residual sum where there is one)."""
        last = self.ops[-1]
        return last.inputs[0] if isinstance(last, Act) else last.name

    @property
    def residual_end(self) -> str | None:
        """Name of the convolution that ends the residual branch; None for a block without one."""
        sums = (op for op in self.ops if isinstance(op, Add) and op.inputs[1] in (INPUT, "shortcut"))
        add = next(sums, None)
        return add.inputs[0] if add else None


class Draft:
    """A recipe being written; every method returns the name of the value it adds."""

    def __init__(self, block: BlockSpec, convention: Convention) -> None:
        self.ops: list[Op] = []
        self.keras = convention == "keras"
        self.shapes = {INPUT: (block.c_in, block.size_in), SKIP: (block.c_skip, block.size_skip)}

    def _put(self, op: Op) -> str:
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
    ) -> str:
        """Convolution, with a bias by the convention unless `bias` says so."""
        c_in, size = self.shapes[x]
        return self._put(
            Conv(
                name=name,
                inputs=(x,),
                channels=channels,
                size=-(-size // stride),
                c_in=c_in,
                kernel=kernel,
                stride=stride,
                groups=c_in if depthwise else 1,
                bias=self.keras if bias is None else bias,
                norm=norm,
            )
        )

    def act(self, name: str, x: str, fn: str) -> str:
        """Activation; ``none`` adds nothing."""
        if fn == "none":
            return x
        channels, size = self.shapes[x]
        return self._put(Act(name=name, inputs=(x,), channels=channels, size=size, fn=fn))

    def add(self, name: str, x: str, shortcut: str) -> str:
        """Sum of two values."""
        channels, size = self.shapes[x]
        return self._put(Add(name=name, inputs=(x, shortcut), channels=channels, size=size))

    def pool(self, name: str, x: str) -> str:
        """Mean over all pixels."""
        return self._put(GlobalPool(name=name, inputs=(x,), channels=self.shapes[x][0], size=1))

    def window(self, name: str, x: str, fn: str, stride: int = 1) -> str:
        """Pooling over 3x3 pixels."""
        channels, size = self.shapes[x]
        size = -(-size // stride)
        return self._put(
            Pool(name=name, inputs=(x,), channels=channels, size=size, fn=fn, kernel=3, stride=stride)
        )

    def shift(self, name: str, x: str) -> str:
        """The value moved by one pixel."""
        channels, size = self.shapes[x]
        return self._put(Shift(name=name, inputs=(x,), channels=channels, size=size))

    def concat(self, name: str, *parts: str) -> str:
        """Values side by side."""
        channels, size = sum(self.shapes[x][0] for x in parts), self.shapes[parts[0]][1]
        return self._put(Concat(name=name, inputs=parts, channels=channels, size=size))

    def gate(self, x: str, ratio: float) -> str:
        """Squeeze and excitation (Hu et al. 2018): pool, 1x1, ReLU, 1x1, sigmoid, scale; no bias."""
        channels, size = self.shapes[x]
        pooled = self.pool("se_pool", x)
        squeezed = self.conv("se_reduce", pooled, max(1, int(ratio * channels)), norm=False, bias=False)
        raised = self.conv(
            "se_expand", self.act("se_act", squeezed, "relu"), channels, norm=False, bias=False
        )
        gate = self.act("se_gate", raised, "sigmoid")
        return self._put(Scale(name="se_scale", inputs=(x, gate), channels=channels, size=size))

    def join(self, block: BlockSpec, x: str) -> str:
        """Residual add and activation; where shapes differ the shortcut is a 1x1 convolution."""
        shortcut = INPUT
        if not block.joins_identity:
            shortcut = self.conv("shortcut", INPUT, block.c_out, 1, block.stride, norm=not self.keras)
        return self.act("act_out", self.add("add", x, shortcut), block.act)

    def linear(self, name: str, x: str, channels: int) -> str:
        """Fully connected layer."""
        return self._put(Linear(name=name, inputs=(x,), channels=channels, size=1, c_in=self.shapes[x][0]))
