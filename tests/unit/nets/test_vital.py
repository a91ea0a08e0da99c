"""Vital blocks equal the intersection of all paths, found by listing them."""

from typing import Literal

import numpy as np
import pytest

from hwnas.errors import InputError
from hwnas.nets.hournas.vital import on_every_path, vital_blocks
from hwnas.spec import BlockSpec, NetworkSpec


def paths(edges: dict[int, list[int]], node: int, sink: int) -> list[set[int]]:
    if node == sink:
        return [{sink}]
    return [{node} | rest for after in edges.get(node, []) for rest in paths(edges, after, sink)]


def test_equals_path_intersection_on_a_thousand_random_graphs() -> None:
    rng = np.random.default_rng(0)
    compared = 0
    while compared < 1000:
        n = int(rng.integers(2, 9))
        names = rng.permutation(n)  # so that the order of numbers says nothing
        edges: dict[int, list[int]] = {}
        for i in range(n):
            edges[int(names[i])] = [int(names[j]) for j in range(i + 1, n) if rng.random() < 0.45]
        source, sink = int(names[0]), int(names[-1])
        listed = paths(edges, source, sink)
        if not listed:
            with pytest.raises(InputError, match="no path"):
                on_every_path(edges, source, sink)
            continue
        assert on_every_path(edges, source, sink) == set.intersection(*listed)
        compared += 1


def test_a_cycle_is_refused() -> None:
    with pytest.raises(InputError, match="cycle"):
        on_every_path({0: [1], 1: [2], 2: [1, 3]}, 0, 3)


def test_a_chain_keeps_the_blocks_that_change_shape() -> None:
    def block(c_in: int, c_out: int, size: int, stride: Literal[1, 2] = 1) -> BlockSpec:
        return BlockSpec(
            kind="mbconv", c_in=c_in, c_out=c_out, stride=stride, size_in=size, expand=3, act="relu6"
        )

    spec = NetworkSpec(
        stem=BlockSpec(kind="conv", c_in=3, c_out=16, size_in=32),
        stages=(
            (block(16, 16, 32), block(16, 16, 32)),  # both can be left out
            (block(16, 24, 32, 2), block(24, 24, 16), block(24, 32, 16)),  # stride, skippable, width alone
        ),
        head=BlockSpec(kind="classifier", c_in=32, c_out=10, kernel=1, act="none", size_in=16),
    )
    assert vital_blocks(spec) == ("stages.1.0", "stages.1.2")
