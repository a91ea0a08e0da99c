"""Reliability of what a super-network learned: 0 for noise, known where the signal's share is known."""

import numpy as np
import pytest
import torch

from hwnas.train.densenas.evidence import SplitHalves, reliability


def slopes(signal: float, layers: int, steps: int, seed: int) -> SplitHalves:
    """Slopes of unit noise around fixed slopes of standard deviation `signal`."""
    rng = np.random.default_rng(seed)
    true = rng.normal(size=(layers, 6)) * signal
    evidence = SplitHalves([torch.zeros(6) for _ in range(layers)])
    for step in range(steps):
        drawn = true + rng.normal(size=true.shape)
        evidence.add(step, [torch.tensor(row, dtype=torch.float32) for row in drawn])
    return evidence


def test_noise_is_hardly_ever_believed() -> None:
    believed = [slopes(0.0, 40, 60, seed).trust(40)[1] for seed in range(40)]
    assert sum(value > 0 for value in believed) <= 4  # one-sided, two standard errors: one in 44


def test_the_reliability_is_the_share_of_signal() -> None:
    """With signal variance s^2 and n steps of unit noise, reliability is s^2 / (s^2 + 1 / n)."""
    for signal, steps in ((0.1, 100), (0.3, 100), (0.2, 50)):
        expected = signal**2 / (signal**2 + 1 / steps)
        found = np.mean([slopes(signal, 60, steps, seed).trust(60)[1] for seed in range(6)])
        assert found == pytest.approx(expected, abs=0.06)


def test_layers_are_compared_in_their_own_units() -> None:
    """A layer with slopes a thousand times larger does not decide alone."""
    one = slopes(0.3, 20, 60, 1)
    before = one.trust(20)[1]
    one.sums[0] *= 1000
    one.squares[0] *= 1000**2
    assert one.trust(20)[1] == pytest.approx(before)


def test_edges_and_operators_are_apart_and_choices_never_seen_do_not_count() -> None:
    """Six layers of operators whose halves agree fully, two blocks of edges whose halves are opposite."""
    evidence = SplitHalves([*(torch.zeros(3) for _ in range(8)), torch.zeros(1)])
    agreed, edge = torch.tensor([2.0, -1.0, -1.0]), torch.tensor([1.0, 0.0, -1.0])
    for step in range(2):
        sign = 1.0 - 2.0 * step
        evidence.add(step, [agreed] * 6 + [sign * edge] * 2 + [torch.zeros(1)])
    edges, operators = evidence.trust(6)
    assert edges == 0
    assert operators == pytest.approx(1.0)


def test_nothing_seen_is_nothing_believed() -> None:
    assert SplitHalves([torch.zeros(6), torch.zeros(2)]).trust(1) == (0.0, 0.0)
    one = SplitHalves([torch.zeros(6)])
    one.add(0, [torch.arange(6.0)])  # one half only
    assert reliability(one.sums, one.squares) == 0


def test_a_checkpoint_brings_it_back() -> None:
    one, two = slopes(0.3, 4, 10, 1), SplitHalves([torch.zeros(6) for _ in range(4)])
    two.restore(one.tensors())
    for a, b in zip([*one.sums, *one.squares], [*two.sums, *two.squares], strict=True):
        assert torch.equal(a, b)
