"""Networks for images that are not square: shapes by hand, members of every space, both builders agree."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from hwnas import plugins, sizes
from hwnas.errors import InputError
from hwnas.nets import spaces
from hwnas.nets.build import build, weights
from hwnas.nets.chainspace import ChainSpace
from hwnas.nets.count import count
from hwnas.nets.densenas.chains import DenseChain
from hwnas.nets.families import Families
from hwnas.nets.onnx import network
from hwnas.spec import NetworkSpec

SHAPE = (2, 20, 36)
EVERY_SPACE = pytest.mark.parametrize("name", plugins.BUILT_IN["spaces"])


@EVERY_SPACE
def test_every_space_takes_rectangles_and_any_channels(name: str) -> None:
    space = spaces.make(name, input_shape=SHAPE, classes=3)
    rng = np.random.default_rng(0)
    drawn = space.sample(rng)
    for spec in (space.smallest(), drawn, space.mutate(drawn, rng), space.uniform()[1]):
        assert spec in space
        assert spec.input_shape == SHAPE
        assert set(spec.blocks) <= set(space.blocks())
        heights, widths = zip(*(sizes.sides(block.size_in) for block in spec.blocks))
        assert list(heights) == sorted(heights, reverse=True)
        assert all(wide > high or (wide, high) == (1, 1) for high, wide in zip(heights, widths))


@EVERY_SPACE
def test_torch_and_onnx_agree_on_rectangles(name: str) -> None:
    spec = spaces.make(name, input_shape=SHAPE, classes=3).smallest()
    net = build(spec, seed=0).eval()
    x = torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(1))
    model = network(spec, weights(net))
    onnx.checker.check_model(onnx.load_from_string(model), full_check=True)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == [1, 2, 20, 36]
    with torch.no_grad():
        want = net(x).numpy()
    np.testing.assert_allclose(session.run(None, {"input": x.numpy()})[0], want, rtol=0, atol=1e-5)


def test_sizes_and_macs_by_hand() -> None:
    """A stem of 16 channels; three stages of one block of 3x3 convolutions; 12x20, 6x10, 3x5 pixels."""
    space = spaces.make("resnet-cifar", input_shape=(3, 12, 20), classes=2)
    spec = space.smallest()
    assert [block.size_in for block in spec.blocks] == [(12, 20), (12, 20), (12, 20), (6, 10), (3, 5)]
    stem = 9 * 3 * 16 * 240
    first = 2 * 9 * 16 * 16 * 240
    second = (9 * 16 * 32 + 9 * 32 * 32 + 16 * 32) * 60
    third = (9 * 32 * 64 + 9 * 64 * 64 + 32 * 64) * 15
    assert count(spec).macs == stem + first + second + third + 64 * 2
    described = spaces.describe(space)
    assert [stage["sizes"] for stage in described["stages"]] == [[(12, 20)], [(6, 10)], [(3, 5)]]
    turned = spaces.make("resnet-cifar", input_shape=(3, 20, 12), classes=2).smallest()
    assert count(turned) == count(spec)
    assert turned.key != spec.key
    assert turned not in space


def test_one_side_may_end_at_one_pixel() -> None:
    """3x4 pixels are halved to 2x2 and 1x1, 1x6 to 1x3 and 1x2."""
    space = spaces.make("resnet-cifar", input_shape=(1, 1, 6), classes=2)
    assert isinstance(space, ChainSpace)
    assert [space.size(n) for n in range(4)] == [(1, 6), (1, 3), (1, 2), 1]
    assert [spaces.make("mbv2-cifar", input_shape=(1, 3, 4)).size(n) for n in range(3)] == [(3, 4), 2, 1]  # type: ignore[attr-defined]  # chains have it


def test_the_shorter_side_says_whether_images_are_small() -> None:
    assert spaces.is_small((3, 64, 256))
    assert spaces.is_small((3, 256, 64))
    assert not spaces.is_small((3, 128, 160))
    assert spaces.advised((3, 512, 96)) == "mbv2-cifar"
    assert spaces.advised((3, 97, 512)) == "mbv2-imagenet"
    wide = spaces.make("auto", input_shape=(3, 64, 512))
    large = spaces.make("auto", input_shape=(3, 128, 512))
    assert isinstance(wide, Families)
    assert isinstance(large, Families)
    assert [len(of.families[0].widths[0]) for of in (wide, large)] == [3, 4]


def test_dense_spaces_halve_both_sides() -> None:
    space = spaces.make("densenas-cifar", input_shape=(3, 45, 20), classes=3)
    assert isinstance(space, DenseChain)
    assert [block.size for block in space.dense.routing] == [(45, 20)] * 3 + [(23, 10)] * 3 + [(12, 5)] * 4
    assert [space.size(level.halvings) for level in space.levels[-2:]] == [(12, 5)] * 2
    with pytest.raises(InputError, match="more often than 3x2 images allow"):
        _ = spaces.make("densenas-mbv2", input_shape=(3, 3, 2), classes=3).dense  # type: ignore[attr-defined]  # it has one


def test_a_written_network_is_the_same_network() -> None:
    spec = spaces.make("nasnet-cifar", input_shape=SHAPE, classes=3).smallest()
    body = json.loads(spec.to_json())
    assert body["stages"][1][0]["size_skip"] == [20, 36]
    assert NetworkSpec.model_validate({k: v for k, v in body.items() if k != "schema"}) == spec
