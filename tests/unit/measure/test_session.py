"""One session: what its statistics are on made-up calls, and which gate each fault fires."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest

from hwnas.backends.fake import Fake, faulty
from hwnas.errors import InputError
from hwnas.measure.session import Batch, Gates, SessionOptions, TimingSession, judge, lag1, run_session
from hwnas.nets import onnx
from hwnas.protocols import CallTimes
from hwnas.spec import BlockSpec

MODEL = onnx.chain([BlockSpec(kind="basic", c_in=16, c_out=16, size_in=32)] * 2)


def session(device: Fake, **options: float) -> TimingSession:
    engine = device.build(MODEL, device.setting("fake", "fp32", 1, 1))
    return run_session(engine, SessionOptions(**options), Gates())  # type: ignore[arg-type]  # options of several types


def batch(*wall_ms: float, cpu_ms: float | None = None, threads: int = 1) -> Batch:
    wall = np.array(wall_ms)
    return Batch(wall, wall.sum() if cpu_ms is None else cpu_ms, threads)


def test_a_calm_device_fires_nothing() -> None:
    calm = session(Fake())
    assert calm.gates == ()
    assert calm.floor_ms == calm.median_ms
    assert calm.wall_cpu_ratio == pytest.approx(1.0)
    assert calm.disturbed == 0.0


def test_floor_is_the_low_percentile_of_undisturbed_calls() -> None:
    # Undisturbed: 1.0 .. 1.4 in steps of 0.1; of fewer than twenty calls the shortest counts. The other took
    # 30 ms by the wall for 2 ms of CPU time.
    found = judge([batch(1.0, 1.1, 1.2, 1.3, 1.4), batch(15.0, 15.0, cpu_ms=2.0)], Gates())
    assert found.floor_ms == pytest.approx(1.0)
    # All seven calls: 1.0 1.1 1.2 1.3 1.4 15 15.
    assert found.median_ms == pytest.approx(1.3)
    assert found.disturbed == 0.5
    assert found.wall_cpu_ratio == pytest.approx(36.0 / 8.0)
    assert "contention" in found.gates


def test_of_many_calls_the_shortest_ones_do_not_decide() -> None:
    # Of 1, 2, ... 101 the 5 % quantile is the sixth: 5 % of 100 steps.
    assert judge([batch(*map(float, range(1, 102)))], Gates()).floor_ms == pytest.approx(6.0)


def test_cpu_time_stands_in_where_every_call_was_disturbed() -> None:
    found = judge([batch(30.0, cpu_ms=10.0), batch(25.0, cpu_ms=12.0), batch(40.0, cpu_ms=11.0)], Gates())
    assert found.disturbed == 1.0
    # The shortest of 10, 11, 12.
    assert found.floor_ms == pytest.approx(10.0)


def test_several_threads_are_compared_with_their_own_best() -> None:
    # Two threads that wait for each other use 1.6 ms of CPU time in 1 ms: ratio 1.25 when calm.
    calm = judge([batch(1.0, cpu_ms=1.6, threads=2)] * 10, Gates())
    assert calm.gates == ()
    busy = judge([batch(1.0, cpu_ms=1.6, threads=2)] * 5 + [batch(2.0, cpu_ms=1.6, threads=2)] * 5, Gates())
    assert "contention" in busy.gates
    assert busy.floor_ms == pytest.approx(1.0)


def test_without_cpu_time_there_is_no_ratio() -> None:
    found = judge([Batch(np.full(10, 2.0), None, 1)] * 3, Gates())
    assert found.wall_cpu_ratio is None
    assert found.gates == ()


@pytest.mark.parametrize(
    ("faults", "gate"),
    [
        ({"neighbour": 0.5}, "contention"),
        ({"wander": 0.1, "wander_period_s": 0.02}, "autocorrelation"),
        ({"noise": 0.3}, "spread"),
        ({"spike": 0.007, "spike_ms": 1.0}, "spikes"),
    ],
)
def test_each_fault_has_its_gate(faults: dict[str, float], gate: str) -> None:
    found = session(faulty(seed=3, **faults), session_ms=200.0)
    assert gate in found.gates


@pytest.mark.parametrize("faults", [{"noise": 0.01}, {"wander": 0.005}])
def test_what_is_small_fires_nothing(faults: dict[str, float]) -> None:
    assert session(faulty(seed=3, **faults), session_ms=100.0).gates == ()


def test_floor_holds_beside_a_neighbour() -> None:
    device = faulty(seed=1, neighbour=0.6)
    alone = session(Fake()).floor_ms
    assert session(device).floor_ms == pytest.approx(alone, rel=0.005)


def test_floor_of_long_calls_holds_beside_a_neighbour() -> None:
    """Calls of 7 ms never fit between two slices of 3 ms."""
    block = BlockSpec(kind="basic", c_in=64, c_out=64, size_in=32)
    model = onnx.chain([block] * 8)
    floors = []
    for device in (Fake(), faulty(seed=1, neighbour=0.6)):
        engine = device.build(model, device.setting("fake", "fp32", 1, 1))
        assert engine.price_ms > 5.0
        floors.append(run_session(engine, SessionOptions(), Gates()).floor_ms)
    assert floors[1] == pytest.approx(floors[0], rel=0.005)


class Warming:
    """An engine whose first calls are slow: 3.0, 2.5, 2.0, 1.5, 1.0, 1.0, ... ms."""

    def __init__(self, never: bool = False) -> None:
        self.setting = Fake().setting("fake", "fp32", 1, 1)
        self.done = 0
        self.never = never

    def time(self, calls: int) -> CallTimes:
        at = np.arange(self.done, self.done + calls)
        self.done += calls
        wall = 1000.0 * 0.97**at if self.never else np.maximum(1.0, 3.0 - 0.5 * at)
        return CallTimes(wall.astype(np.float64), float(wall.sum()))


def test_warm_up_goes_on_until_steady() -> None:
    found = run_session(cast(Any, Warming()), SessionOptions(), Gates())
    assert found.wall_ms.max() == 1.0
    assert found.gates == ()


def test_an_engine_that_never_gets_steady_is_named() -> None:
    found = run_session(
        cast(Any, Warming(never=True)),
        SessionOptions(session_ms=2000.0, batch_ms=1.0),
        Gates(),
    )
    assert "warmup" in found.gates


def test_length_of_a_session() -> None:
    # About 0.2 ms a call: the time decides; 100 ms a call: the number of calls, then the limit.
    short = session(Fake(), session_ms=10.0)
    assert short.wall_ms.sum() == pytest.approx(10.0, abs=2.5)
    slow = Warming()
    slow.time = lambda calls: CallTimes(np.full(calls, 100.0), 100.0 * calls)  # type: ignore[method-assign]  # stands in for the method
    assert len(run_session(slow, SessionOptions(calls=7), Gates()).wall_ms) == 7  # type: ignore[arg-type]  # only what is asked for
    limited = SessionOptions(calls=7, most_ms=250.0)
    assert len(run_session(slow, limited, Gates()).wall_ms) == 3  # type: ignore[arg-type]  # only what is asked for


def test_cold_caches_flush_before_every_call() -> None:
    device = Fake()
    engine = device.build(MODEL, device.setting("fake", "fp32", 1, 1))
    cold = run_session(engine, SessionOptions(cache="cold"), Gates(), flush=engine.flush)
    assert set(cold.wall_ms) == {engine.cold_ms}
    with pytest.raises(InputError, match="cannot be flushed"):
        run_session(engine, SessionOptions(cache="cold"), Gates())


def test_an_engine_may_report_gates_of_its_own() -> None:
    device = Fake()
    engine = device.build(MODEL, device.setting("fake", "fp32", 1, 1))
    engine.watch = lambda: ("throttle",)  # type: ignore[attr-defined]  # some engines have it
    assert run_session(engine, SessionOptions(), Gates()).gates == ("throttle",)


def test_autocorrelation_of_known_sequences() -> None:
    # +1 -1 +1 -1 ...: each value times its neighbour is -1, n - 1 of n products.
    assert lag1(np.tile([1.0, -1.0], 50)) == pytest.approx(-0.99)
    assert lag1(np.ones(10)) == 0.0
    assert abs(lag1(np.random.default_rng(0).standard_normal(4000))) < 0.05
    # One wild value does not hide a slow wave.
    wave = np.sin(np.arange(200) / 10)
    wave[100] = 1e6
    assert lag1(wave) > 0.9


@pytest.mark.parametrize("bad", [{"session_ms": 0.0}, {"calls": 0}, {"batch_ms": -1.0}, {"cache": "warm"}])
def test_bad_options(bad: dict[str, object]) -> None:
    with pytest.raises(InputError):
        SessionOptions(**bad)  # type: ignore[arg-type]  # what is tried here is wrong
