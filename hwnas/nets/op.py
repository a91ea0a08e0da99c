"""What a primitive operation declares: the base class of `hwnas.nets.ops`.

An operation declares its arrays, its multiply-accumulates, whether it can overwrite its input, what
of it is deployed, its torch layers and its ONNX nodes. All of these are abstract in `Op`: an
operation that leaves one out cannot be made, so nothing is ever counted as zero by omission.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from hwnas.sizes import MapSize

if TYPE_CHECKING:
    from torch import Tensor, nn

    from hwnas.nets.graph_writer import GraphWriter
    from hwnas.nets.sources import Source

    Apply = Callable[[str, Tensor], Tensor]  # the layer of a name, applied to a value

INPUT = "x"  # name of the block's input inside its recipe
SKIP = "skip"  # name of its second input, of kinds that have one

Shape = tuple[int, ...]
# What limits an operation that computes; `hwnas.cost.roofline` has a share of the peak for each.
Arithmetic = Literal["winograd", "dense", "pointwise", "grouped", "linear", "none"]


@dataclass(frozen=True, kw_only=True)
class Op(ABC):
    """One primitive operation and the shape of its output: `channels` and `size`, as in `hwnas.sizes`.

    `inputs` names earlier operations of the same recipe, or `INPUT`. `name` is also the prefix of
    the operation's weights inside the block.
    """

    name: str
    inputs: tuple[str, ...]
    channels: int
    size: MapSize

    @abstractmethod
    def weights(self) -> Mapping[str, Shape]:
        """Shapes of what is trained, by name inside the block; empty where there is nothing."""

    def statistics(self) -> Mapping[str, Shape]:
        """Shapes of what is stored and not trained: moving mean and variance."""
        return {}

    @property
    def deployed(self) -> int:
        """Number of weights that an engine holds, after folding."""
        return sum(map(math.prod, self.weights().values()))

    @property
    @abstractmethod
    def macs(self) -> int:
        """Multiply-accumulates for one image (docs/counting.md)."""

    @property
    @abstractmethod
    def arithmetic(self) -> Arithmetic:
        """How its multiply-accumulates run; ``none`` where it has none."""

    @property
    @abstractmethod
    def overwrites(self) -> bool:
        """Whether the output may take the place of an input that nothing else needs."""

    @abstractmethod
    def layers(self) -> Mapping[str, nn.Module]:
        """Torch layers by name; their parameters are those of `weights`."""

    @abstractmethod
    def run(self, inputs: Sequence[Tensor], layer: Apply) -> Tensor:
        """The output in torch; ``layer(name, x)`` applies a layer of `layers`."""

    @abstractmethod
    def write(
        self, graph: GraphWriter, inputs: Sequence[str], name: str, source: Source, *, ends_branch: bool
    ) -> str:
        """Add the ONNX nodes under `name`, also the place of the weights; returns the output's name."""


@dataclass(frozen=True, kw_only=True)
class WithoutMacs(Op):
    """An operation whose arithmetic is not counted: it waits for the memory."""

    @property
    def macs(self) -> int:
        """No multiply-accumulates."""
        return 0

    @property
    def arithmetic(self) -> Arithmetic:
        """Limited by memory."""
        return "none"


@dataclass(frozen=True, kw_only=True)
class WithoutWeights(WithoutMacs):
    """An operation that only moves or combines values."""

    def weights(self) -> Mapping[str, Shape]:
        """Nothing is trained."""
        return {}

    @property
    def overwrites(self) -> bool:
        """The inputs stay."""
        return False

    def layers(self) -> Mapping[str, nn.Module]:
        """A function, without a layer."""
        return {}
