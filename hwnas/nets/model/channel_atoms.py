"""Channels as atoms: which are joined, which are fixed and why, and whose numbers they are.

Each channel of each tensor in a piece is an atom. Operations carry atoms on (a batch norm, a depthwise
convolution), join them (an addition: both sides keep or lose a channel together) or make new ones (a
convolution). `Followed` is what is known of them while the operations of a piece are gone through.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import fx

from hwnas.arrays import Int64s


@dataclass
class Track:
    """Channels of a tensor: the axis that they lie on, and an atom for each place on it."""

    axis: int
    atoms: Int64s


@dataclass(frozen=True)
class Slice:
    """Something whose numbers belong to channels: `what` is "out", "in", "grouped", "norm" or "attribute"."""

    node: fx.Node
    what: str
    atoms: Int64s
    axis: int = 0


class Atoms:
    """Joined atoms (disjoint sets), and why some are fixed."""

    def __init__(self) -> None:
        self.parent: list[int] = []
        self.why: dict[int, str] = {}

    def fresh(self, n: int) -> Int64s:
        """New ones, joined with nothing."""
        start = len(self.parent)
        self.parent.extend(range(start, start + n))
        return np.arange(start, start + n)

    def root(self, a: int) -> int:
        """The one that stands for all that an atom is joined with."""
        while self.parent[a] != a:
            self.parent[a] = self.parent[self.parent[a]]
            a = self.parent[a]
        return a

    def roots(self, atoms: Int64s) -> Int64s:
        """The root of each."""
        return np.array([self.root(int(a)) for a in atoms], dtype=np.int64)

    def join(self, a: int, b: int) -> None:
        """Keep or lose both together; where one is fixed, both are."""
        a, b = self.root(a), self.root(b)
        if a != b:
            self.parent[b] = a
            why = self.why.pop(b, None)
            if why is not None:
                self.why.setdefault(a, why)

    def join_each(self, one: Iterable[int], other: Iterable[int]) -> None:
        """Join what stands at the same place."""
        for a, b in zip(one, other):
            self.join(int(a), int(b))

    def join_in_groups(self, atoms: Int64s, size: int) -> None:
        """Channels of one group go together."""
        for start in range(0, len(atoms), size):
            for a in atoms[start + 1 : start + size]:
                self.join(int(atoms[start]), int(a))

    def fix(self, atoms: Int64s, why: str) -> None:
        """These cannot be taken; the first reason stays."""
        for a in {self.root(int(a)) for a in atoms}:
            self.why.setdefault(a, why)


@dataclass
class Followed:
    """What is known of the channels of a piece so far.

    Attributes:
        graph: of the piece alone, with shapes in the nodes' `meta`.
        twice: modules and parameters that are used several times, or by other pieces as well.
        tracks: for each node the channels of its tensor; None where they are not followed.
        producers: for each layer that makes channels their atoms.
        fixed: layers whose channels cannot be taken for a reason of the layer's own.
    """

    graph: fx.GraphModule
    twice: frozenset[Any]
    atoms: Atoms = field(default_factory=Atoms)
    tracks: dict[fx.Node, Track | None] = field(default_factory=dict)
    slices: list[Slice] = field(default_factory=list)
    producers: dict[str, Int64s] = field(default_factory=dict)
    fixed: dict[str, str] = field(default_factory=dict)

    def of(self, value: Any) -> Track | None:
        """The channels of an argument."""
        return self.tracks.get(value) if isinstance(value, fx.Node) else None

    def fix_inputs(self, node: fx.Node, why: str) -> Track | None:
        """Fix what enters; what leaves is not followed."""
        for each in node.all_input_nodes:
            if (track := self.of(each)) is not None:
                self.atoms.fix(track.atoms, why)
        return None


def first_input(node: fx.Node) -> Any:
    """What an operation reads first, by its place or by its name."""
    if node.args:
        return node.args[0]
    return node.kwargs.get("input", node.kwargs.get("tensors"))


def shape_read(node: fx.Node) -> tuple[int, ...]:
    """Shape of what a node reads first, as the trace recorded it."""
    shape: tuple[int, ...] = first_input(node).meta["shape"]
    return shape
