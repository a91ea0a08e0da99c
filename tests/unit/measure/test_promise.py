"""The promise: exact error of the sequential rule, verdicts on planted truths, faults."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from math import comb
from typing import Any

import numpy as np
import pytest

from hwnas.backends.fake import Fake, FakeEngine, faulty
from hwnas.errors import InputError
from hwnas.measure.order_statistics import confidence, decide, stages, tail
from hwnas.measure.promise import PromiseOptions, keep
from hwnas.nets import onnx
from hwnas.protocols import CallTimes
from hwnas.records import Promise
from hwnas.spec import BlockSpec

MODEL = onnx.chain([BlockSpec(kind="basic", c_in=32, c_out=32, size_in=32)] * 2)


def builder(device: Fake) -> Callable[[], FakeEngine]:
    setting = device.setting("fake", "fp32", 1, 1)
    return lambda: device.build(MODEL, setting)


PRICE = builder(Fake())().price_ms


def test_fixed_plans_of_the_literature() -> None:
    # 1 - 1/32; 1 - (1 + 8)/256; 1 - (1 + 11 + 55)/2048.
    assert confidence(5, 0) == pytest.approx(0.96875)
    assert confidence(8, 1) == pytest.approx(0.96484, abs=1e-5)
    assert confidence(11, 2) == pytest.approx(0.96729, abs=1e-5)


def enumerated_error(plan: tuple[tuple[int, float], ...]) -> float:
    """Share of all sequences of fair coins that the rule accepts: its exact error at the border."""
    length = plan[-1][0]
    accepted = 0
    for coins in itertools.product((True, False), repeat=length):
        for n in range(1, length + 1):
            verdict = decide(coins[:n], plan)
            if verdict is not None:
                accepted += verdict == "kept"
                break
    return accepted / 2.0**length


@pytest.mark.parametrize(("alpha", "sessions"), [(0.05, (5, 9, 12)), (0.1, (4, 7, 12))])
def test_sequential_rule_spends_no_more_than_alpha(alpha: float, sessions: tuple[int, ...]) -> None:
    """By hand at 0.05: 1/32; one miss among the first 5, then hits: 5/32 x 1/16; two among the
    first 9, one at least among the first 5, then hits: 30/512 x 1/8; 0.0483 in all. One session
    less at any stage is too much: 5/32 x 1/8 makes 0.0508, 30/512 x 1/4 makes 0.0557.
    """
    plan = stages(alpha, 2)
    assert tuple(n for n, _ in plan) == sessions
    # Giving up early can only accept less often than the rule that never does.
    assert enumerated_error(plan) <= plan[-1][1] <= alpha


def test_going_on_with_the_fixed_plans_would_spend_more() -> None:
    assert enumerated_error(((5, 0.0), (8, 0.0), (11, 0.0))) > 0.05


def test_several_tries_share_alpha() -> None:
    # Three tries: 0.05 / 3 = 0.0167 needs 6 of 6 (1/64 = 0.0156).
    assert stages(0.05 / 3, 2)[0] == pytest.approx((6, 1 / 64))


def test_decisions() -> None:
    plan = stages(0.05, 2)
    hit, miss = True, False
    assert decide([hit] * 4, plan) is None
    assert decide([hit] * 5, plan) == "kept"
    assert decide([miss] * 5, plan) == "broken"
    assert decide([miss] + [hit] * 7, plan) is None
    assert decide([miss] + [hit] * 8, plan) == "kept"
    assert decide([hit] + [miss] * 8, plan) == "broken"
    assert decide([hit, miss] * 3, plan) == "ambiguous"
    assert decide([miss] * 2 + [hit] * 10, plan) == "kept"


def test_tail_bound_is_the_binomials() -> None:
    # Without an excess: 0.95^59 = 0.0485, 0.99^299 = 0.0495, and one call fewer is not enough.
    assert tail(0, 59, 0.95)[0] == pytest.approx(0.95**59)
    assert tail(0, 58, 0.95)[0] > 0.05
    assert tail(0, 299, 0.99)[0] <= 0.05 < tail(0, 298, 0.99)[0]
    exact = sum(comb(40, k) * 0.1**k * 0.9 ** (40 - k) for k in range(3))
    assert tail(2, 40, 0.9)[0] == pytest.approx(exact)
    above = 1.0 - sum(comb(40, k) * 0.1**k * 0.9 ** (40 - k) for k in range(2))
    assert tail(2, 40, 0.9)[1] == pytest.approx(above)


@pytest.mark.parametrize(
    ("budget", "verdict", "sessions"), [(1.02, "kept", 5), (1.0, "kept", 5), (0.98, "broken", 5)]
)
def test_verdicts_on_a_calm_device(budget: float, verdict: str, sessions: int) -> None:
    promise, measured = keep(builder(Fake()), budget * PRICE)
    assert promise.verdict == verdict
    assert len(promise.session_ms) == sessions
    assert promise.misses == (0 if verdict == "kept" else sessions)
    assert promise.confidence == pytest.approx(0.96875 if verdict == "kept" else 1 - stages(0.05, 2)[-1][1])
    assert measured.floor_ms == pytest.approx(PRICE)
    assert (promise.budget_ms, promise.percentile, promise.note) == (budget * PRICE, "p50", "")


def test_budget_in_the_middle_of_differing_builds_is_not_called_kept_by_chance() -> None:
    """Builds scatter evenly around the budget: "kept" may come up in at most 5 % of the tests."""
    verdicts = [keep(builder(faulty(seed=s, build_spread=0.05)), PRICE)[0].verdict for s in range(200)]
    assert verdicts.count("kept") / 200 <= 0.05 + 2 * (0.05 * 0.95 / 200) ** 0.5
    assert verdicts.count("ambiguous") > 120


def test_more_tries_need_more_sessions() -> None:
    promise, _ = keep(builder(Fake()), PRICE, tries=3)
    assert len(promise.session_ms) == 6
    assert promise.confidence == pytest.approx(1 - 1 / 64)


def result(budget: float, percentile: Any = "p50", **faults: Any) -> Promise:
    return keep(builder(faulty(**{"seed": 11, **faults})), budget * PRICE, percentile)[0]


def test_neighbour_does_not_break_a_promise_on_the_median() -> None:
    kept = result(1.01, neighbour=0.6)
    assert kept.verdict == "kept"
    assert "other processes used the core" in kept.note
    assert result(0.99, neighbour=0.6).verdict != "kept"


def test_median_of_long_calls_beside_a_neighbour() -> None:
    """Calls of 7 ms are never alone on the core: by the wall they take twice the budget."""
    block = BlockSpec(kind="basic", c_in=64, c_out=64, size_in=32)
    model = onnx.chain([block] * 8)
    device = faulty(seed=1, neighbour=0.5)
    setting = device.setting("fake", "fp32", 1, 1)
    price = device.build(model, setting).price_ms
    assert price > 5.0
    promise, measured = keep(lambda: device.build(model, setting), 1.05 * price)
    assert promise.verdict == "kept"
    assert measured.median_ms > 1.5 * price
    assert "time slices" in promise.note


def test_tail_waits_for_enough_calls() -> None:
    """One call in 200 is slow in every session. 5 of 1000 do not refute that one in a hundred are:
    the binomial probability of so few is 0.066; 6 of 1200 do, with 0.045.
    """
    device = Fake()

    class OneSlow:
        setting = device.setting("fake", "fp32", 1, 1)

        def __init__(self) -> None:
            self.done = 0

        def time(self, calls: int) -> CallTimes:
            wall = np.ones(calls)
            at = np.arange(self.done, self.done + calls)
            wall[at % 200 == 150] = 1.9
            self.done += calls
            return CallTimes(wall, float(wall.sum()))

        def close(self) -> None:
            pass

    options = PromiseOptions(session_ms=1.0)
    promise, _ = keep(OneSlow, 1.5, "p99", options=options)  # type: ignore[arg-type]  # only what is asked for
    assert tail(5, 1000, 0.99)[0] == pytest.approx(0.066, abs=0.001)
    assert tail(6, 1200, 0.99)[0] == pytest.approx(0.045, abs=0.001)
    assert (promise.verdict, len(promise.session_ms)) == ("kept", 6)


def test_neighbour_that_leaves_is_waited_for() -> None:
    promise = result(1.05, "p95", neighbour=0.6, neighbour_window=(0.0, 0.3))
    assert promise.verdict == "kept"
    assert "sessions were repeated" in promise.note


def test_neighbour_that_stays_makes_the_tail_ambiguous_and_not_broken() -> None:
    promise = result(1.05, "p95", neighbour=0.6)
    assert promise.verdict == "ambiguous"
    assert "disturbed it" in promise.note
    assert "contention" in promise.note


def test_far_over_the_budget_is_broken_even_on_a_disturbed_machine() -> None:
    assert result(0.5, "p95", neighbour=0.6).verdict == "broken"


def test_a_throttle_that_begins_is_seen_by_the_sentinel() -> None:
    promise = result(1.02, throttle=1.3, throttle_window=(0.1, 1e9))
    assert promise.verdict == "ambiguous"
    assert "sentinel" in promise.note


@pytest.mark.parametrize(("spike", "verdict"), [(0.0, "kept"), (0.002, "kept"), (0.03, "broken")])
def test_p99_sees_spikes_that_the_median_does_not(spike: float, verdict: str) -> None:
    """Spikes of 0.4 ms: 0.2 % of calls leave p99 alone, 3 % do not."""
    options = PromiseOptions(session_ms=100.0)
    device = faulty(seed=3, spike=spike, spike_ms=0.4)
    assert keep(builder(device), 1.5 * PRICE, "p99", options=options)[0].verdict == verdict
    device = faulty(seed=3, spike=spike, spike_ms=0.4)
    assert keep(builder(device), 1.5 * PRICE, "p50", options=options)[0].verdict == "kept"


def test_time_over_is_ambiguous() -> None:
    device = Fake()
    promise, _ = keep(builder(device), PRICE, deadline_s=0.0, clock=device.clock)
    assert promise.verdict == "ambiguous"
    assert "time limit ended" in promise.note
    assert len(promise.session_ms) == 1


def test_every_session_loads_anew_and_closes() -> None:
    made: list[FakeEngine] = []
    build = builder(Fake())

    def load() -> FakeEngine:
        made.append(build())
        return made[-1]

    keep(load, PRICE)
    assert len(made) == 6  # five sessions and the sentinel
    for engine in made:
        with pytest.raises(InputError, match="closed"):
            engine.run(np.zeros((1, 32, 32, 32), np.float32))


@pytest.mark.parametrize("bad", [{"budget_ms": 0.0}, {"budget_ms": -1.0}, {"budget_ms": 1.0, "tries": 0}])
def test_bad_requests(bad: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        keep(builder(Fake()), **bad)
    with pytest.raises(InputError):
        PromiseOptions(alpha=0.7)
