"""Write examples/networks/*.json: published networks, each transcribed from the source named.

    python examples/make_networks.py [FOLDER]

`tests/unit/nets/test_examples.py` holds the shipped files to what this writes, and their counts to
the published ones.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from hwnas.nets import spaces
from hwnas.nets.chainspace import ChainSpace
from hwnas.nets.levels import Gene, Operator
from hwnas.nets.stagewise.space import nasnet_cifar
from hwnas.spec import BlockSpec, NetworkSpec
from hwnas.store import write_network

# He et al. 2016a, table 6: 6n+2 layers.
RESNETS = {f"resnet{6 * n + 2}": (n, n, n) for n in (3, 5, 7, 9, 18)}
# Decoded from the networks published with StageWise NAS (arXiv 2004.11178), iterations 1 to 5.
STAGEWISE = {
    "stagewise-it1": (6, 8, 6),
    "stagewise-it2": (8, 10, 6),
    "stagewise-it3": (10, 12, 6),
    "stagewise-it4": (10, 12, 8),
    "stagewise-it5": (10, 14, 8),
}
# The same for its networks of NASNet-A cells: normal cells per stage.
STAGEWISE_CELLS = {
    "stagewise-cells-it1": (2, 3, 2),
    "stagewise-cells-it2": (3, 3, 2),
    "stagewise-cells-it3": (3, 4, 2),
    "stagewise-cells-it4": (4, 4, 3),
    "stagewise-cells-it5": (5, 4, 4),
    "stagewise-cells-it6": (6, 5, 4),
}
# DenseNAS (arXiv 1906.09607), the figure of its repository: width, stride, operators of the blocks.
DENSENAS = {
    "densenas-a": (
        (16, 1, "k3e1"),
        (24, 2, "k3e3"),
        (48, 2, "k7e6 k7e3"),
        (72, 2, "k5e6 k3e3 k5e3"),
        (128, 1, "k3e3 k3e3"),
        (176, 2, "k3e3 k3e6 k3e3 k3e6"),
        (384, 1, "k5e6"),
    ),
    "densenas-b": (
        (16, 1, "k3e1"),
        (24, 2, "k3e6"),
        (48, 2, "k5e3 k3e3 k3e3"),
        (72, 2, "k3e6 k3e3 k5e3"),
        (128, 1, "k3e6 k3e3"),
        (160, 2, "k3e6 k3e3 k5e6 k5e3"),
        (176, 1, "k3e3 k3e6 k3e6"),
        (384, 1, "k7e6"),
    ),
    "densenas-c": (
        (16, 1, "k3e1"),
        (24, 2, "k3e6"),
        (48, 2, "k7e6 k3e3"),
        (72, 2, "k5e6 k3e6 k3e3"),
        (128, 1, "k3e6 k3e3 k3e3"),
        (160, 2, "k3e6 k7e3 k5e6 k7e3"),
        (176, 1, "k3e3 k3e6 k3e6 k3e6"),
        (384, 1, "k7e6"),
    ),
}
# HourNAS (arXiv 2005.14446), its public MindSpore model, with ImageNet strides.
HOURNAS_F = (
    (16, 1, "k3e1"),
    (24, 2, "k5e6 k5e1 k5e1 k3e1"),
    (40, 2, "k5e6 k5e1 k3e1 k5e1"),
    (80, 2, "k5e6 k3e6 k3e6 k3e6"),
    (112, 1, "k5e6 k5e3 k5e3 k5e3"),
    (192, 2, "k5e6 k5e6 k3e6 k5e6"),
    (320, 1, "k5e6"),
)


def resnet(depths: tuple[int, int, int], name: str) -> NetworkSpec:
    """A residual network of the CIFAR skeleton."""
    space = spaces.make("resnet-cifar")
    assert isinstance(space, ChainSpace)
    return space.express(Gene((0, 1, 2), tuple((Operator("basic"),) * d for d in depths)), name)


def mobile(
    rows: tuple[tuple[int, int, str], ...], name: str, *, stem: int, tail: int, **block: object
) -> NetworkSpec:
    """An ImageNet network of inverted residuals, with a 1x1 convolution as its last stage."""
    act = block["act"]

    def conv(c_in: int, c_out: int, kernel: int, stride: int, size_in: int) -> BlockSpec:
        shape = {"c_in": c_in, "c_out": c_out, "kernel": kernel, "stride": stride, "size_in": size_in}
        return BlockSpec.model_validate({"kind": "conv", "act": act, **shape})

    first = before = conv(3, stem, 3, 2, 224)
    stages = []
    for width, stride, text in rows:
        blocks = []
        for i, operator in enumerate(text.split()):
            kernel, expand = (int(digits) for digits in operator[1:].split("e"))
            shape = {"c_in": before.c_out, "c_out": width, "size_in": before.size_out}
            choice = {"kernel": kernel, "expand": expand, "stride": stride if i == 0 else 1}
            before = BlockSpec.model_validate({**block, **shape, **choice})
            blocks.append(before)
        stages.append(tuple(blocks))
    last = conv(before.c_out, tail, 1, 1, before.size_out)
    head = BlockSpec(kind="classifier", c_in=tail, c_out=1000, kernel=1, act="none", size_in=last.size_out)
    return NetworkSpec(stem=first, stages=(*stages, (last,)), head=head, name=name)


def networks() -> Iterator[NetworkSpec]:
    """Every shipped network."""
    for name, depths in (RESNETS | STAGEWISE).items():
        yield resnet(depths, name)
    for name, numbers in STAGEWISE_CELLS.items():
        yield nasnet_cifar(input_shape=(3, 32, 32), classes=10).express(numbers, name)
    for name, rows in DENSENAS.items():
        yield mobile(rows, name, stem=16, tail=1984, kind="mbconv", act="relu6")
    yield mobile(HOURNAS_F, "hournas-f", stem=32, tail=1280, kind="mbconv_full", act="relu", se=0.05)


def main() -> None:
    """Write the files."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "networks"
    for spec in networks():
        write_network(folder / f"{spec.name}.json", spec)


if __name__ == "__main__":
    main()
