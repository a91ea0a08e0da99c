"""Laws that the statistics of timing keep for any calls."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwnas.measure.aggregate import floor_of
from hwnas.measure.order_statistics import decide, stages, tail
from hwnas.measure.session import Batch, Gates, judge

times = st.floats(0.01, 100.0)
batches = st.lists(st.lists(times, min_size=1, max_size=8), min_size=1, max_size=12)
floors = st.lists(times, min_size=1, max_size=12)


def session(walls: list[list[float]], scale: float = 1.0, wait: float = 0.0) -> tuple[float, float]:
    """Floor and median of calm batches; `wait` disturbs the first one."""
    made = []
    for at, wall in enumerate(walls):
        calls = scale * np.array(wall)
        cpu_ms = float(calls.sum())
        made.append(Batch(calls + (wait if at == 0 else 0.0), cpu_ms, 1))
    found = judge(made, Gates())
    return found.floor_ms, found.median_ms


@given(batches, st.floats(0.1, 10.0))
def test_statistics_scale_with_the_unit(walls: list[list[float]], scale: float) -> None:
    assert session(walls, scale) == pytest.approx([scale * v for v in session(walls)])


@given(batches)
def test_floor_is_within_the_calls_and_not_above_the_median(walls: list[list[float]]) -> None:
    floor, median = session(walls)
    calls = [call for wall in walls for call in wall]
    assert min(calls) * (1 - 1e-9) <= floor <= median * (1 + 1e-9)


@given(st.lists(st.lists(times, min_size=8, max_size=8), min_size=2, max_size=12), st.floats(1.0, 1e3))
def test_a_disturbed_batch_says_nothing(walls: list[list[float]], factor: float) -> None:
    """The floor beside a disturbance is that of the other batches, however large it is."""
    wait = factor * max(walls[0])
    assert session(walls, wait=wait)[0] == pytest.approx(session(walls[1:])[0])


@given(floors, st.randoms())
def test_floor_of_sessions_has_no_order(values: list[float], random: Random) -> None:
    value, se = floor_of(values)
    shuffled = list(values)
    random.shuffle(shuffled)
    assert floor_of(shuffled) == pytest.approx((value, se))
    assert min(values) * (1 - 1e-9) <= value <= float(np.median(values)) * (1 + 1e-9)
    assert se >= 0.0


@given(st.lists(st.booleans(), max_size=20))
def test_hits_and_misses_are_treated_alike(hits: list[bool]) -> None:
    plan = stages(0.05, 2)
    mirror = {"kept": "broken", "broken": "kept", "ambiguous": "ambiguous", None: None}
    assert decide([not hit for hit in hits], plan) == mirror[decide(hits, plan)]


@given(st.floats(0.001, 0.3), st.integers(0, 4))
def test_error_of_all_stages_stays_within_alpha(alpha: float, misses: int) -> None:
    plan = stages(alpha, misses)
    sessions, spent = zip(*plan)
    assert len(plan) == misses + 1
    assert list(sessions) == sorted(set(sessions))
    assert list(spent) == sorted(spent)
    assert spent[-1] <= alpha


@given(st.integers(1, 400), st.sampled_from([0.9, 0.95, 0.99]), st.data())
def test_tail_evidence_is_monotone(calls: int, share: float, data: st.DataObject) -> None:
    over = data.draw(st.integers(0, calls - 1))
    few, many = tail(over, calls, share)
    fewer, more = tail(over + 1, calls, share)
    assert 0.0 <= few <= fewer + 1e-12 <= 1.0 + 1e-9
    assert 0.0 <= more <= many + 1e-12 <= 1.0 + 1e-9
