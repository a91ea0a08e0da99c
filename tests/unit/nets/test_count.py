"""Counts against values worked out by hand and against the published ones."""

import math
from typing import Any

import pytest

from hwnas.jobs.resolve.networks import examples
from hwnas.nets.count import Counts, count, count_block
from hwnas.spec import BlockSpec
from hwnas.store import read_network


def test_conv_by_hand() -> None:
    block = BlockSpec(kind="conv", c_in=3, c_out=16, kernel=3, size_in=32)
    # 3*16*9 = 432 weights, each used at 32*32 pixels; batch norm 2*16 trainable, 4*16 stored.
    # Alive: the image 3*1024 and the output 16*1024 values of 4 bytes; ReLU works in place.
    # Deployed: 432 weights and 16 biases.
    assert count_block(block, "torch") == Counts(
        macs=442_368,
        params=464,
        params_trainable=464,
        params_stored=496,
        depth=1,
        activation_bytes=77_824,
        weight_bytes=1792,
    )
    keras = count_block(block, "keras")  # and a bias of 16
    assert (keras.params, keras.params_trainable, keras.weight_bytes) == (512, 480, 1792)


def test_basic_with_shortcut_by_hand() -> None:
    block = BlockSpec(kind="basic", c_in=16, c_out=32, stride=2, size_in=32)
    # conv1 16*32*9 = 4608, conv2 32*32*9 = 9216, shortcut 16*32 = 512 weights, all at 16*16 pixels.
    keras, torch = count_block(block, "keras"), count_block(block, "torch")
    assert keras.macs == torch.macs == (4608 + 9216 + 512) * 256
    assert keras.params == 4608 + 9216 + 512 + 3 * 32 + 2 * 4 * 32  # three biases, two batch norms stored
    assert torch.params == 4608 + 9216 + 512 + 3 * 2 * 32  # no bias, three batch norms trained
    assert keras.depth == torch.depth == 3
    # While the shortcut runs: block input 16*1024, branch 32*256, shortcut 32*256.
    assert torch.activation_bytes == 4 * (16 * 1024 + 2 * 32 * 256)


def test_identity_shortcut_costs_nothing() -> None:
    counts = count_block(BlockSpec(kind="basic", c_in=16, c_out=16, size_in=32), "torch")
    assert (counts.macs, counts.params, counts.depth) == (2 * 2304 * 1024, 2 * 2304 + 2 * 32, 2)
    # Input, first and second convolution alive together.
    assert counts.activation_bytes == 3 * 16 * 1024 * 4


def test_bottleneck_by_hand() -> None:
    block = BlockSpec(kind="bottleneck", c_in=256, c_out=256, expand=4, size_in=56)
    # ResNet-50's conv2_x: 256*64 + 64*64*9 + 64*256 weights at 56*56 pixels; 64+64+256 channels normed.
    counts = count_block(block)
    assert counts.macs == (16_384 + 36_864 + 16_384) * 3136
    assert counts.params == 69_632 + 2 * 384


def test_mbconv_with_gate_by_hand() -> None:
    block = BlockSpec(
        kind="mbconv", c_in=24, c_out=40, kernel=5, stride=2, expand=6, se=0.05, act="relu6", size_in=56
    )
    # Hidden 144. Expansion 24*144 at 56*56; depthwise 25*144 and projection 144*40 at 28*28.
    # Gate: int(0.05*144) = 7 channels, 2*144*7 weights, once.
    counts = count_block(block)
    assert counts.macs == 3456 * 3136 + (3600 + 5760) * 784 + 2016
    assert counts.params == 3456 + 3600 + 5760 + 2016 + 2 * (144 + 144 + 40)
    assert counts.depth == 3


def test_expansion_one_is_left_out_or_kept() -> None:
    body: dict[str, Any] = {"c_in": 32, "c_out": 16, "act": "relu", "size_in": 112}
    # Depthwise 9*32, projection 32*16; the full form has 32*32 more and its batch norm.
    assert count_block(BlockSpec(kind="mbconv", **body)).params == 288 + 512 + 2 * 48
    assert count_block(BlockSpec(kind="mbconv_full", **body)).params == 1024 + 288 + 512 + 2 * 80


def test_preactivation_layers_by_hand() -> None:
    body: dict[str, Any] = {"c_in": 64, "c_out": 128, "kernel": 5, "stride": 2, "size_in": 16}
    # Separable: 64*25 + 64*128; full: 64*128*25; both with one batch norm of 128, no bias.
    assert count_block(BlockSpec(kind="sep_preact", **body)).params == 1600 + 8192 + 256
    assert count_block(BlockSpec(kind="conv_preact", **body)).params == 204_800 + 256
    assert count_block(BlockSpec(kind="conv_preact", **body)).macs == 204_800 * 64


def test_classifier_by_hand() -> None:
    counts = count_block(BlockSpec(kind="classifier", c_in=64, c_out=10, size_in=8))
    assert (counts.macs, counts.params, counts.depth) == (640, 650, 0)
    assert counts.weight_bytes == 2600


# name: depth, parameters, MMACs. StageWise NAS and ResNet rows: seeds 2.2, exact parameters and MACs to
# the two decimals published; resnet20/32/44 by the same formula.
STAGEWISE = {
    "stagewise-it1": (43, 605_610, 92.72),
    "stagewise-it2": (51, 652_650, 111.59),
    "stagewise-it3": (59, 699_690, 130.47),
    "stagewise-it4": (63, 848_426, 139.90),
    "stagewise-it5": (67, 885_930, 149.34),
    "resnet56": (57, 861_770, 125.75),
    "resnet110": (111, 1_742_762, 253.15),
}


@pytest.mark.parametrize("name", STAGEWISE)
def test_stagewise_networks(name: str) -> None:
    counts = count(read_network(examples()[name]))
    depth, params, mmacs = STAGEWISE[name]
    assert (counts.depth, counts.params) == (depth, params)
    assert round(counts.macs / 1e6, 2) == mmacs


# name: stored parameters (exact), MMACs (one decimal), of the networks of NASNet-A cells: seeds 2.2.
CELLS = {
    "stagewise-cells-it1": (1_384_554, 229.1),
    "stagewise-cells-it2": (1_413_546, 257.2),
    "stagewise-cells-it3": (1_516_586, 282.8),
    "stagewise-cells-it4": (1_931_882, 335.2),
    "stagewise-cells-it5": (2_347_178, 387.7),
    "stagewise-cells-it6": (2_479_210, 441.4),
}


@pytest.mark.parametrize("name", CELLS)
def test_cell_networks(name: str) -> None:
    counts = count(read_network(examples()[name]))
    assert (counts.params, round(counts.macs / 1e6, 1)) == CELLS[name]


def residual_params(n: int) -> int:
    """Stored parameters of the CIFAR ResNet with n blocks a stage, by a formula of its own."""

    def conv(k: int, a: int, b: int) -> int:
        return k * k * a * b + b

    total = conv(3, 3, 16) + 4 * 16
    for a, b in ((16, 16), (16, 32), (32, 64)):
        total += conv(3, a, b) + (2 * n - 1) * conv(3, b, b) + 2 * n * 4 * b + (a != b) * conv(1, a, b)
    return total + 64 * 10 + 10


@pytest.mark.parametrize(("name", "n"), [("resnet20", 3), ("resnet32", 5), ("resnet44", 7), ("resnet56", 9)])
def test_residual_networks(name: str, n: int) -> None:
    assert count(read_network(examples()[name])).params == residual_params(n)


# name: parameters in millions, MMACs, with the decimals given by seeds 1.10 and 3.1.
MOBILE = {
    "densenas-a": (4.768, 251.33),
    "densenas-b": (5.584, 313.58),
    "densenas-c": (6.134, 360.81),
}


@pytest.mark.parametrize("name", MOBILE)
def test_densenas_networks(name: str) -> None:
    counts = count(read_network(examples()[name]))
    assert (round(counts.params / 1e6, 3), round(counts.macs / 1e6, 2)) == MOBILE[name]


def test_hournas_f() -> None:
    counts = count(read_network(examples()["hournas-f"]))
    assert (round(counts.params / 1e6, 3), round(counts.macs / 1e6, 1)) == (5.343, 383.0)


@pytest.mark.parametrize("name", examples())
def test_network_is_the_sum_of_its_blocks(name: str) -> None:
    spec = read_network(examples()[name])
    parts = [count_block(block, spec.convention) for block in spec.blocks]
    whole = count(spec)
    for field in ("macs", "params", "params_trainable", "params_stored", "depth", "weight_bytes"):
        assert getattr(whole, field) == sum(getattr(part, field) for part in parts)
    assert whole.activation_bytes == max(part.activation_bytes for part in parts)
    assert math.isclose(whole.weight_bytes / 4, whole.params, rel_tol=0.02)
