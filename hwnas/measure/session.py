"""One session: a fresh engine, warmed up until steady, timed in short batches, judged by gates.

Why batches. Another process that takes the core makes a call longer, but only while it has it. A
batch is about as long as the scheduler lets a process run (2 ms), so under load some batches stay
undisturbed, and wall time against CPU time tells which: undisturbed are batches whose wall time is
within 3 % of their CPU time. The session's floor is a low quantile of single calls in undisturbed
batches. Calls longer than the scheduler's slice never run undisturbed on a busy machine; then the
CPU time of a call replaces its wall time (one thread only, where the two are equal on an idle
machine).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol, runtime_checkable

import numpy as np

from hwnas.arrays import Float64s
from hwnas.errors import InputError
from hwnas.protocols import CallTimes, Engine

FLOOR_PERCENTILE = 5.0  # chosen on recorded traces: docs/evidence/measuring.md
UNDISTURBED = 1.03  # wall time of a batch over its CPU time
STEADY = 0.98  # a warm-up batch that is faster than this share of the best before is progress
SPIKE = 3.0  # medians
WARMUP_CALLS = 3
WARMUP_BATCHES = 8
SUSTAINED_MS = 50.0  # of calls between two looks at the clock
MOST_CALLS = 20_000  # in a batch; keeps the arrays of an absurdly fast engine small


@dataclass(frozen=True)
class Gates:
    """Limits beyond which a session is not trusted, in latency.md's order.

    Attributes:
        contention: wall time over CPU time per thread of the whole session.
        autocorrelation: lag-1 correlation of undisturbed calls (only where they scatter by more
            than `scatter`, so that a smooth wave of a tenth of a percent does not fire).
        scatter: distance of p90 from p10 over the median, for the gate above.
        spread: interquartile range of undisturbed calls over their median.
        spikes: share of calls longer than three medians, while no other process used the core.
        sentinel: slowdown of the sentinel next to the session against its own best.
        sessions: spread of the floors of one engine's undisturbed sessions: builds that differ.
        load: cores that other processes used beyond those that this one left free.
    """

    contention: float = 1.05
    autocorrelation: float = 0.3
    scatter: float = 0.03
    spread: float = 0.05
    spikes: float = 0.005
    sentinel: float = 0.02
    sessions: float = 0.04
    load: float = 0.25


@dataclass(frozen=True)
class SessionOptions:
    """How long a session is.

    Attributes:
        session_ms: time spent on timed calls.
        calls: timed calls at least, whatever they take.
        most_ms: time after which it ends even with fewer calls.
        batch_ms: time between two looks at the CPU clock.
        cache: "hot", calls back to back; "cold", caches flushed before each call.
    """

    session_ms: float = 40.0
    calls: int = 5
    most_ms: float = 2000.0
    batch_ms: float = 2.0
    cache: Literal["hot", "cold"] = "hot"

    def __post_init__(self) -> None:
        if min(self.session_ms, self.batch_ms) <= 0 or self.calls < 1:
            raise InputError(f"session_ms, batch_ms and calls must be positive, got {self}")
        if self.cache not in ("hot", "cold"):
            raise InputError(f"cache {self.cache!r} is neither 'hot' nor 'cold'")


@dataclass(frozen=True)
class TimingSession:
    """What one session gave; times in milliseconds.

    Attributes:
        wall_ms: every timed call, in order.
        undisturbed_ms: calls of undisturbed batches, in order (CPU times where there were none).
        floor_ms, median_ms: of undisturbed calls, and of all.
        disturbed: share of batches in which someone else had the core.
        wall_cpu_ratio: wall over CPU time per thread; None where the CPU does not do the work.
        gates: names of the gates that fired.
        level_ms: floor of the sentinel around it; None where floors are not referred to one.
        error_ms: what the step of the device's clock leaves uncertain in each call's time.
        host_ms, enqueue_ms: as `protocols.CallTimes` has them.
    """

    wall_ms: Float64s = field(repr=False)
    undisturbed_ms: Float64s = field(repr=False)
    floor_ms: float
    median_ms: float
    disturbed: float
    wall_cpu_ratio: float | None
    gates: tuple[str, ...]
    level_ms: float | None = None
    error_ms: float = 0.0
    host_ms: float | None = None
    enqueue_ms: float | None = None

    def flagged(self, *names: str) -> TimingSession:
        """A copy on which further gates fired."""
        return replace(self, gates=tuple(dict.fromkeys((*self.gates, *names))))


@dataclass(frozen=True)
class Batch:
    """Calls between two looks at the CPU clock, and the CPU time of all of them."""

    wall_ms: Float64s
    cpu_ms: float | None
    threads: int

    @property
    def ratio(self) -> float:
        """Wall time over CPU time per thread; 1 where there is no CPU time to compare with."""
        if not self.cpu_ms:
            return 1.0
        return float(self.wall_ms.sum()) * self.threads / self.cpu_ms


@dataclass(frozen=True)
class Recorded:
    """What one session saw, before it is judged.

    Attributes:
        batches: every timed batch, in order.
        last: what the last batch told besides its times.
        unsteady: the warm-up never became steady.
        watched: what made the times doubtful, in the engine's own words (`protocols.Engine`).
    """

    batches: list[Batch]
    last: CallTimes
    unsteady: bool
    watched: tuple[str, ...]


@runtime_checkable
class Elsewhere(Protocol):
    """An engine on another machine: the whole session runs there, so that no link is part of a time."""

    def record(self, options: SessionOptions) -> Recorded:
        """As `record`, where the engine is."""
        ...


def run_session(
    engine: Engine, options: SessionOptions, gates: Gates, *, flush: Callable[[], None] | None = None
) -> TimingSession:
    """Warm up and time one engine.

    Args:
        engine: freshly built or loaded.
        options: length, and hot or cold caches.
        gates: limits.
        flush: empties the caches before each call; needed for cold ones.

    Raises:
        InputError: cold caches are asked for and the device cannot flush them.
    """
    recorded = engine.record(options) if isinstance(engine, Elsewhere) else record(engine, options, flush)
    last = recorded.last
    session = replace(
        judge(recorded.batches, gates),
        error_ms=last.error_ms,
        host_ms=last.host_ms,
        enqueue_ms=last.enqueue_ms,
    )
    return session.flagged(*(("warmup",) if recorded.unsteady else ()), *recorded.watched)


def record(engine: Engine, options: SessionOptions, flush: Callable[[], None] | None = None) -> Recorded:
    """Warm up and time one engine on this machine; nothing is judged yet.

    Raises:
        InputError: cold caches are asked for and the device cannot flush them.
    """
    if options.cache == "cold":
        if flush is None:
            raise InputError("cache is cold, but the caches of this device cannot be flushed; use hot")
        call_ms, unsteady = engine.time(WARMUP_CALLS).wall_ms.min(), False
    else:
        call_ms, unsteady = _warm_up(engine, options)
    batches, last = _batches(engine, options, call_ms, flush)
    watch: Callable[[], tuple[str, ...]] = getattr(engine, "watch", tuple)
    return Recorded(batches, last, unsteady, watch())


def sustain(engine: Engine, seconds: float, clock: Callable[[], float] = time.perf_counter) -> None:
    """Keep a device busy for so long: a server's, which is warm and boosts less than one that just began."""
    ends_s = clock() + seconds
    calls = 1
    while clock() < ends_s:
        times = engine.time(calls)
        calls = int(np.clip(SUSTAINED_MS / (float(times.wall_ms.mean()) * times.each), 1, MOST_CALLS))


def _warm_up(engine: Engine, options: SessionOptions) -> tuple[float, bool]:
    """Call until a batch is no faster than the best before; (best value's time in ms, never got there)."""
    first = engine.time(1)
    best = float(first.wall_ms[0])
    if best > options.session_ms:  # a long call warms itself up
        return best, False
    best = min(best, float(engine.time(WARMUP_CALLS - 1).wall_ms.min()))
    for _ in range(WARMUP_BATCHES):
        now = float(engine.time(_calls(options, best * first.each)).wall_ms.min())
        steady, best = now > STEADY * best, min(now, best)
        if steady:
            return best * first.each, False
    return best * first.each, True


def _calls(options: SessionOptions, value_ms: float) -> int:
    """Values of a batch, each of which takes so long."""
    return int(np.clip(options.batch_ms / value_ms, 1, MOST_CALLS))


def _batches(
    engine: Engine, options: SessionOptions, call_ms: float, flush: Callable[[], None] | None
) -> tuple[list[Batch], CallTimes]:
    """Batches until the session is long enough, and what the last of them told besides."""
    calls = _calls(options, call_ms) if options.cache == "hot" else 1
    batches: list[Batch] = []
    spent_ms, done = 0.0, 0
    while spent_ms < options.session_ms or (done < options.calls and spent_ms < options.most_ms):
        if options.cache == "cold" and flush is not None:
            flush()
        times = engine.time(calls)
        batches.append(Batch(times.wall_ms, times.cpu_ms, engine.setting.threads))
        spent_ms += float(times.wall_ms.sum()) * times.each
        done += calls * times.each
    return batches, times


def judge(batches: list[Batch], gates: Gates) -> TimingSession:
    """Statistics and gates of a session's batches."""
    wall = np.concatenate([b.wall_ms for b in batches])
    single = batches[0].threads == 1
    ratios = np.array([b.ratio for b in batches])
    # Threads that wait for each other use less CPU than wall time even alone: compare with the best.
    base = 1.0 if single else float(np.percentile(ratios, 10))
    # Undisturbed batches; without any, the CPU time of a single thread replaces wall time.
    free = ratios < UNDISTURBED * base
    if free.any():
        undisturbed = np.concatenate([b.wall_ms for b, ok in zip(batches, free) if ok])
    elif single:
        undisturbed = np.array([b.cpu_ms / len(b.wall_ms) for b in batches if b.cpu_ms])
    else:
        undisturbed = wall
    cpu_ms = sum(b.cpu_ms or 0.0 for b in batches)
    ratio = float(wall.sum()) * batches[0].threads / cpu_ms if cpu_ms else None
    disturbed = 1.0 - float(free.mean())
    return TimingSession(
        wall_ms=wall,
        undisturbed_ms=undisturbed,
        floor_ms=low(undisturbed),
        median_ms=float(np.median(wall)),
        disturbed=disturbed,
        wall_cpu_ratio=ratio,
        gates=tuple(_fired(wall, undisturbed, None if ratio is None else ratio / base, disturbed, gates)),
    )


def low(calls: Float64s) -> float:
    """The low quantile of calls that is a session's floor: one of them, of fewer than twenty the shortest."""
    return float(np.percentile(calls, FLOOR_PERCENTILE, method="lower"))


def _fired(
    wall: Float64s, undisturbed: Float64s, ratio: float | None, disturbed: float, gates: Gates
) -> list[str]:
    """Names of the gates that a session's calls fire."""
    median = float(np.median(undisturbed))
    contended = ratio is not None and ratio > gates.contention and disturbed > 0.15
    p10, p25, p75, p90 = np.percentile(undisturbed, [10, 25, 75, 90])
    wave = (
        len(undisturbed) >= 20
        and (p90 - p10) / median > gates.scatter
        and lag1(undisturbed) > gates.autocorrelation
    )
    return [
        name
        for name, fired in (
            ("contention", contended),
            ("autocorrelation", wave),
            ("spread", (p75 - p25) / median > gates.spread),
            ("spikes", not contended and float((wall > SPIKE * median).mean()) > gates.spikes),
        )
        if fired
    ]


def lag1(values: Float64s) -> float:
    """Lag-1 autocorrelation of a sequence, its outermost twentieth at each end pulled in first."""
    low, high = np.percentile(values, [5, 95])
    centred = np.clip(values, low, high)
    centred = centred - centred.mean()
    power = float(centred @ centred)
    return float(centred[:-1] @ centred[1:]) / power if power > 0 else 0.0
