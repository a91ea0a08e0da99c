"""Precision by block: costs from times of whole networks, and the fastest mix, worked out by hand."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from hwnas.errors import InputError
from hwnas.search.solve.precision import PrecisionCosts, costs, fastest

# Three blocks save 0.10, 0.20 and -0.05 ms in int8; a switch at the borders costs 0.03 and 0.01 ms.
# All in float 1.00, so all in int8 0.75. Int8 before the first border 1 - 0.10 + 0.03 = 0.93, before the
# second 1 - 0.30 + 0.01 = 0.71; from the first on 1 - 0.15 + 0.03 = 0.88, from the second 1.05 + 0.01 = 1.06.
FOUND = costs(1.0, 0.75, [0.93, 0.71], [0.88, 1.06])


def test_costs_by_hand() -> None:
    assert FOUND.gain_ms == pytest.approx((0.10, 0.20, -0.05))
    assert FOUND.switch_ms == pytest.approx((0.03, 0.01))
    assert FOUND.of((True, True, True)) == pytest.approx(0.25)
    assert FOUND.of((False, True, False)) == pytest.approx(0.20 - 0.03 - 0.01)
    assert FOUND.of((False, False, False)) == 0.0


def test_a_switch_that_seems_to_save_time_costs_nothing() -> None:
    assert costs(1.0, 0.8, [0.9], [0.88]).switch_ms == (0.0,)  # 0.9 + 0.88 < 1.8: noise
    assert costs(1.0, 0.75, [], []) == PrecisionCosts((0.25,), ())


@pytest.mark.parametrize(
    ("losses", "allowed", "mix"),
    [
        ((0.1, 0.1, 0.1), 1.0, (True, True, False)),  # the last block is slower in int8: 0.30 - 0.01
        ((0.1, 0.1, 0.1), 0.1, (False, True, False)),  # one block: 0.20 - 0.04 against 0.10 - 0.03
        ((0.1, 0.3, 0.1), 0.2, (True, False, False)),  # the middle one loses too much
        ((0.1, 0.1, 0.1), 0.0, (False, False, False)),
        ((0.0, 0.1, 0.1), 0.0, (True, False, False)),  # what loses nothing is free
    ],
)
def test_the_fastest_mix_by_hand(losses: tuple[float, ...], allowed: float, mix: tuple[bool, ...]) -> None:
    assert fastest(FOUND, losses, allowed) == mix


def test_the_choice_is_the_best_of_all_mixes() -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        n = 6
        found = PrecisionCosts(tuple(rng.normal(0.1, 0.1, n)), tuple(rng.uniform(0, 0.1, n - 1)))
        losses, allowed = rng.uniform(0, 1, n), 1.5
        best = max(
            found.of(mix)
            for mix in product((False, True), repeat=n)
            if losses[np.array(mix)].sum() <= allowed
        )
        chosen = fastest(found, losses.tolist(), allowed)
        assert losses[np.array(chosen)].sum() <= allowed
        assert found.of(chosen) == pytest.approx(best)


def test_bad_numbers() -> None:
    with pytest.raises(InputError, match="1 times of heads and 2 of tails"):
        costs(1.0, 0.8, [0.9], [0.9, 0.9])
    with pytest.raises(InputError, match="3 blocks have 2 losses and 2 borders"):
        fastest(FOUND, [0.1, 0.1], 1.0)
