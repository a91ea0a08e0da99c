"""Growths of several steps, by hand."""

from __future__ import annotations

from math import log2

import pytest

from hwnas.nets.spaces import make
from hwnas.search.moves import first_order, further, returns

SPACE = make("resnet-cifar-wide")
START = SPACE.smallest()  # one block each, 8, 12 and 16 channels


def test_further_stops_where_the_space_ends() -> None:
    assert further(SPACE, START, 1, 3).depths == (1, 4, 1)
    assert further(SPACE, START, 0, 40).depths == (9, 1, 1)
    wide = further(SPACE, START, 2, 2, "wider")
    assert [stage[0].c_out for stage in wide.stages] == [8, 12, 32]  # 16, 24, 32
    assert further(SPACE, START, 2, 1, "no such kind") is START


def test_returns_are_doublings_of_depth_and_width() -> None:
    deep, wide = further(SPACE, START, 2, 3), further(SPACE, START, 2, 7, "wider")
    assert returns(START, deep, 2, "deeper", 3) == 2.0  # 1 to 4
    assert returns(START, wide, 2, "wider", 7) == pytest.approx(log2(6))  # 16 to 96
    deeper = further(SPACE, deep, 2, 1)
    assert returns(deep, deeper, 2, "deeper", 1) == pytest.approx(log2(5 / 4))
    assert returns(START, START, 2, "kernel", 2) == 2.0


def test_first_order_counts_every_block_and_every_channel_alike() -> None:
    assert first_order(START, further(SPACE, START, 2, 3), 2, "deeper", 3) == 3.0
    assert first_order(START, further(SPACE, START, 2, 7, "wider"), 2, "wider", 7) == 5.0
