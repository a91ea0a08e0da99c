"""Dense spaces as chain spaces hold exactly what their super-networks can derive."""

import numpy as np
import pytest

from hwnas.nets import spaces
from hwnas.nets.chainspace import ChainSpace
from hwnas.nets.densenas.graph import SKIP, DenseSpace, densenas_cifar, densenas_mbv2, densenas_resnet
from hwnas.spec import NetworkSpec


def derived(dense: DenseSpace, rng: np.random.Generator) -> NetworkSpec:
    """A network drawn from the dense description itself."""
    path, heads, stacks = [0], [], []
    while path[-1] != dense.sink:
        successors = dense.out_edges[path[-1]]
        path.append(successors[int(rng.integers(len(successors)))])
        heads.append(dense.head_ops[int(rng.integers(len(dense.head_ops)))])
        slots = rng.integers(len(dense.stack_ops), size=dense.routing[path[-1]].stack)
        stacks.append([dense.stack_ops[int(i)] for i in slots])
    return dense.network(path, heads, stacks)


CASES = {
    "densenas-mbv2": (densenas_mbv2(), (3, 224, 224), 15_456),
    "densenas-resnet": (densenas_resnet(), (3, 224, 224), 540_225),
    "densenas-cifar": (densenas_cifar(), (3, 32, 32), None),
}


@pytest.mark.parametrize("name", CASES)
def test_derived_networks_are_members(name: str) -> None:
    dense, shape, paths = CASES[name]
    space, rng = spaces.make(name, input_shape=shape, classes=dense.classes), np.random.default_rng(0)
    assert isinstance(space, ChainSpace)
    assert sum(space.paths_from[i] for i in space.starts) == dense.paths == (paths or dense.paths)
    keys = set(space.blocks())
    for _ in range(60):
        spec = derived(dense, rng)
        assert spec in space
        assert set(spec.blocks) <= keys


@pytest.mark.parametrize("name", CASES)
def test_blocks_are_the_candidates(name: str) -> None:
    dense, shape, _ = CASES[name]
    space = spaces.make(name, input_shape=shape, classes=dense.classes)
    heads = {
        dense.head_block(i, j, op)
        for i, j in dense.edges
        for op in dense.head_ops
        if j != dense.sink or dense.tail_in_network
    }
    stacks = {
        dense.stack_block(j, op)
        for j, block in enumerate(dense.routing)
        for op in dense.stack_ops
        if block.stack and op is not SKIP
    }
    last = [dense.sink] if dense.tail_in_network else list(dense.in_edges[dense.sink])
    expected = {*dense.stem, *heads, *stacks}
    assert {b for b in space.blocks() if b.kind != "classifier"} == expected
    assert sum(b.kind == "classifier" for b in space.blocks()) == len(last)
