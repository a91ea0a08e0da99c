"""Guesses for unmeasured blocks, figures of merit."""

from typing import Literal

import numpy as np
import pytest

from hwnas.backends.fake import Fake
from hwnas.cost import extrapolate, score
from hwnas.errors import MissingMeasurement
from hwnas.nets import onnx, spaces
from hwnas.nets.count import count_block
from hwnas.spec import BlockSpec


def basic(c_in: int, c_out: int, size: int = 16, stride: Literal[1, 2] = 1) -> BlockSpec:
    return BlockSpec(kind="basic", c_in=c_in, c_out=c_out, size_in=size, stride=stride)


def test_guesses_between_measured_blocks_are_near() -> None:
    known = [basic(c, c) for c in (8, 16, 24, 40, 48, 64)]
    times = np.array([count_block(b).macs / 1e8 + 0.002 for b in known])
    guess, sd = extrapolate.Guesser(known, times).guess([basic(32, 32)])
    assert guess[0] == pytest.approx(count_block(basic(32, 32)).macs / 1e8 + 0.002, rel=0.1)
    assert 0.03 < sd[0] < 0.3


def test_a_kind_that_was_never_seen_is_guessed_with_a_wide_interval() -> None:
    known = [basic(c, c) for c in (8, 16, 32)]
    times = np.array([count_block(b).macs / 1e8 for b in known])
    new = BlockSpec(kind="mbconv", c_in=16, c_out=16, expand=6, size_in=16)
    guess, sd = extrapolate.Guesser(known, times).guess([new, basic(24, 24)])
    assert guess[0] > 0
    assert sd[0] > 0.3 > sd[1]


def test_nothing_to_guess_from() -> None:
    with pytest.raises(MissingMeasurement, match="hwnas profile"):
        extrapolate.Guesser([], np.empty(0))


def test_blocks_that_matter_are_chosen_first() -> None:
    rng = np.random.default_rng(0)
    space = spaces.make("mbv2-cifar")
    networks = [space.sample(rng) for _ in range(100)]
    blocks = space.blocks()
    assert extrapolate.choose(blocks, networks, 500) == list(blocks)
    chosen = extrapolate.choose(blocks, networks, 40)
    assert len(set(chosen)) == 40
    assert set(chosen) <= set(blocks)
    # Judged by how well the others can be guessed, where times follow the fake device's prices.
    setting = Fake().setting("fake", "fp32", 1, 1)
    times = {b: Fake().build(onnx.chain([b]), setting).price_ms for b in blocks}

    def error(known: list[BlockSpec]) -> float:
        rest = [b for b in blocks if b not in known]
        guess, _ = extrapolate.Guesser(known, np.array([times[b] for b in known])).guess(rest)
        found = {**{b: times[b] for b in known}, **dict(zip(rest, guess))}
        sums = [[sum(t[b] for b in net.blocks) for net in networks] for t in (found, times)]
        return float(np.abs(np.array(sums[0]) / np.array(sums[1]) - 1).mean())

    chance = np.mean([error([blocks[i] for i in rng.permutation(len(blocks))[:40]]) for _ in range(5)])
    assert error(chosen) < chance
    assert error(chosen) < 0.05


def test_kendall_tau_by_hand() -> None:
    a = np.array([1.0, 2.0, 3.0, 4.0])
    assert score.kendall_tau(a, a) == 1.0
    assert score.kendall_tau(a, -a) == -1.0
    # One of six pairs is turned round: (5 - 1) / 6.
    assert score.kendall_tau(a, np.array([1.0, 2.0, 4.0, 3.0])) == pytest.approx(4 / 6)
    assert score.kendall_tau(a, np.ones(4)) == 0.0


def test_figures_by_hand() -> None:
    found = score.figures(np.array([1.1, 1.96, 3.0]), np.array([1.0, 2.0, 3.0]))
    assert found["mape_percent"] == pytest.approx(4.0)  # 10, 2 and 0 percent
    assert found["bias_percent"] == pytest.approx(8.0 / 3)
    assert found["max_error_percent"] == pytest.approx(10.0)
    assert found["within_5_percent"] == pytest.approx(200 / 3)
    assert found["kendall_tau"] == 1.0
