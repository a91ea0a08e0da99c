"""The training-free score, by hand."""

import math

import pytest

from hwnas.search.solve.entropy import block_entropy
from hwnas.spec import BlockSpec


def test_by_hand() -> None:
    basic = BlockSpec(kind="basic", c_in=16, c_out=32, stride=2, size_in=32)
    assert block_entropy(basic) == pytest.approx(math.log(16 * 9) + math.log(32 * 9))
    mb = BlockSpec(kind="mbconv", c_in=16, c_out=24, kernel=5, expand=3, se=0.25, size_in=16)
    # 1x1 on 16, depthwise 5x5 (one channel a group), 1x1 on 48; the gate does not count
    assert block_entropy(mb) == pytest.approx(math.log(16) + math.log(25) + math.log(48))
    assert (
        block_entropy(BlockSpec(kind="classifier", c_in=8, c_out=10, kernel=1, act="none", size_in=4)) == 0.0
    )
