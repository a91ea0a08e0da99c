"""Densely connected spaces as search spaces of chain networks: what their super-networks can derive."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from hwnas import sizes
from hwnas.arrays import ImageShape
from hwnas.errors import InputError
from hwnas.nets.chainspace import ChainSpace
from hwnas.nets.densenas.graph import CandidateOp, DenseSpace, densenas_cifar, densenas_mbv2, densenas_resnet
from hwnas.nets.levels import Level, Operator
from hwnas.sizes import MapSize


@dataclass(frozen=True)
class DenseChain(ChainSpace):
    """Chain networks of a densely connected space, and that space at the same input and classes."""

    published: DenseSpace = field(kw_only=True)

    @cached_property
    def dense(self) -> DenseSpace:
        """The densely connected space that these networks are derived from; see `resized`."""
        return resized(self.published, self.name, self.input_shape, self.classes)


def resized(dense: DenseSpace, name: str, input_shape: ImageShape, classes: int) -> DenseSpace:
    """The same space under another name, for another image and number of classes.

    Feature maps are halved where they were; 45x45 for example goes to 23x23.

    Raises:
        InputError: the image is so small that feature maps cannot be halved as often.
    """
    channels, size = input_shape[0], sizes.of(*input_shape[1:])

    def scaled(old: MapSize) -> MapSize:
        new = size
        for _ in range(_halvings(dense, old)):
            new = sizes.divided(new, 2)
        return new

    stem = [dense.stem[0].model_copy(update={"c_in": channels, "size_in": size})]
    for block in dense.stem[1:]:
        stem.append(block.model_copy(update={"size_in": stem[-1].size_out}))
    routing = tuple(replace(block, size=scaled(block.size)) for block in dense.routing)
    halved = [dense.routing[i].size != dense.routing[j].size for i, j in dense.edges]
    if halved != [routing[i].size != routing[j].size for i, j in dense.edges]:
        raise InputError(
            f"space {name} halves its feature maps more often than {sizes.text(size)} images allow"
        )
    return replace(dense, name=name, routing=routing, stem=tuple(stem), classes=classes)


def from_dense(
    dense: DenseSpace, name: str, widths: Sequence[int], input_shape: ImageShape, classes: int
) -> DenseChain:
    """The networks of a densely connected space, for any input and number of classes.

    A stem of one convolution is the first routing block's output; a second stem block is that
    routing block's only layer. The sink is left out where derived networks drop it.

    Args:
        dense: the published description.
        name: name of the space that is made.
        widths: of the path whose depths `uniform` scales.
        input_shape, classes: of the networks.
    """
    fixed = dense.stem[1:]
    usual = min(dense.head_ops, key=lambda op: (op.kernel, -op.expand))
    operators = (_operator(usual), *(_operator(op) for op in dense.head_ops if op != usual))
    kept = [
        i
        for i in range(len(dense.routing))
        if (i > 0 or fixed) and (i != dense.sink or dense.tail_in_network)
    ]
    place = {i: at for at, i in enumerate(kept)}
    special = {dense.sink: (Operator("conv", 1),)} | {0: tuple(Operator(b.kind, b.kernel) for b in fixed)}
    levels = tuple(
        Level(
            width=dense.routing[i].width,
            halvings=_halvings(dense, dense.routing[i].size),
            operators=special.get(i, operators),
            depth=(1, 1 + dense.routing[i].stack),
            stage=dense.routing[i].stage,
        )
        for i in kept
    )
    starts = (0,) if fixed else dense.out_edges[0]
    ends = (dense.sink,) if dense.tail_in_network else dense.in_edges[dense.sink]
    return DenseChain(
        name,
        input_shape,
        classes,
        levels,
        frozenset((place[i], place[j]) for i, j in dense.edges if i in place and j in place),
        starts=tuple(place[i] for i in starts),
        ends=tuple(place[i] for i in sorted(ends)),
        reference=tuple(next(at for at, level in enumerate(levels) if level.width == w) for w in widths),
        stem=(dense.stem[0].kernel, dense.stem[0].stride),
        stem_width=dense.stem[0].c_out,
        stem_act=dense.stem[0].act,
        act=dense.head_block(*dense.edges[0], usual).act,
        convention=dense.convention,
        published=dense,
    )


def _halvings(dense: DenseSpace, size: MapSize) -> int:
    """How often the image was halved where a feature map has this size."""
    now, halvings = dense.stem[0].size_in, 0
    while now != size:
        if sizes.pixels(now) <= sizes.pixels(size):
            raise InputError(f"space {dense.name}: no halving of the image gives {sizes.text(size)}")
        now, halvings = sizes.divided(now, 2), halvings + 1
    return halvings


def _operator(candidate: CandidateOp) -> Operator:
    return Operator(candidate.kind, candidate.kernel, candidate.expand)


def mbv2_imagenet(*, input_shape: ImageShape = (3, 224, 224), classes: int = 1000) -> DenseChain:
    """Inverted residuals with the widths and edges of DenseNAS; uniform members have MobileNetV2's widths."""
    widths = (16, 24, 32, 64, 96, 160, 320, 1984)
    return from_dense(densenas_mbv2(classes), "mbv2-imagenet", widths, input_shape, classes)


def densenas_mbv2_space(*, input_shape: ImageShape = (3, 224, 224), classes: int = 1000) -> DenseChain:
    """DenseNAS's MobileNetV2 space (arXiv 1906.09607), under its own name."""
    widths = (16, 24, 32, 64, 96, 160, 320, 1984)
    return from_dense(densenas_mbv2(classes), "densenas-mbv2", widths, input_shape, classes)


def densenas_resnet_space(*, input_shape: ImageShape = (3, 224, 224), classes: int = 1000) -> DenseChain:
    """DenseNAS's ResNet space; uniform members have widths near ResNet-18's."""
    widths = (64, 112, 176, 224, 256, 512)
    return from_dense(densenas_resnet(classes), "densenas-resnet", widths, input_shape, classes)


def densenas_cifar_space(*, input_shape: ImageShape = (3, 32, 32), classes: int = 10) -> DenseChain:
    """A dense space for small images."""
    return from_dense(densenas_cifar(classes), "densenas-cifar", (16, 32, 64, 256), input_shape, classes)
