"""How well a GPU's event clock tells time: its step, and what two events take that have nothing between.

CUDA promises a resolution of about half a microsecond; cards were seen whose every time stamp is a multiple
of 1.024 us. A call of 10 us timed by itself would then be off by up to a tenth, and every session by the
same amount. So the step is measured, and as many calls are timed together as make it small.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hwnas.arrays import Float64s
from hwnas.backends.cuda.driver import CudaDriver, Owned
from hwnas.backends.cuda.kernels import Kernels

PAIRS = 48
LEAST_MS = 1e-6  # a nanosecond: less is rounding of the single-precision milliseconds that CUDA gives
SPAN_MS = 0.2  # timed at once at least
STEPS = 500  # that a span lasts at least: a step is then 0.2 % of it
# The stream is kept busy while events are queued behind; longer where the host is slow.
DELAY_NS, ATTEMPTS = 2_000_000, 5


@dataclass(frozen=True)
class EventClock:
    """The step of a clock, and the least time between two events, in milliseconds."""

    tick_ms: float
    empty_ms: float

    @property
    def span_ms(self) -> float:
        """How long a span must last, that step and empty pair are at most 0.2 % of it."""
        return max(SPAN_MS, STEPS * self.tick_ms, STEPS * self.empty_ms / 2)

    @property
    def error_ms(self) -> float:
        """Standard error of one span: both ends fall anywhere in a step, and the empty pair that is taken
        off may hide behind the work in part.
        """
        return float(np.hypot(self.tick_ms, self.empty_ms) / 12**0.5)


_known: dict[int, EventClock] = {}


def event_clock(driver: CudaDriver, kernels: Kernels, stream: int) -> EventClock:
    """The clock of a GPU, measured once a process. The context must be current."""
    if id(driver) not in _known:
        _known[id(driver)] = _measured(driver, kernels, stream)
    return _known[id(driver)]


def _measured(driver: CudaDriver, kernels: Kernels, stream: int) -> EventClock:
    with Owned(driver) as owned:
        first = owned.event()
        pairs = [(owned.event(), owned.event()) for _ in range(PAIRS)]
        for attempt in range(ATTEMPTS):
            kernels.delay(DELAY_NS << attempt, stream)
            driver.record(first, stream)
            for i, (start, end) in enumerate(pairs):
                driver.record(start, stream)
                driver.record(end, stream)
                kernels.delay(137 * i, stream)  # so that the pairs fall anywhere in a step
            waited = driver.happened(first)
            driver.synchronize(stream)
            if not waited:
                break
        at = np.array([driver.elapsed_ms(first, event) for pair in pairs for event in pair])
        empty = np.array([driver.elapsed_ms(start, end) for start, end in pairs])
    return EventClock(tick_of(at), float(np.median(empty)))


def tick_of(at_ms: Float64s) -> float:
    """The step of which all times are multiples: the least difference between times, or between intervals,
    which fall on finer places where events are far apart; 0 where all are alike.
    """
    steps = np.diff(np.unique(at_ms))
    steps = steps[steps > LEAST_MS]
    finer = np.diff(np.unique(steps))
    every = np.concatenate([steps, finer[finer > LEAST_MS]])
    return float(every.min()) if every.size else 0.0
