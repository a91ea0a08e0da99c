"""Engines compared in turn: ratios that hold where the machine is slow for most of the time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from hwnas.measure.turns import in_turn
from hwnas.protocols import CallTimes


class Slowed:
    """An engine on a machine whose speed changes from one turn to the next: all calls are counted."""

    calls = 0

    def __init__(self, own_ms: float) -> None:
        self.own_ms, self.open = own_ms, True

    def time(self, calls: int) -> CallTimes:
        Slowed.calls += 1
        # A spell of four turns at three times the time, then one turn without.
        slow = 3.0 if (Slowed.calls // 4) % 5 else 1.0
        return CallTimes(np.full(calls, self.own_ms * slow))

    def close(self) -> None:
        self.open = False


def test_a_state_of_the_machine_is_divided_out() -> None:
    Slowed.calls = 0
    made: list[Slowed] = []

    def builder(own_ms: float) -> Callable[[], Slowed]:
        def build() -> Slowed:
            made.append(Slowed(own_ms))
            return made[-1]

        return build

    builders = {"a": builder(1.0), "b": builder(1.1)}
    found = in_turn(builders, rng=np.random.default_rng(0), turns=40)  # type: ignore[arg-type]  # what is timed is enough
    assert found["a"].relative == 1.0
    assert found["b"].relative == pytest.approx(1.1, rel=0.02)
    assert found["b"].low_ms == pytest.approx(1.1)
    assert not any(engine.open for engine in made)
