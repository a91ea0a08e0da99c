"""The statistics of the project: how long a call of an engine takes, and how sure that is.

Quantity. `Measurement.floor_ms` estimates the latency of a call when the process has its core to
itself. Everything that other processes, interrupts or clocks do to a call makes it longer, so the
estimate is a floor: within a session the 5th percentile of calls in undisturbed batches
(`hwnas.measure.session`), over sessions the fastest (`aggregate.floor_of`, chosen on recorded traces). The
expected value of the fastest falls with the number of sessions, by a few tenths of a percent from three to
ten on an idle machine; means of the faster half are 2 to 5 % too high where slow spells come and go.
`median_ms` to `p99_ms` are percentiles of single calls by the wall clock, disturbances included: what a user
of this machine would have waited.

Protocol. Rounds over all engines in random order; each session builds or loads a new engine; a
sentinel engine is looked at in between. A session that fails a gate is repeated in a later round.
When the repeats are used up the gate is named in `Measurement.gates`; a result without gates comes
from undisturbed sessions only. Rounds go on until the 95 % interval of the floor is narrow enough.

Reference. Clocks wander within minutes, for everything alike. With ``refer`` an engine's floor is divided by
the sentinel's best beside its sessions and multiplied by the sentinel's in the state to refer to (kept as
`Measurement.sentinel_ms`; the best known one where none is given): floors of different times compare.

docs/evidence/measuring.md compares the alternatives on a loaded machine; docs/measuring.md lists the gates.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from hwnas.backends.base import cores
from hwnas.errors import BuildError
from hwnas.measure.aggregate import Ledger, TimingOptions
from hwnas.measure.host import cpu_flush, others_load
from hwnas.measure.journal import Journal, TaskJournal
from hwnas.measure.levels import SentinelHistory, level_ms, warms
from hwnas.measure.patience import Patience
from hwnas.measure.session import Gates, SessionOptions, TimingSession, run_session, sustain
from hwnas.protocols import Emit, Engine
from hwnas.records import Measurement

if TYPE_CHECKING:
    from hwnas.measure.sentinel import MemorySentinel

__all__ = ["Builder", "Gates", "SessionOptions", "TimingOptions", "measure"]

Builder = Callable[[], Engine]
# Where at least this many sessions were timed and this share of them was disturbed, the machine is
# busy for good: repeating would double the time and cure nothing.
DISTURBED_AFTER, DISTURBED_SHARE = 12, 0.7
# Seconds between looks at the second sentinel: one takes 10 ms, and empties the core's own cache.
MEMORY_EVERY_S = 2.0
# A sentinel slower than its best by more than this many times the gate is not divided out.
FAR = 5.0


def measure(
    builders: Mapping[str, Builder],
    options: TimingOptions | None = None,
    *,
    rng: np.random.Generator,
    emit: Emit | None = None,
    deadline_s: float | None = None,
    sentinel: Builder | None = None,
    refer: bool = False,
    base_ms: float | None = None,
    journal: Journal | TaskJournal | None = None,
    on_failure: Callable[[str, BuildError], None] | None = None,
    patience: Patience | None = None,
    levels: SentinelHistory | None = None,
    memory: MemorySentinel | None = None,
    sustained_s: float = 0.0,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Measurement]:
    """Time several engines against each other.

    Args:
        builders: name to a function that builds or loads a new engine.
        options: how much; the default preset if None.
        rng: for the order within each round.
        emit: told of progress, and of gates that could not be cured ("gate" events).
        deadline_s: seconds from now after which no further session begins. Every engine still
            gets one, unless there is a journal; those that are not finished carry the gate "deadline".
        sentinel: engine that is looked at in between; the first of `builders` if None.
        refer: divide the sentinel's state out of the floors.
        base_ms: floor of the sentinel in the state to refer to; None takes its best known level.
        journal: keeps sessions; those that it holds already are not measured again.
        on_failure: told of a BuildError, and the engine is left out; raised if None.
        patience: seconds that may be waited while the sentinel is slower than its best known level;
            None does not wait.
        levels: what the sentinel took here before, and where its looks are noted.
        memory: second sentinel, whose looks are noted as well and change nothing here.
        sustained_s: seconds for which the device is kept busy first.
        clock: gives seconds, for the deadline.

    Returns:
        A measurement for every engine that could be built, in the order of `builders`.
    """
    options = options or TimingOptions()
    ends_s = float("inf") if deadline_s is None else clock() + deadline_s
    campaign = Campaign(
        builders,
        options,
        rng,
        refer=refer,
        base_ms=base_ms,
        journal=journal,
        emit=emit,
        on_failure=on_failure,
        patience=patience,
        levels=levels if sentinel is not None else None,
        memory=memory,
        clock=clock,
    )
    return campaign.run(sentinel, ends_s, sustained_s) if builders else {}


class Campaign:
    """The state of one call of `measure`: ledgers, looks at the sentinel, what is still due."""

    def __init__(
        self,
        builders: Mapping[str, Builder],
        options: TimingOptions,
        rng: np.random.Generator,
        *,
        refer: bool = False,
        base_ms: float | None = None,
        journal: Journal | TaskJournal | None = None,
        emit: Emit | None = None,
        on_failure: Callable[[str, BuildError], None] | None = None,
        patience: Patience | None = None,
        levels: SentinelHistory | None = None,
        memory: MemorySentinel | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.builders, self.options, self.rng, self.clock = dict(builders), options, rng, clock
        self.refer, self.base_ms, self.journal = refer, base_ms, journal
        self.emit, self.on_failure = emit, on_failure
        self.patience, self.levels = patience or Patience(0.0), levels
        self.known_ms = levels.best_ms() if levels is not None else None
        self.ledgers = {name: Ledger(journal.sessions(name) if journal else ()) for name in builders}
        self.looks: list[float] = []  # floors of the sentinel in ms, in time order
        self.windows: list[list[tuple[str, int]]] = []  # sessions between look i and look i + 1
        self.since_ms = 0.0
        self.guard: Engine | None = None
        self.memory = memory
        self.in_memory: Engine | None = None
        self.memory_due_s = -math.inf
        self.late = self.warms = False

    def run(
        self, sentinel: Builder | None, ends_s: float, sustained_s: float = 0.0
    ) -> dict[str, Measurement]:
        """Measure until nothing is due or the time is over."""
        load = others_load()
        self.guard = self._guard(sentinel)
        if self.guard is None:
            return {}
        self.warms = warms(self.guard)
        if self.warms:
            self.known_ms = None  # of a colder device, it may be
        setting = self.guard.setting
        try:
            if self.memory is not None:
                with suppress(BuildError):
                    self.in_memory = self.memory.build()
            if sustained_s:
                sustain(self.guard, sustained_s, self.clock)
            self._look()
            # Rounds: one session of every engine that needs more, until none does or the time is over.
            while due := self._due():
                self._round(due, ends_s)
                if self.clock() >= ends_s:
                    self.late = True
                    break
        finally:
            self.guard.close()
            if self.in_memory is not None:
                self.in_memory.close()
        if self.refer:
            self._base(self.base_ms or self._best_ms())
        # The load of other processes over the whole measurement is a gate of its own.
        extra = []
        if setting.device == "cpu" and (used := load()) is not None:
            short = used - (len(cores()) - setting.threads)
            extra = ["load"] if short > self.options.gates.load else []
        return self._results(extra)

    def _guard(self, sentinel: Builder | None) -> Engine | None:
        """The sentinel: the builder given, else the first engine that can be built."""
        if sentinel is not None:
            return sentinel()
        for name in list(self.builders):
            engine = self._build(name)
            if engine is not None:
                return engine
        return None

    def _build(self, name: str) -> Engine | None:
        """A fresh engine; None, and the name is dropped, where it does not build."""
        try:
            return self.builders[name]()
        except BuildError as exc:
            self._drop(name, exc)
            return None

    def _drop(self, name: str, why: BuildError) -> None:
        if self.on_failure is None:
            raise why
        self.on_failure(name, why)
        del self.builders[name], self.ledgers[name]

    def _timed(self, name: str) -> TimingSession | None:
        """A session of a fresh engine; None where it does not build, or needs more memory once it runs."""
        engine = self._build(name)
        if engine is None:
            return None
        try:
            return self._session(engine, self.options.session)
        except BuildError as exc:
            self._drop(name, exc)
            return None
        finally:
            engine.close()

    def _due(self) -> list[str]:
        repeats = 0 if self._always_disturbed() else self.options.repeats
        return [name for name, ledger in self.ledgers.items() if ledger.wants_more(self.options, repeats)]

    def _always_disturbed(self) -> bool:
        """Whether the machine is disturbed all the time, so that repeating cannot help."""
        total = sum(len(ledger.sessions) for ledger in self.ledgers.values())
        undisturbed = sum(len(ledger.undisturbed) for ledger in self.ledgers.values())
        return total >= DISTURBED_AFTER and total - undisturbed > DISTURBED_SHARE * total

    def _round(self, names: list[str], ends_s: float) -> None:
        """One session of each, in random order; the sentinel's look at the end judges them."""
        for at in self.rng.permutation(len(names)):
            name = names[at]
            # What has not begun would have no result; a journal lets it begin another time.
            if self.clock() >= ends_s and (self.ledgers[name].sessions or self.journal is not None):
                continue
            self._wait(ends_s)
            session = self._timed(name)
            if session is None:
                continue
            ledger = self.ledgers[name]
            ledger.sessions.append(session)
            self.windows[-1].append((name, len(ledger.sessions) - 1))
            self.since_ms += float(session.wall_ms.sum())
            self._progress(name)
            if self.since_ms >= self.options.sentinel_every_ms:
                self._look()
        self._look()

    def _wait(self, ends_s: float) -> None:
        """Wait for the sentinel to be at its best known level, while there is patience."""
        gate = self.options.gates.sentinel
        if self.patience.spent or self._slowdown() <= 1.0 + gate:
            return

        def look() -> float:
            self._look()
            return self._slowdown()

        self.patience.until_calm(look, gate, ends_s=ends_s)

    def _slowdown(self) -> float:
        """The last look over the sentinel's best level, here or from before."""
        return self.looks[-1] / self._best_ms()

    def _best_ms(self) -> float:
        best_ms = level_ms(self.looks, of_now=self.warms)
        return min(best_ms, self.known_ms or best_ms)

    def _session(self, engine: Engine, session: SessionOptions) -> TimingSession:
        flush = None
        if session.cache == "cold":
            flush = getattr(engine, "flush", None) or (
                cpu_flush() if engine.setting.device == "cpu" else None
            )
        return run_session(engine, session, self.options.gates, flush=flush)

    def _look(self) -> None:
        """Time the sentinel, and judge the sessions between this look and the one before."""
        assert self.guard is not None
        short = SessionOptions(self.options.sentinel_ms, calls=3, batch_ms=self.options.session.batch_ms)
        if self.memory is not None and self.in_memory is not None and self.clock() >= self.memory_due_s:
            with suppress(BuildError):  # what has no place to run is not looked at; nothing else hangs on it
                self.memory.history.add(self._session(self.in_memory, short).floor_ms)
            self.memory_due_s = self.clock() + MEMORY_EVERY_S
        self.looks.append(self._session(self.guard, short).floor_ms)
        if self.levels is not None:
            self.levels.add(self.looks[-1])
        self.windows.append([])
        self.since_ms = 0.0
        if self.refer:
            self._refer()
            return
        limit_ms = (1.0 + self.options.gates.sentinel) * self._best_ms()
        judged = list(zip(self.windows, self.looks, self.looks[1:]))
        for window, before_ms, after_ms in judged[-1:] if self.warms else judged:
            if max(before_ms, after_ms) > limit_ms:
                self._flag(window)
        if len(self.windows) > 1:
            self._keep(self.windows[-2])

    def _keep(self, window: list[tuple[str, int]]) -> None:
        """Write sessions down that are judged."""
        if self.journal is not None:
            for name, at in window:
                self.journal.append(name, self.ledgers[name].sessions[at])

    def _refer(self) -> None:
        """Note the level of the sessions since the last look; flag them where it is not one level."""
        if len(self.looks) == 1:
            self._base(self.base_ms or self.looks[0])
            return
        before_ms, after_ms = self.looks[-2:]
        window, gate = self.windows[-2], self.options.gates.sentinel
        best_ms = self._best_ms()
        for name, at in window:
            sessions = self.ledgers[name].sessions
            sessions[at] = replace(sessions[at], level_ms=(before_ms + after_ms) / 2.0)
        # A state that lasts is divided out. One that changes meanwhile is not, nor is one so far off
        # that another law may hold (throttling).
        moved = abs(after_ms / before_ms - 1.0) > gate
        if moved or max(before_ms, after_ms) > (1.0 + FAR * gate) * best_ms:
            self._flag(window)
        self._keep(window)

    def _base(self, base_ms: float) -> None:
        """Refer all floors to the state in which the sentinel takes `base_ms`."""
        for ledger in self.ledgers.values():
            ledger.base_ms = base_ms

    def _flag(self, window: list[tuple[str, int]]) -> None:
        for name, at in window:
            sessions = self.ledgers[name].sessions
            sessions[at] = sessions[at].flagged("sentinel")

    def _results(self, extra: list[str]) -> dict[str, Measurement]:
        results = {}
        for name, ledger in self.ledgers.items():
            if not ledger.sessions:
                continue
            late = self.late and (
                len(ledger.sessions) < self.options.sessions or not ledger.settled(self.options)
            )
            result = ledger.measurement(self.options, [*extra, *(["deadline"] if late else [])])
            results[name] = result
            if result.gates and self.emit is not None:
                text = f"{name}: {', '.join(result.gates)} (of {len(ledger.sessions)} sessions)"
                self.emit("gate", {"text": text, "name": name, "gates": list(result.gates)})
        return results

    def _progress(self, name: str) -> None:
        if self.emit is None:
            return
        done = sum(len(ledger.sessions) for ledger in self.ledgers.values())
        total = max(done, self.options.sessions * len(self.ledgers))
        self.emit("progress", {"task": "measuring", "done": done, "total": total, "note": name})
