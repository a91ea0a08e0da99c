"""Pooling of gains over rounds, against values worked out by hand."""

from __future__ import annotations

import pytest

from hwnas.estimates import Estimate
from hwnas.nets.spaces import make
from hwnas.records import Evaluation, StageImportance, Trial
from hwnas.search.stagewise.gains import path_of, pooled
from hwnas.spec import NetworkSpec

SPACE = make("resnet-cifar")
FIRST = SPACE.smallest()  # (1, 1, 1)
SECOND = next(move.spec for move in SPACE.grow(FIRST) if move.stage == 2)  # (1, 1, 2)


def trial(
    index: int, spec: NetworkSpec, gains: dict[int, tuple[float, float]], parent: int | None = None
) -> Trial:
    importance = tuple(StageImportance(stage=s, value=v, se=e) for s, (v, e) in gains.items())
    estimate = Estimate(
        latency_ms=1, low_ms=1, high_ms=1, coverage=0.9, macs=1, params=1, activation_bytes=1, weight_bytes=1
    )
    return Trial(
        index=index,
        spec=spec,
        estimate=estimate,
        state="done",
        parent=parent,
        evaluation=Evaluation(accuracy=0.5, loss=1.0, importance=importance),
    )


def test_one_round_is_what_it_says() -> None:
    only = trial(0, SECOND, {0: (0.03, 0.01), 2: (0.02, 0.005)})
    found = pooled([only], only, SPACE)
    assert (found[0, "deeper"].value, found[0, "deeper"].se) == pytest.approx((0.03, 0.01))
    assert (found[2, "deeper"].value, found[2, "deeper"].se) == pytest.approx((0.02, 0.005))


def test_two_rounds_are_weighed_by_their_errors_and_their_age() -> None:
    before = trial(0, FIRST, {0: (0.02, 0.01), 2: (0.04, 0.02)})
    now = trial(1, SECOND, {0: (0.03, 0.01), 2: (0.03, 0.02)}, parent=0)
    found = pooled([before, now], now, SPACE)
    # A third block of stage 3 brings log2(3 / 2) = 0.58496 of what the second did: 0.051286 +- 0.034190.
    # Mean squares of errors: (0.01^2 + 0.03419^2) / 2 = 6.3448e-4 now, 2.5e-4 before; before is a round old,
    # and gains may have changed by 0.3 of themselves: 0.09 (0.02^2 + 0.04^2) / 2 = 9e-5 more.
    new, old = 1 / 6.3448e-4, 1 / 3.4e-4
    assert found[0, "deeper"].value == pytest.approx((new * 0.03 + old * 0.02) / (new + old), rel=1e-4)
    assert found[0, "deeper"].se == pytest.approx(0.01 * (new**2 + old**2) ** 0.5 / (new + old), rel=1e-4)
    unit = (new * 0.051286 + old * 0.04) / (new + old)
    assert found[2, "deeper"].value == pytest.approx(0.58496 * unit, rel=1e-4)
    error = ((new * 0.034190) ** 2 + (old * 0.02) ** 2) ** 0.5 / (new + old)
    assert found[2, "deeper"].se == pytest.approx(0.58496 * error, rel=1e-4)


def test_only_what_is_judged_now_counts_and_only_on_the_way_here() -> None:
    start = trial(0, FIRST, {0: (0.02, 0.01), 1: (0.5, 0.01)})
    other = trial(1, SECOND, {0: (9.0, 0.01)}, parent=0)  # a branch that was given up
    now = trial(2, SECOND, {0: (0.02, 0.01)}, parent=0)
    history = [start, other, now]
    assert [one.index for one in path_of(history, now)] == [2, 0]
    found = pooled(history, now, SPACE)
    assert set(found) == {(0, "deeper")}
    assert found[0, "deeper"].value == pytest.approx(0.02)


def test_pooling_beats_the_last_round() -> None:
    """Equal gains of 0.02 seen four times with errors of 0.01: the error falls, but by less than a half."""
    history = [trial(0, FIRST, {0: (0.02, 0.01)})]
    history += [trial(n, FIRST, {0: (0.02, 0.01)}, parent=n - 1) for n in (1, 2, 3)]
    found = pooled(history, history[-1], SPACE)[0, "deeper"]
    assert found.value == pytest.approx(0.02)
    assert 0.005 < found.se < 0.006
