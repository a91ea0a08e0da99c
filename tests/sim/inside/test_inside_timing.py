"""Timing on a simulated clock with the faults of real ones: its steps, launches, heat, what NVML keeps back.

Each test is named after the finding of the review that it is about (docs/gpu.md).
"""

import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from driver_state import by_pycuda

from hwnas.backends.cuda import clock, opening
from hwnas.backends.cuda import state as gpu_state
from hwnas.backends.trt import timer as timers
from hwnas.backends.trt.backend import Trt
from hwnas.backends.trt.engine import TrtEngine
from hwnas.measure import levels
from hwnas.measure.promise import keep
from hwnas.measure.session import Gates, SessionOptions, run_session
from hwnas.measure.timing import TimingOptions, measure
from hwnas.nets import onnx as writer
from hwnas.spec import BlockSpec

MACHINE = os.environ["HWNAS_SIM_MACHINE"]
MODEL = writer.chain([BlockSpec(kind="basic", c_in=8, c_out=8, size_in=8)])
Build = Callable[[], TrtEngine]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Build]]:
    """Set up a card's faults; gives what builds the engine on it."""

    def with_faults(call_us: float = 40, tick_ns: int = 32, pycuda: bool = False, **more: object) -> Build:
        given: dict[str, object] = {
            "TRTSIM_CALL_US": call_us,
            "FAKECUDA_CLOCK": tick_ns,
            "FAKECUDA_EVENT_NS": 700,
        }
        given |= {"FAKECUDA_HOST_NS": 1000, **more}  # the host, too: nothing here depends on the machine
        for name, value in given.items():
            monkeypatch.setenv(name, str(value))
        monkeypatch.setattr(clock, "_known", {})
        monkeypatch.setattr(timers, "_last_busy_s", {})
        gpu_state.gpu_judge.cache_clear()
        if pycuda:
            monkeypatch.setattr(opening, "_open", {0: by_pycuda()})
        backend = Trt()
        setting = backend.setting(MACHINE, "fp32", 1, 1)
        return lambda: backend.build(MODEL, setting)

    yield with_faults
    gpu_state.gpu_judge.cache_clear()


@pytest.mark.parametrize("tick_ns", [1024, 500, 32])
@pytest.mark.parametrize("call_us", [6, 17, 60])
def test_m1_short_calls_are_right_whatever_the_clocks_step(
    gpu: Callable[..., Build], tick_ns: int, call_us: float
) -> None:
    engine = gpu(call_us, tick_ns)()
    found = run_session(engine, SessionOptions(10.0), Gates())
    known = engine._timer.known
    engine.close()
    assert known is not None
    # The review asks for 0.5 %; where the clock is fine, what remains is the empty pair of events.
    assert found.floor_ms == pytest.approx(call_us / 1e3, rel=0.005 if tick_ns > 500 else 0.002)
    assert known.clock.tick_ms == pytest.approx(tick_ns / 1e6, rel=0.05)
    assert known.clock.tick_ms <= 0.002 * known.clock.span_ms
    assert found.gates == ()
    # What the step leaves is part of the error: floors that all end on one step are not exact.
    assert 0 < found.error_ms < 0.002 * found.floor_ms


def test_m1_floors_that_are_all_alike_are_not_exact(gpu: Callable[..., Build]) -> None:
    found = measure({"net": gpu(20, 1024)}, TimingOptions.preset("quick"), rng=np.random.default_rng(0))[
        "net"
    ]
    assert found.se_ms > 0
    assert abs(found.floor_ms - 0.02) <= max(3 * found.se_ms, 0.005 * 0.02)


def test_m2_a_graph_is_what_runs_and_what_is_timed(gpu: Callable[..., Build]) -> None:
    engine = gpu(60, FAKECUDA_LAUNCH_NS=6000)()
    times = engine.time(5)
    launched = engine.run(np.zeros(engine.shape, np.float32)).shape
    assert engine.graphs
    assert "enqueue-bound" not in engine.watch()
    engine.close()
    assert launched == (1, 8, 8, 8)
    assert np.median(times.wall_ms) == pytest.approx(0.06, rel=0.01)  # one launch, however many kernels
    assert times.host_ms is not None
    assert times.enqueue_ms is not None
    assert times.enqueue_ms < times.host_ms
    assert times.host_ms > 0.06  # what a program waits holds the launch


@pytest.mark.parametrize("captures", [True, False])
def test_m2_without_graphs_what_the_host_needs_is_what_is_timed(
    gpu: Callable[..., Build], captures: bool
) -> None:
    """Six kernels of 1 us each, launched in 40 us each: a program waits for the host, not for the GPU."""
    more = {"FAKECUDA_LAUNCH_NS": 40_000, **({} if captures else {"FAKECUDA_NO_CAPTURE": 1})}
    engine = gpu(6, pycuda=captures, **more)()
    times = engine.time(5)
    gates, kernels = engine.watch(), engine._ways.engine.num_layers
    engine.close()
    assert "enqueue-bound" in gates
    assert times.enqueue_ms is not None
    assert np.median(times.wall_ms) >= kernels * 0.04  # and not 0.006
    assert times.enqueue_ms >= kernels * 0.04


def test_m2_the_gate_is_reported_and_decides_nothing(gpu: Callable[..., Build]) -> None:
    promise, measured = keep(gpu(6, pycuda=True, FAKECUDA_LAUNCH_NS=40_000), 50.0)
    assert promise.verdict == "kept"
    assert "enqueue-bound" in measured.gates
    assert measured.enqueue_ms is not None
    assert measured.host_ms is not None


BOOST = "1923,1695,300"  # falls by 12 % within a second of work


def test_m3_a_warm_card_fires_no_gate_and_its_promise_is_decided(gpu: Callable[..., Build]) -> None:
    """Both clocks are simulated, the card's and the host's, so that a busy machine changes nothing."""
    build = gpu(300, 1024, FAKECUDA_BOOST=BOOST, FAKECUDA_JITTER=0.002)
    options = TimingOptions.preset("quick")
    found = measure({"net": build}, options, rng=np.random.default_rng(0))["net"]
    assert found.gates == ()
    warm_ms = 0.3 * 1923 / 1695
    kept, _ = keep(build, 1.05 * warm_ms)
    assert (kept.verdict, kept.misses) == ("kept", 0)
    broken, _ = keep(build, 0.95 * warm_ms)
    assert broken.verdict == "broken"


class ReadOff:
    """What NVML says, look after look."""

    def __init__(self, mhz: list[int]) -> None:
        self._mhz = iter(mhz)

    def state(self) -> gpu_state.GpuState:
        return gpu_state.GpuState(next(self._mhz), 5000, 70, 300.0, (), 0)


def test_m3_a_clock_is_judged_by_the_last_ones() -> None:
    """By hand: forty steps of 6 MHz down from 1923 stay within 42 MHz (2.5 %) of the median of fifteen."""
    falling = [1923 - 6 * step for step in range(40)]
    judge = gpu_state.Judge(ReadOff([*falling, 1560]))  # type: ignore[arg-type]  # only its state is asked for
    assert [judge.gates() for _ in falling] == [()] * 40
    assert judge.gates() == ("clock",)  # 9 % below the median of 1731


def test_m3_a_card_that_warms_is_compared_with_its_level_of_now(gpu: Callable[..., Build]) -> None:
    engine = gpu(300)()
    assert levels.warms(engine)
    engine.close()
    looks = [1.0] * 10 + [1.13] * 20
    assert levels.level_ms(looks, of_now=True) == 1.13
    assert levels.level_ms(looks, of_now=False) == 1.0


def test_m3_what_holds_a_card_back_shows_under_load_only(gpu: Callable[..., Build]) -> None:
    engine = gpu(300, FAKENVML_LOADED_REASONS=0x40)()
    idle = gpu_state.gpu_judge(engine._driver.properties.bus_id)
    assert idle is not None
    assert idle.gates() == ()
    engine.time(3)
    assert "throttle:HwThermalSlowdown" in engine.watch()
    engine.close()


def test_m3_a_card_that_idled_is_kept_busy_before_it_is_timed(
    gpu: Callable[..., Build], monkeypatch: pytest.MonkeyPatch
) -> None:
    build = gpu(200)
    engine = build()
    launched: list[int] = []
    call = engine._ways.call

    def counted(way: Any) -> None:
        launched.append(1)
        call(way)

    monkeypatch.setattr(engine._ways, "call", counted)
    engine.time(1)
    first = len(launched)
    engine.time(1)
    second = len(launched) - first
    engine.close()
    assert second <= 5
    assert first >= 100  # a fifth of a second of calls of 0.2 ms, and time for a slow host


def test_m4_a_second_timing_prepares_nothing(
    gpu: Callable[..., Build], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = gpu(200)()
    engine.time(3)
    uploads: list[int] = []
    downloads: list[int] = []
    driver: Any = engine._driver
    upload, download = driver.upload, driver.download

    def uploaded(address: int, array: Any, stream: int) -> None:
        uploads.append(array.nbytes)
        upload(address, array, stream)

    def downloaded(array: Any, address: int, stream: int) -> None:
        downloads.append(array.nbytes)
        download(array, address, stream)

    monkeypatch.setattr(driver, "upload", uploaded)
    monkeypatch.setattr(driver, "download", downloaded)
    engine.time(3)
    assert uploads == []
    assert sum(downloads) == 4 * driver.properties.multiprocessors  # partial results of the comparison
    engine.run(np.zeros(engine.shape, np.float32))
    uploads.clear()
    engine.time(3)  # another input lay there
    assert len(uploads) == 1
    engine.close()


def test_m4_the_delay_shrinks_again(gpu: Callable[..., Build]) -> None:
    engine = gpu(200)()
    engine.time(3)
    engine._timer.delay_ns = timers.LONGEST_DELAY_NS
    engine.time(3)
    assert engine._timer.delay_ns < timers.LONGEST_DELAY_NS / 4
    engine.close()


def test_m7_no_stream_waits_for_the_legacy_one(gpu: Callable[..., Build]) -> None:
    """The fixture of every test here counts such streams; this one makes some."""
    for pycuda in (False, True):
        gpu(pycuda=pycuda)().close()


def test_b4_nvml_that_refuses_is_no_error(gpu: Callable[..., Build], monkeypatch: pytest.MonkeyPatch) -> None:
    build = gpu(100, FAKENVML_FORBIDDEN=1)
    engine = build()
    engine.time(2)
    assert engine.watch() == ()
    engine.close()
