"""Timing a TensorRT engine by CUDA events, in the mode in which it is run.

With CUDA graphs (cuda-python) a call is one launch, and what is timed is the graph's replay. Without them
(PyCUDA) TensorRT launches kernel by kernel: where the host needs longer for that than the GPU for the work,
a call takes what the host takes, so nothing is hidden then, and the gate `enqueue-bound` says it. Else calls
are queued behind a kernel that keeps the stream busy, so that the GPU never waits for the host.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from hwnas.arrays import Float32s
from hwnas.backends.base import random_input
from hwnas.backends.cuda.clock import LEAST_MS, EventClock, event_clock
from hwnas.backends.cuda.driver import CudaDriver, GpuError, Owned
from hwnas.backends.cuda.kernels import Kernels
from hwnas.backends.cuda.state import gpu_judge
from hwnas.backends.trt.ways import Way, Ways
from hwnas.protocols import CallTimes

MOST_SPANS = 64  # timed behind one delay
FIRST_DELAY_NS, LONGEST_DELAY_NS = 100_000, 50_000_000
HOSTED = 10  # calls that are waited for one by one, to know what a program waits
ENQUEUE_BOUND = 0.8  # of the device's time, as trtexec warns
WARM_S, COOL_S = 0.2, 1.0  # a GPU that idled for the second is kept busy for the first before it is timed
LOAD_MS = 8.0  # of untimed calls, under which the GPU is asked what holds it back
DRIFT = 1e-2  # of the largest score: sums in another order stay far below


@lru_cache(maxsize=2)
def resident_input(shape: tuple[int, ...]) -> Float32s:
    """The input that is timed: making one of 32 images of 224 pixels takes longer than timing it."""
    return random_input(shape)


@dataclass
class FoundOut:
    """What is found out once about an engine, and since.

    Attributes:
        clock: of the GPU.
        scale: largest score of the resident input.
        call_ms: device time of a call, as far as it is known.
        host_ms, enqueue_ms: what a program waits for a call, and what starting it takes.
        bound: whether calls take what the host takes.
        most: spans behind one delay.
    """

    clock: EventClock
    scale: float
    call_ms: float = 0.0
    host_ms: float = 0.0
    enqueue_ms: float = 0.0
    bound: bool = False
    most: int = MOST_SPANS


_last_busy_s: dict[int, float] = {}  # by driver: when it was last seen at work


class Timer:
    """Times the calls of one engine at its largest batch.

    Attributes:
        known: of the engine; None before it was timed.
        resident: whether the input that is timed lies in device memory; who puts another there says so.
        delay_ns: how long the next delay keeps the stream busy.
    """

    def __init__(self, ways: Ways, driver: CudaDriver, owned: Owned, kernels: Kernels) -> None:
        """Reserve what timing needs; it is given back with `owned`."""
        self._ways, self._driver, self._owned, self.kernels = ways, driver, owned, kernels
        self._stream = ways.full.stream
        self._expected = owned.alloc(ways.room()[1])  # the scores of the first call
        self._events = [(owned.event(), owned.event()) for _ in range(MOST_SPANS)]
        self._flush_bytes = 2 * max(driver.properties.l2_bytes, 1 << 20)
        self._flush_buffer = 0
        self.known: FoundOut | None = None
        self.resident = False
        self.delay_ns = FIRST_DELAY_NS

    def time(self, calls: int, *, cold: bool) -> CallTimes:
        """Device time of calls on resident input, in the mode of `run`.

        So many calls are timed at once that the step of the GPU's clock is below 0.2 % (`EventClock`); with
        emptied caches each is timed by itself. A batch in which the GPU waited for the host is thrown away
        and repeated behind a longer delay.

        Raises:
            GpuError: a call failed, or the timed calls gave different scores than the first call one.
        """
        values: list[float] = []
        known = self.ready()
        if cold and not self._flush_buffer:
            self._flush_buffer = self._owned.alloc(self._flush_bytes)
        each = 1 if cold else self.each(known)
        while len(values) < calls:
            count = min(known.most, self._spans(each), calls - len(values))
            done = self._timed(known, count, each, cold)
            if done is None and count > 1 and self.delay_ns >= LONGEST_DELAY_NS:
                known.most = max(1, count // 2)  # the host needs longer than any delay for so many
            values += done or ()
        self.check_scores(self._ways.full, known.scale)
        _last_busy_s[id(self._driver)] = time.perf_counter()
        return CallTimes(
            np.array(values),
            each=each,
            error_ms=known.clock.error_ms / each,
            host_ms=known.host_ms,
            enqueue_ms=known.enqueue_ms,
        )

    def ready(self) -> FoundOut:
        """Everything that is prepared once: input, reference scores, warmth, times by the host's clock."""
        self._ways.of(self._ways.full.size)
        if not self.resident:
            self.upload(self._ways.full)
            self.resident = True
        if self.known is None:
            clock = event_clock(self._driver, self.kernels, self._stream)
            known = self.known = FoundOut(clock, self._reference())
            self._by_host(known)
            rough = self._timed(known, 1, max(1, min(4, self._ways.fit())), cold=False)
            while rough is None:
                rough = self._timed(known, 1, max(1, min(4, self._ways.fit())), cold=False)
            known.call_ms = max(rough[0], 1e-6)
            known.bound = self._ways.full.graph is None and known.enqueue_ms > ENQUEUE_BOUND * known.call_ms
            if known.bound:
                known.call_ms = max(known.call_ms, known.enqueue_ms)
        self._warm(self.known)
        return self.known

    def upload(self, way: Way) -> None:
        """Put the input that is timed where a way has its own."""
        resident = resident_input(self._ways.full_shape).astype(self._ways.takes, copy=False)
        self._driver.upload(way.images, resident, way.stream)
        self._driver.synchronize(way.stream)

    def _reference(self) -> float:
        """Run once and keep the scores on the device; the largest of them, found there."""
        count = int(np.prod(self._ways.scores_shape))
        self._ways.attach(self._ways.full, self._expected)
        self._ways.start(self._ways.full)
        self._ways.attach(self._ways.full)
        self._driver.fill(self._ways.full.scores, 0, self._ways.gives.itemsize * count, self._stream)
        return self._difference(self._ways.full)

    def _difference(self, way: Way) -> float:
        """Largest difference between the last scores and those of the first call."""
        count, half = int(np.prod(self._ways.scores_shape)), self._ways.gives == np.float16
        return self.kernels.max_abs_diff(way.scores, self._expected, count, way.stream, half=half)

    def _by_host(self, known: FoundOut) -> None:
        """Time calls one by one by the host's clock: until each is queued, and until it is done."""
        self._ways.call(self._ways.full)
        self._driver.synchronize(self._stream)
        queued, done = [], []
        for _ in range(HOSTED):
            begun = time.perf_counter()
            self._ways.call(self._ways.full)
            queued.append(time.perf_counter() - begun)
            self._driver.synchronize(self._stream)
            done.append(time.perf_counter() - begun)
        known.enqueue_ms, known.host_ms = (float(np.median(v)) * 1e3 for v in (queued, done))

    def _warm(self, known: FoundOut) -> None:
        """Keep a GPU busy that idled: its clocks fall within seconds, and rise when there is work."""
        now = time.perf_counter()
        if now - _last_busy_s.get(id(self._driver), -COOL_S) < COOL_S:
            return
        calls = max(1, min(self._ways.fit(), int(LOAD_MS / max(known.call_ms, 1e-3))))
        ends = now + WARM_S
        while time.perf_counter() < ends:
            for _ in range(calls):
                self._ways.call(self._ways.full)
            self._driver.synchronize(self._stream)
        _last_busy_s[id(self._driver)] = time.perf_counter()

    def each(self, known: FoundOut) -> int:
        """Calls that are timed at once."""
        return int(np.clip(np.ceil(known.clock.span_ms / known.call_ms), 1, self._ways.fit()))

    def _spans(self, each: int) -> int:
        return int(np.clip(self._ways.fit() // each, 1, MOST_SPANS))

    def check_scores(self, way: Way, scale: float) -> None:
        """Compare on the device what the last timed call gave with the first, untimed one.

        Fast because wrong is no speed: an unstable GPU, or work that overtook its input, shows here.
        """
        if not np.isfinite(scale):
            return  # random weights overflowed: nothing to compare
        off = self._difference(way)
        if not off <= DRIFT * max(scale, 1e-6):  # a NaN is no drift either
            raise GpuError(
                f"the timed calls gave different scores than the first call (off by {off:.3g}, scores reach "
                f"{scale:.3g}): the GPU does not compute reliably"
            )

    def _timed(self, known: FoundOut, count: int, each: int, cold: bool) -> list[float] | None:
        """Milliseconds of a call, over `count` spans of `each`; None, and a longer delay next time, where the
        GPU had to wait for the host.
        """
        driver, stream, events = self._driver, self._stream, self._events[:count]
        if not known.bound:
            self.kernels.delay(self.delay_ns, stream)
        begun = time.perf_counter_ns()
        for start, end in events:
            if cold:
                self.kernels.flush_l2(self._flush_buffer, self._flush_bytes, stream)
            driver.record(start, stream)
            for _ in range(each):
                self._ways.call(self._ways.full)
            driver.record(end, stream)
        queued_ns = time.perf_counter_ns() - begun
        waited = not known.bound and driver.happened(events[0][0])
        driver.synchronize(stream)
        if waited and (count > 1 or self.delay_ns < LONGEST_DELAY_NS):
            self.delay_ns = min(2 * self.delay_ns, LONGEST_DELAY_NS)
            return None
        # Half again what the host needed: a delay is time in which the GPU does nothing, and cools.
        self.delay_ns = int(np.clip(1.5 * queued_ns, FIRST_DELAY_NS, LONGEST_DELAY_NS))
        empty_ms = known.clock.empty_ms
        return [max(driver.elapsed_ms(start, end) - empty_ms, LEAST_MS) / each for start, end in events]

    def watch(self) -> tuple[str, ...]:
        """Names of what made the last timings doubtful: throttling, a slow clock, other processes, the host.

        What holds a GPU back shows under load only, so it is asked while calls run that nobody times.
        """
        known = self.known
        bound = ("enqueue-bound",) if known is not None and known.bound else ()
        judge = gpu_judge(self._driver.properties.bus_id)
        if judge is None:
            return bound
        if known is None:
            return (*judge.gates(), *bound)
        with self._driver:
            for _ in range(max(1, min(self._ways.fit(), int(LOAD_MS / known.call_ms)))):
                self._ways.call(self._ways.full)
            gates = judge.gates()
            self._driver.synchronize(self._stream)
        return (*gates, *bound)
