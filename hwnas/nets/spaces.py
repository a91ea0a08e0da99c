"""The search spaces that ship: which levels, which operators. `chainspace` does the rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise, product
from typing import Any

from hwnas import plugins
from hwnas.arrays import ImageShape
from hwnas.errors import InputError
from hwnas.nets.chainspace import ChainSpace
from hwnas.nets.levels import Level, Operator
from hwnas.protocols import SearchSpace
from hwnas.spec import NetworkSpec

SMALL: ImageShape = (3, 32, 32)
LARGE: ImageShape = (3, 224, 224)
BASIC = (Operator("basic"),)
BOTTLENECK = (Operator("bottleneck", expand=4),)
MBCONV = tuple(
    Operator("mbconv", kernel, expand, se)
    for se, expand, kernel in product((0.0, 0.25), (1, 3, 6), (3, 5, 7))
)


def make(
    name: str, *, input_shape: tuple[int, int, int] | None = None, classes: int | None = None
) -> SearchSpace:
    """A registered search space.

    Args:
        name: registered name.
        input_shape: channels, height and width of an image; None for what the space was made for
            (3x32x32 or 3x224x224).
        classes: number of classes; None as well (10 or 1000).

    Raises:
        InputError: for an unknown name (the nearest one is named), or an image without pixels.
    """
    asked = {"input_shape": input_shape, "classes": classes}
    factory = plugins.load("spaces", name)
    with plugins.blamed("spaces", name, "cannot be made"):
        space = factory(**{k: v for k, v in asked.items() if v is not None})
    if not isinstance(space, SearchSpace):
        raise InputError(
            f"the space {name!r} is made as {type(space).__name__}; expected what "
            "hwnas.protocols.SearchSpace asks for"
        )
    return space


# Images whose shorter side is up to this keep enough pixels in the spaces that halve them twice; others halve
# them five times.
LARGEST_SMALL_SIDE = 96


def is_small(input_shape: ImageShape | None) -> bool:
    """Whether the shorter side of images is small; that of the shipped spaces is, where no size is named."""
    return min((input_shape or SMALL)[1:]) <= LARGEST_SMALL_SIDE


def advised(input_shape: ImageShape | None) -> str:
    """The space of one family for images of this size, where the user names none (docs/how-to/choose.md)."""
    return "mbv2-cifar" if is_small(input_shape) else "mbv2-imagenet"


def home_of(spec: NetworkSpec) -> str:
    """The shipped space that a network is a member of; empty where none is."""
    shape, classes = spec.input_shape, spec.classes
    if spec.space in (known := plugins.names("spaces")):
        return spec.space
    return next((n for n in known if spec in make(n, input_shape=shape, classes=classes)), "")


def describe(space: SearchSpace) -> dict[str, Any]:
    """What is in a space, for display: name, number of distinct blocks, and what the space says of itself.

    The shipped spaces say input, classes, exact number of members, and per stage sizes, widths,
    depths and operators.
    """
    say = getattr(space, "describe", dict)
    return {"name": space.name, "blocks": len(space.blocks()), **say()}


def staged(
    stages: Sequence[Sequence[Level]], joins: Callable[[Level, Level], bool] = lambda a, b: True
) -> dict[str, Any]:
    """Levels, edges, starts and ends of a skeleton that passes one level of every stage.

    `joins` says whether a level may follow one of the stage before.
    """
    levels = [level for stage in stages for level in stage]
    place = {id(level): at for at, level in enumerate(levels)}
    return {
        "levels": tuple(levels),
        "edges": frozenset(
            (place[id(a)], place[id(b)])
            for before, after in pairwise(stages)
            for a, b in product(before, after)
            if joins(a, b)
        ),
        "starts": tuple(place[id(level)] for level in stages[0]),
        "ends": tuple(place[id(level)] for level in stages[-1]),
    }


def not_narrower(before: Level, after: Level) -> bool:
    """Widths that do not fall from stage to stage."""
    return after.width >= before.width


def resnet_cifar(*, input_shape: ImageShape = SMALL, classes: int = 10) -> ChainSpace:
    """ResNets for small images (He et al. 2016a, section 4.2): 16, 32, 64 channels, 1 to 18 blocks each.

    The skeleton, and the convention, of StageWise NAS (arXiv 2004.11178).
    """
    stages = [[Level(16 * 2**s, s, BASIC, (1, 18), s)] for s in range(3)]
    return ChainSpace(
        "resnet-cifar", input_shape, classes, **staged(stages), reference=(0, 1, 2), convention="keras"
    )


def resnet_cifar_wide(*, input_shape: ImageShape = SMALL, classes: int = 10) -> ChainSpace:
    """The same skeleton with the width of each stage searched, 1 to 9 blocks each.

    Many widths are no multiples of 8 or 16, where runtimes change their kernels.
    """
    widths = ((8, 12, 16, 20, 24, 32, 40), (12, 16, 20, 24, 32, 40, 48, 64), (16, 24, 32, 40, 48, 64, 80, 96))
    stages = [[Level(w, s, BASIC, (1, 9), s) for w in widths[s]] for s in range(3)]
    described = staged(stages, not_narrower)
    reference = tuple(described["levels"].index(Level(16 * 2**s, s, BASIC, (1, 9), s)) for s in range(3))
    return ChainSpace(
        "resnet-cifar-wide", input_shape, classes, **described, reference=reference, convention="keras"
    )


def mbv2_cifar(*, input_shape: ImageShape = SMALL, classes: int = 10) -> ChainSpace:
    """Inverted residuals (MobileNetV2) for small images: kernels 3/5/7, expansions 1/3/6, SE or not.

    Every block is chosen by itself. The 1x1 convolution before the classifier is fixed, as in
    MobileNetV2.
    """
    usual = Operator("mbconv", 3, 3)
    operators = (usual, *(op for op in MBCONV if op != usual))
    stages = [[Level(16 * 2**s, s, operators, (1, 6), s)] for s in range(3)]
    stages.append([Level(256, 2, (Operator("conv", 1),), (1, 1), 3)])
    return ChainSpace(
        "mbv2-cifar",
        input_shape,
        classes,
        **staged(stages),
        reference=(0, 1, 2, 3),
        stem_act="relu6",
        act="relu6",
    )


def convnext_cifar(*, input_shape: ImageShape = SMALL, classes: int = 10) -> ChainSpace:
    """ConvNeXt blocks (Liu et al. 2022) or fused inverted residuals (EfficientNetV2) for small images.

    32, 64, 128 channels, 1 to 6 blocks each; for every block kernel 3/5/7 and expansion 2/4, or a
    fused inverted residual of kernel 3.
    """
    usual = Operator("convnext", 7, 4)
    others = [Operator("convnext", kernel, expand) for expand, kernel in product((2, 4), (3, 5, 7))]
    operators = (
        usual,
        *(op for op in others if op != usual),
        *(Operator("fused_mbconv", 3, expand) for expand in (2, 4)),
    )
    stages = [[Level(32 * 2**s, s, operators, (1, 6), s)] for s in range(3)]
    return ChainSpace(
        "convnext-cifar",
        input_shape,
        classes,
        **staged(stages),
        reference=(0, 1, 2),
        stem_act="none",
        act="gelu",
    )


def resnet_imagenet(*, input_shape: ImageShape = LARGE, classes: int = 1000) -> ChainSpace:
    """Residual networks at 1/4 to 1/32 of the image: basic blocks, or bottlenecks four times as wide.

    Widths and depths lie around ResNet-18/34 and ResNet-50/101 (He et al. 2016a, table 1). The stem
    is a 3x3 convolution of stride 2, and the first stage halves the image in the place of the
    published max-pooling, as DenseNAS does.
    """
    widths = ((48, 56, 64), (96, 112, 128), (192, 224, 256), (384, 448, 512))
    depths = (4, 6, 23, 4)
    stages = [
        [
            Level(wide * width, 2 + s, operators, (1, depths[s]), s)
            for wide, operators in ((1, BASIC), (4, BOTTLENECK))
            for width in widths[s]
        ]
        for s in range(4)
    ]
    described = staged(stages, lambda a, b: a.operators == b.operators and not_narrower(a, b))
    levels = described["levels"]
    reference = tuple(levels.index(Level(64 * 2**s, 2 + s, BASIC, (1, depths[s]), s)) for s in range(4))
    return ChainSpace(
        "resnet-imagenet", input_shape, classes, **described, reference=reference, stem=(3, 2), stem_width=32
    )
