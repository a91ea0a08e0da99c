"""Rounds over fresh sessions: the floor, its error, gates that are cured, and those that are not."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import pytest

from hwnas.backends.cuda.driver import GpuOutOfMemory
from hwnas.backends.fake import Fake, FakeEngine, faulty
from hwnas.errors import BuildError, InputError
from hwnas.measure.aggregate import floor_of
from hwnas.measure.grade import noise_grade
from hwnas.measure.session import SessionOptions
from hwnas.measure.timing import Builder, TimingOptions, measure
from hwnas.nets import onnx
from hwnas.records import Measurement
from hwnas.spec import BlockSpec

QUICK = TimingOptions.preset("quick")
MODELS = {
    f"{depth}x{width}": onnx.chain([BlockSpec(kind="basic", c_in=width, c_out=width, size_in=32)] * depth)
    for depth, width in ((1, 16), (3, 16), (1, 64))
}


def builders(device: Fake, models: Mapping[str, bytes] = MODELS) -> dict[str, Builder]:
    setting = device.setting("fake", "fp32", 1, 1)
    return {name: partial(device.build, model, setting) for name, model in models.items()}


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def take(device: Fake, options: TimingOptions = QUICK, **more: Any) -> dict[str, Measurement]:
    return measure(builders(device), options, rng=rng(), clock=device.clock, **more)


def truth() -> dict[str, float]:
    return {name: build().price_ms for name, build in builders(Fake()).items()}  # type: ignore[attr-defined]  # engines of the fake device have it


def test_a_calm_device_is_measured_exactly() -> None:
    found = take(Fake())
    for name, price in truth().items():
        m = found[name]
        assert (m.floor_ms, m.median_ms, m.p10_ms, m.p99_ms) == pytest.approx((price,) * 4)
        assert m.gates == ()
        assert m.se_ms == pytest.approx(0.0, abs=1e-12)
        assert len(m.session_ms) == QUICK.sessions
        assert m.wall_cpu_ratio == pytest.approx(1.0)
    assert list(found) == list(MODELS)


def test_floor_is_that_of_the_fastest_session() -> None:
    assert floor_of([5.0, 1.0, 3.0])[0] == pytest.approx(1.0)
    # The sentinel took at least 10 % more than in the state of reference, whatever session it was beside.
    assert floor_of([5.5, 1.1, 3.0], [1.3, 1.2, 1.1])[0] == pytest.approx(1.0)
    # Leaving out each of 1, 3, 5 in turn leaves the fastest 3, 1, 1: their variance about 5/3 is
    # 8/3 in all, times 2/3.
    assert floor_of([1.0, 3.0, 5.0])[1] == pytest.approx((2 / 3 * 8 / 3) ** 0.5)
    assert floor_of([2.0]) == pytest.approx((2.0, 0.04))


def test_standard_error_is_honest() -> None:
    """The jackknife error is about the scatter of repeated floors, neither half nor twice of it."""
    draws = np.random.default_rng(1).gamma(2.0, 0.01, (2000, 8)) + 1.0
    floors, errors = np.array([floor_of(list(row)) for row in draws]).T
    assert 0.7 < errors.mean() / floors.std() < 1.5


def test_percentiles_are_of_single_calls() -> None:
    device = faulty(seed=2, noise=0.04)
    m = measure(builders(device), TimingOptions.preset("thorough"), rng=rng(), clock=device.clock)["1x16"]
    price = truth()["1x16"]
    # 1 + 0.04 |normal|: the half-normal's quantiles are 0.1257, 0.6745, 1.6449, 1.9600, 2.5758.
    for value, quantile in (
        (m.p10_ms, 0.1257),
        (m.median_ms, 0.6745),
        (m.p90_ms, 1.6449),
        (m.p95_ms, 1.9600),
        (m.p99_ms, 2.5758),
    ):
        assert value == pytest.approx(price * (1 + 0.04 * quantile), rel=0.005)


@pytest.mark.parametrize(
    ("faults", "gate"),
    [
        ({"neighbour": 0.5}, "contention"),
        ({"drift_per_s": 0.5}, "sentinel"),
        ({"throttle": 1.3, "throttle_window": (0.2, 0.4)}, None),
        ({"throttle": 1.3, "throttle_window": (0.15, 1e9)}, "sentinel"),
        ({"spike": 0.02}, "spikes"),
        ({"build_spread": 0.08}, "sessions"),
        ({"noise": 0.3}, "spread"),
        ({"wander": 0.1}, "autocorrelation"),
    ],
)
def test_every_planted_fault_is_caught_by_a_named_gate(faults: dict[str, Any], gate: str | None) -> None:
    """A passing throttle is cured by repeating; what stays is named, never averaged in silence."""
    events: list[Mapping[str, Any]] = []
    found = take(
        faulty(seed=5, **faults), emit=lambda kind, fields: events.append(fields) if kind == "gate" else None
    )
    fired = {g for m in found.values() for g in m.gates}
    if gate is None:
        assert fired == set()
        assert [m.floor_ms for m in found.values()] == pytest.approx(list(truth().values()))
    else:
        assert gate in fired
        assert any(gate in event["gates"] and gate in event["text"] for event in events)


def test_floor_holds_beside_a_neighbour_that_never_leaves() -> None:
    found = take(faulty(seed=1, neighbour=0.5))
    for name, price in truth().items():
        assert found[name].floor_ms == pytest.approx(price, rel=0.005)
        assert "contention" in found[name].gates
        assert found[name].wall_cpu_ratio > 1.5  # type: ignore[operator]  # it was measured


def test_a_neighbour_that_leaves_is_repeated_away() -> None:
    calm = take(Fake())
    device = faulty(seed=1, neighbour=0.5, neighbour_window=(0.0, 0.12))
    found = take(device)
    assert all("contention" not in m.gates for m in found.values())
    assert [m.p99_ms for m in found.values()] == pytest.approx([m.p99_ms for m in calm.values()])


def test_repeats_stand_in_for_failed_sessions_only() -> None:
    """Three sessions, no more for precision; the first round falls into a neighbour's time."""
    options = TimingOptions(sessions=3, sessions_max=3, repeats=5, target=1.0)
    window = (0.0, 0.15)
    device = faulty(seed=1, neighbour=0.5, neighbour_window=window)
    found = measure(builders(device), options, rng=rng(), clock=device.clock)
    assert all(m.gates == () and len(m.session_ms) == 3 for m in found.values())
    device = faulty(seed=1, neighbour=0.5, neighbour_window=window)
    none = TimingOptions(sessions=3, sessions_max=3, repeats=0, target=1.0)
    found = measure(builders(device), none, rng=rng(), clock=device.clock)
    assert any(len(m.session_ms) < 3 for m in found.values())


def test_deadline_within_a_round_begins_no_further_session() -> None:
    device = Fake()
    # Looks at the sentinel take 10 ms, sessions 20 ms and a warm-up each: the time is over in the
    # second round.
    found = measure(builders(device), QUICK, rng=rng(), clock=device.clock, deadline_s=0.125)
    sessions = [len(m.session_ms) for m in found.values()]
    assert min(sessions) == 1
    assert 3 < sum(sessions) < 6


def test_repeats_are_not_wasted_on_a_machine_that_is_busy_for_good() -> None:
    device = faulty(neighbour=0.5)
    many = {f"{name}{i}": model for i in range(8) for name, model in MODELS.items()}
    found = measure(builders(device, many), QUICK, rng=rng(), clock=device.clock)
    assert all(len(m.session_ms) <= QUICK.sessions_max for m in found.values())


def test_rounds_go_on_until_the_interval_is_narrow() -> None:
    options = TimingOptions(sessions=3, sessions_max=40, target=0.002, session=SessionOptions(5.0))
    found = take(faulty(seed=3, noise=0.02), options)
    for m in found.values():
        assert "precision" not in m.gates
        assert 1.96 * m.se_ms <= 0.002 * m.floor_ms
    strict = TimingOptions(sessions=3, sessions_max=4, target=1e-5, session=SessionOptions(5.0))
    assert all("precision" in m.gates for m in take(faulty(seed=3, noise=0.02), strict).values())


def test_deadline_leaves_nothing_unmeasured_and_says_so() -> None:
    found = take(Fake(), deadline_s=0.0)
    assert list(found) == list(MODELS)
    for name, m in found.items():
        assert m.floor_ms == pytest.approx(truth()[name])
        assert "deadline" in m.gates
        assert len(m.session_ms) == 1


def test_order_is_random_and_seeded() -> None:
    def order(seed: int) -> list[str]:
        device = Fake()
        seen: list[str] = []

        def noted(name: str, build: Builder) -> Any:
            seen.append(name)
            return build()

        named = {name: partial(noted, name, build) for name, build in builders(device).items()}
        measure(named, QUICK, rng=rng(seed), clock=device.clock)
        return seen

    assert order(1) == order(1)
    assert order(1) != order(2)


def test_every_session_has_a_fresh_engine_and_all_are_closed() -> None:
    made: list[FakeEngine] = []
    device = Fake()

    def build() -> FakeEngine:
        made.append(device.build(MODELS["1x16"], device.setting("fake", "fp32", 1, 1)))
        return made[-1]

    measure({"a": build}, QUICK, rng=rng(), clock=device.clock)
    assert len(made) == QUICK.sessions + 1  # and the sentinel
    for engine in made:
        with pytest.raises(InputError, match="closed"):
            engine.time(1)


def test_engines_are_closed_when_timing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Fake()
    engine = device.build(MODELS["1x16"], device.setting("fake", "fp32", 1, 1))
    monkeypatch.setattr(engine, "time", lambda calls: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        measure({"a": lambda: engine}, QUICK, rng=rng(), clock=device.clock)
    with pytest.raises(InputError, match="closed"):
        engine.run(np.zeros((1, 16, 32, 32), np.float32))


def test_an_engine_that_does_not_build_is_reported_and_left_out() -> None:
    device = faulty(refuse=("HardSwish",))
    swish = onnx.chain([BlockSpec(kind="basic", c_in=8, c_out=8, size_in=8, act="hswish")])
    both = {"bad": swish, "good": MODELS["1x16"]}
    failed: dict[str, str] = {}
    found = measure(
        builders(device, both),
        QUICK,
        rng=rng(),
        clock=device.clock,
        on_failure=lambda name, exc: failed.update({name: str(exc)}),
    )
    assert list(found) == ["good"]
    assert "HardSwish" in failed["bad"]
    with pytest.raises(BuildError, match="HardSwish"):
        measure(builders(device, both), QUICK, rng=rng(), clock=device.clock)


def test_b7_an_engine_that_needs_more_memory_when_it_runs_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    device = Fake()
    large = "1x64"
    price = truth()[large]
    time = FakeEngine.time

    def full(self: FakeEngine, calls: int) -> Any:
        if self.price_ms == price:
            raise GpuOutOfMemory("the GPU has not enough memory for an allocation of 1073741824 bytes")
        return time(self, calls)

    monkeypatch.setattr(FakeEngine, "time", full)
    failed: dict[str, str] = {}
    found = take(device, on_failure=lambda name, exc: failed.update({name: str(exc)}))
    assert list(found) == [name for name in MODELS if name != large]
    assert "not enough memory" in failed[large]


def test_nothing_to_measure() -> None:
    assert measure({}, QUICK, rng=rng()) == {}


def test_progress_ends_at_its_total() -> None:
    seen: list[Mapping[str, Any]] = []
    take(Fake(), emit=lambda kind, fields: seen.append(fields) if kind == "progress" else None)
    assert seen[-1]["done"] == seen[-1]["total"] == QUICK.sessions * len(MODELS)
    assert {"task", "done", "total", "note"} <= set(seen[0])


def test_cold_caches_are_slower() -> None:
    cold = TimingOptions(session=SessionOptions(cache="cold"))
    found = take(Fake(), cold)
    for name, build in builders(Fake()).items():
        assert found[name].floor_ms == pytest.approx(build().cold_ms)  # type: ignore[attr-defined]  # engines of the fake device have it
        assert found[name].floor_ms > truth()[name]


def test_presets() -> None:
    assert TimingOptions.preset("default") == TimingOptions()
    with pytest.raises(InputError, match="quick, default, thorough"):
        TimingOptions.preset("fast")
    with pytest.raises(InputError, match="sessions_max"):
        TimingOptions(sessions=5, sessions_max=4)
    with pytest.raises(TypeError):
        TimingOptions(session=5, roundz=1)  # type: ignore[call-arg, arg-type]  # what is tried here is wrong


@pytest.mark.parametrize(
    ("faults", "grades"),
    [({}, {"quiet"}), ({"neighbour": 0.6}, {"noisy", "loud"}), ({"build_spread": 0.2}, {"loud"})],
)
def test_noise_grade(faults: dict[str, Any], grades: set[str]) -> None:
    grade = noise_grade(builders(faulty(seed=4, **faults)), rng=rng())
    assert grade["grade"] in grades
    assert grade["repeat_percent"] >= 0.0
    assert "%" in grade["text"]


def test_quick_preset_on_the_fake_device_takes_no_time() -> None:
    import time

    device = Fake()
    begun = time.perf_counter()
    measure(builders(device, {f"{k}{i}": m for i in range(10) for k, m in MODELS.items()}), QUICK, rng=rng())
    assert time.perf_counter() - begun < 3.0
