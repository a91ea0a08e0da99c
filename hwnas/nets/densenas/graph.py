"""Densely connected search spaces as data (DenseNAS, arXiv 1906.09607, section 3 and its code).

A space is an ordered list of *routing blocks* of non-decreasing width. Block j has one *head*
layer per incoming edge, which aligns the shapes, and a stack of layers of its own width that may
be skipped. A path from the first block to the last, an operator for every head and every stack
layer on it: that is one network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from hwnas import sizes
from hwnas.errors import InputError
from hwnas.sizes import MapSize
from hwnas.spec import BlockSpec, Convention, Kind, NetworkSpec


@dataclass(frozen=True)
class CandidateOp:
    """A candidate of a layer. `SKIP`, compared by value as spaces travel between machines, leaves it out."""

    name: str
    kind: Kind = "mbconv"
    kernel: int = 3
    expand: int = 1


SKIP = CandidateOp("skip")


@dataclass(frozen=True)
class RoutingBlock:
    """Width in channels, size of its output in pixels, stage id, number of stack layers."""

    width: int
    size: MapSize
    stage: int
    stack: int


@dataclass(frozen=True)
class DenseSpace:
    """A dense space: routing blocks, how far edges reach, and the candidates of each layer.

    Attributes:
        name: registered name.
        routing: the blocks; the last one is the sink, a 1x1 convolution.
        reach: by stage id, how many blocks ahead an edge may lead.
        head_ops: candidates of a head layer, in the order of published latency lists.
        stack_ops: candidates of a stack layer; `SKIP` last.
        stem: blocks before the first routing block's output (they end at its shape).
        act: activation of all candidates.
        tail_in_network: whether derived networks keep the sink's 1x1 convolution.
        classes: of the classifier.

    Raises:
        InputError: a block without an edge in or out (named), sizes that no stride joins.
    """

    name: str
    routing: tuple[RoutingBlock, ...]
    reach: tuple[int, ...]
    head_ops: tuple[CandidateOp, ...]
    stack_ops: tuple[CandidateOp, ...]
    stem: tuple[BlockSpec, ...]
    act: str = "relu6"
    tail_in_network: bool = True
    convention: Convention = "torch"
    classes: int = 1000

    def __post_init__(self) -> None:
        if len(self.routing) < 2:
            raise InputError(f"space {self.name}: needs at least two routing blocks, has {len(self.routing)}")
        if len(self.reach) <= max(b.stage for b in self.routing):
            raise InputError(
                f"space {self.name}: reach has {len(self.reach)} entries, one per stage id is needed"
            )
        last = len(self.routing) - 1
        for i, block in enumerate(self.routing):
            shape = f"{block.width} channels at {sizes.text(block.size)}, stage {block.stage}"
            what = f"space {self.name}: block {i} ({shape})"
            if i < last and not self.out_edges[i]:
                raise InputError(
                    f"{what} has no outgoing edge; the next block is too many stages or strides away"
                )
            if i > 0 and not self.in_edges[i]:
                raise InputError(f"{what} has no incoming edge; no path reaches it")
        end = self.stem[-1]
        if (end.c_out, end.size_out) != (self.routing[0].width, self.routing[0].size):
            raise InputError(f"space {self.name}: the stem ends in {end.key}, not in the shape of block 0")

    @cached_property
    def edges(self) -> tuple[tuple[int, int], ...]:
        """Every edge (i, j), by i then j.

        The published rule: scan j upward from i + 1 and stop at the first block that is beyond the
        reach, more than one stage ahead, or not at the same or half the feature map.
        """
        found = []
        for i, a in enumerate(self.routing):
            for j in range(i + 1, len(self.routing)):
                b = self.routing[j]
                ratio_ok = b.size in (a.size, sizes.divided(a.size, 2))
                if j - i > self.reach[a.stage] or b.stage - a.stage > 1 or not ratio_ok:
                    break
                found.append((i, j))
        return tuple(found)

    @cached_property
    def out_edges(self) -> tuple[tuple[int, ...], ...]:
        """Successors of each block, ascending."""
        return tuple(tuple(j for i, j in self.edges if i == k) for k in range(len(self.routing)))

    @cached_property
    def in_edges(self) -> tuple[tuple[int, ...], ...]:
        """Predecessors of each block, nearest first: the order of published latency lists."""
        return tuple(tuple(i for i, j in reversed(self.edges) if j == k) for k in range(len(self.routing)))

    @cached_property
    def paths(self) -> int:
        """Number of paths from the first block to the last, counted by dynamic programming."""
        ways = [0] * len(self.routing)
        ways[-1] = 1
        for i in range(len(self.routing) - 2, -1, -1):
            ways[i] = sum(ways[j] for j in self.out_edges[i])
        return ways[0]

    @property
    def sink(self) -> int:
        """Index of the last routing block."""
        return len(self.routing) - 1

    def head_block(self, i: int, j: int, op: CandidateOp) -> BlockSpec:
        """The head layer of edge (i, j) with an operator; the sink's is its 1x1 convolution."""
        a, b = self.routing[i], self.routing[j]
        if j == self.sink:
            return BlockSpec.model_validate(
                {
                    "kind": "conv",
                    "c_in": a.width,
                    "c_out": b.width,
                    "kernel": 1,
                    "act": self.act,
                    "size_in": a.size,
                }
            )
        return self._block(op, a.width, b.width, a.size, 1 if a.size == b.size else 2)

    def stack_block(self, j: int, op: CandidateOp) -> BlockSpec:
        """A stack layer of block j with an operator other than skip."""
        return self._block(op, self.routing[j].width, self.routing[j].width, self.routing[j].size, 1)

    def _block(self, op: CandidateOp, c_in: int, c_out: int, size_in: MapSize, stride: int) -> BlockSpec:
        if op == SKIP:
            raise InputError("skip is not a block; leave the layer out")
        return BlockSpec.model_validate(
            {
                "kind": op.kind,
                "c_in": c_in,
                "c_out": c_out,
                "kernel": op.kernel,
                "stride": stride,
                "expand": op.expand,
                "act": self.act,
                "size_in": size_in,
            }
        )

    def network(
        self,
        path: Sequence[int],
        heads: Sequence[CandidateOp],
        stacks: Sequence[Sequence[CandidateOp]],
        name: str = "",
    ) -> NetworkSpec:
        """The network of a path.

        Args:
            path: block indices from 0 to the sink, along edges.
            heads: operator of the head of each block on the path after the first; the sink's is ignored.
            stacks: operators of the stack layers of the same blocks; skips are left out.

        Raises:
            InputError: the path leaves the graph, or a stack is longer than the block's.
        """
        steps = list(pairwise(path))
        if not steps or path[0] != 0 or path[-1] != self.sink or not set(steps) <= set(self.edges):
            raise InputError(f"{list(path)} is not a path of {self.name} from 0 to {self.sink}")
        stages = [tuple(self.stem[1:])] if self.stem[1:] else []
        for (i, j), head, stack in zip(steps, heads, stacks):
            if len(stack) > self.routing[j].stack:
                raise InputError(f"block {j} has {self.routing[j].stack} stack layers, not {len(stack)}")
            if j == self.sink and not self.tail_in_network:
                continue
            kept = tuple(self.stack_block(j, op) for op in stack if op != SKIP)
            stages.append((self.head_block(i, j, head), *kept))
        last = stages[-1][-1]
        return NetworkSpec(
            stem=self.stem[0],
            stages=tuple(stages),
            head=BlockSpec(
                kind="classifier",
                c_in=last.c_out,
                c_out=self.classes,
                kernel=1,
                act="none",
                size_in=last.size_out,
            ),
            convention=self.convention,
            space=self.name,
            name=name,
        )


_MBCONV = tuple(CandidateOp(f"k{k}t{t}", "mbconv", k, t) for k in (3, 5, 7) for t in (3, 6))
_BASIC = CandidateOp("basic", "basic")


def _routing(rows: Sequence[tuple[tuple[int, ...], int, int, int]]) -> tuple[RoutingBlock, ...]:
    return tuple(RoutingBlock(w, size, stage, stack) for widths, size, stage, stack in rows for w in widths)


def _stem(
    width: int, size: int, *, fixed: bool, stride: int = 2, act: str = "relu6"
) -> tuple[BlockSpec, ...]:
    first = {"kind": "conv", "c_in": 3, "c_out": width, "stride": stride, "act": act, "size_in": size}
    blocks = [BlockSpec.model_validate(first)]
    if fixed:
        shape = {"c_in": width, "c_out": width, "size_in": blocks[0].size_out}
        blocks.append(BlockSpec.model_validate({"kind": "mbconv", "act": act, **shape}))
    return tuple(blocks)


def densenas_mbv2(classes: int = 1000) -> DenseSpace:
    """The published MobileNetV2 space: 18 blocks, 54 edges, 15,456 paths."""
    rows = [
        ((16,), 112, 0, 0),
        ((24,), 56, 1, 3),
        ((32, 40, 48), 28, 2, 3),
        ((56, 64, 72), 14, 3, 3),
        ((96, 112, 128), 14, 4, 3),
        ((160, 176, 192), 7, 5, 3),
        ((320, 352, 384), 7, 6, 0),
        ((1984,), 7, 7, 0),
    ]
    return DenseSpace(
        name="densenas-mbv2",
        routing=_routing(rows),
        reach=(4,) * 8,
        head_ops=_MBCONV,
        stack_ops=(*_MBCONV, SKIP),
        stem=_stem(16, 224, fixed=True),
        classes=classes,
    )


def densenas_resnet(classes: int = 1000) -> DenseSpace:
    """The published ResNet space: 22 blocks, 87 edges, 540,225 paths; derived networks drop the 1x1 tail."""
    rows = [
        ((32,), 112, 0, 0),
        ((48, 56, 64), 56, 1, 0),
        ((72, 96, 112), 28, 2, 5),
        ((128, 144, 160, 176), 14, 3, 15),
        ((192, 208, 224), 14, 4, 5),
        ((240, 256, 272, 288), 7, 5, 5),
        ((480, 496, 512), 7, 6, 1),
        ((512,), 7, 7, 0),
    ]
    return DenseSpace(
        name="densenas-resnet",
        routing=_routing(rows),
        reach=(10,) * 8,
        head_ops=(_BASIC,),
        stack_ops=(_BASIC, SKIP),
        stem=_stem(32, 224, fixed=False, act="relu"),
        act="relu",
        tail_in_network=False,
        classes=classes,
    )


def densenas_cifar(classes: int = 10, size: int = 32) -> DenseSpace:
    """A space of the same make for small images: 10 blocks, searchable on two CPU cores."""
    half, quarter = -(-size // 2), -(-size // 4)
    rows = [
        ((16,), size, 0, 0),
        ((16, 24), size, 1, 1),
        ((24, 32, 40), half, 2, 2),
        ((48, 64, 80), quarter, 3, 2),
        ((256,), quarter, 4, 0),
    ]
    return DenseSpace(
        name="densenas-cifar",
        routing=_routing(rows),
        reach=(4,) * 5,
        head_ops=_MBCONV,
        stack_ops=(*_MBCONV, SKIP),
        stem=_stem(16, size, fixed=False, stride=1),
        classes=classes,
    )
