"""Sizes of feature maps: height before width everywhere, and one form for a square."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from hwnas import sizes
from hwnas.errors import DataFormatError
from hwnas.spec import BlockSpec, NetworkSpec
from hwnas.store import network_of


def test_a_square_is_its_side_and_height_comes_first() -> None:
    assert (sizes.of(32, 32), sizes.of(32, 64)) == (32, (32, 64))
    assert (sizes.sides(32), sizes.sides((32, 64))) == ((32, 32), (32, 64))
    assert (sizes.pixels(32), sizes.pixels((32, 64))) == (1024, 2048)
    assert (sizes.text(32), sizes.text((32, 64))) == ("32x32", "32x64")
    assert (sizes.brief(32), sizes.brief((32, 64))) == ("32", "32x64")
    assert sizes.mean_side((2, 8)) == 4.0


def test_sides_are_divided_each_by_itself_and_rounded_up() -> None:
    assert sizes.divided((5, 12), 2) == (3, 6)
    assert sizes.divided((7, 8), 2) == 4  # a square, now
    assert sizes.divided(45, 2) == 23


def strided() -> BlockSpec:
    return BlockSpec(kind="conv", c_in=3, c_out=8, stride=2, size_in=(5, 12))


def test_a_rectangular_block() -> None:
    block = strided()
    assert block.size_out == (3, 6)
    assert (block.elements_in, block.elements_out, block.elements_skip) == (3 * 5 * 12, 8 * 3 * 6, 0)
    assert block.key == "conv-3x8-k3s2e1-relu@5x12"
    turned = block.model_copy(update={"size_in": (12, 5)})
    assert (turned.key, turned.size_out) == ("conv-3x8-k3s2e1-relu@12x5", (6, 3))
    assert turned != block


def test_equal_sides_in_a_file_are_a_square() -> None:
    square = BlockSpec(kind="conv", c_in=3, c_out=8, size_in=32)
    told = BlockSpec.model_validate(square.model_dump() | {"size_in": [32, 32]})
    assert told == square
    assert told.size_in == 32
    assert hash(told) == hash(square)


@pytest.mark.parametrize("size", [0, [0, 4], [4], [4, 4, 4], [4, 1 << 20], "4x4", [1.5, 2], None])
def test_no_size(size: object) -> None:
    with pytest.raises(ValidationError):
        BlockSpec.model_validate({"kind": "conv", "c_in": 3, "c_out": 8, "size_in": size})


def body_of(spec: NetworkSpec) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(spec.to_json())
    assert body.pop("schema") == "hwnas.network/1"
    return body


def network() -> NetworkSpec:
    stem = strided()
    block = BlockSpec(kind="basic", c_in=8, c_out=8, size_in=(3, 6))
    head = BlockSpec(kind="classifier", c_in=8, c_out=2, kernel=1, act="none", size_in=(3, 6))
    return NetworkSpec(stem=stem, stages=((block,),), head=head)


def test_a_rectangular_network_in_a_file() -> None:
    spec = network()
    assert spec.input_shape == (3, 5, 12)
    assert json.loads(spec.to_json())["stem"]["size_in"] == [5, 12]
    again = network_of(body_of(spec), "here")
    assert (again, again.key) == (spec, spec.key)


def test_a_turned_block_does_not_join() -> None:
    body = body_of(network())
    body["stages"][0][0]["size_in"] = [6, 3]
    with pytest.raises(DataFormatError, match=r"takes 8x6x3, but the block before it gives 8x3x6"):
        network_of(body, "here")


def test_a_wrong_side_is_named_by_its_place() -> None:
    body = body_of(network())
    body["stem"]["size_in"] = [5, 0]
    with pytest.raises(DataFormatError, match=r"stem\.size_in\.1: Input should be greater than 0"):
        network_of(body, "here")
