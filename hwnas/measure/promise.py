"""The promise "this engine keeps its budget", decided by measurement and never forced.

Each session loads a new engine and gives one value: the percentile that the budget is about. A
value within the budget is a hit. If the engine's true session value were over the budget, a session
would be a hit with probability 1/2 at most, so R hits of R refute that with confidence 1 - 2^-R
(order statistic; Hahn & Meeker 1991, "Statistical Intervals", section 5.2): 5 of 5 gives 96.9 %.
A plan fixed in advance may also allow misses: 8 sessions with one give 96.5 %, 11 with two 96.7 %.
Going on to such a plan *after* seeing a miss spends more than 5 % of error in all (6.3 %), so the
test that decides as it goes needs a few more: 5 of 5, else 9 with one miss, else 12 with two, for
4.8 % of error in all (`stages`). A broken promise is told by the same rule with hits and misses
exchanged; whatever reaches neither is ambiguous. K networks tried share the error: alpha / K each.

A percentile above the median needs its calls too: of all n calls, so few may exceed the budget that
a true share of more than 1 - q is refuted (binomial bound: at 95 %, p95 needs 59 calls without an
excess, p99 needs 299).

The budget is about calls of the machine in its undisturbed state. Before a session, the test waits while
the sentinel is slower than its best known level (`levels`, kept beyond this process), up to the
patience that it is given; slow spells last longer than a few sessions, so repeating alone would
repeat the spell. Sessions on which a gate fired are set aside, hit or miss, and repeated up to a
limit, and further while there is patience, with pauses. Beyond it they count: as hits, since
disturbances only slow down; as misses they can break the promise only
where even the floor of the session, less the slowdown of the sentinel, is over the budget. For p50
the value is the median of undisturbed calls (so that contention alone sets no session aside unless
it disturbed most of it); for tails disturbances belong to the value.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from hwnas.budgets import Percentile
from hwnas.errors import InputError
from hwnas.measure.aggregate import FLOOR_HOLDS, TOLERATED, Ledger, TimingOptions
from hwnas.measure.levels import SentinelHistory, level_ms, warms
from hwnas.measure.order_statistics import Verdict, decide, stages, tail
from hwnas.measure.patience import Patience
from hwnas.measure.session import Gates, SessionOptions, TimingSession, run_session
from hwnas.protocols import Emit, Engine
from hwnas.records import Measurement, Promise
from hwnas.units import format_ms

SHARE: dict[Percentile, float] = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}
PAUSE_S = 1.0  # between disturbed sessions, once the repeats are used up
CALLS: dict[Percentile, int] = {"p50": 50, "p90": 60, "p95": 100, "p99": 200}


@dataclass(frozen=True)
class PromiseOptions:
    """How the promise is tested.

    Attributes:
        alpha: probability of calling an engine over its budget "kept".
        misses: largest number of misses that acceptance may still allow.
        repeats: sessions that may be set aside because a gate fired.
        session_ms: length of a session; it also has the calls that the percentile needs, but
            for the median lasts no longer than a second.
        sentinel_ms: length of a look at the sentinel.
        gates: limits of the sessions.
    """

    alpha: float = 0.05
    misses: int = 2
    repeats: int = 6
    session_ms: float = 60.0
    sentinel_ms: float = 15.0
    gates: Gates = field(default_factory=Gates)

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 0.5 or self.misses < 0 or self.repeats < 0:
            raise InputError(f"need 0 < alpha < 0.5, misses >= 0 and repeats >= 0, got {self}")


def keep(
    build: Callable[[], Engine],
    budget_ms: float,
    percentile: Percentile = "p50",
    *,
    sentinel: Callable[[], Engine] | None = None,
    tries: int = 1,
    options: PromiseOptions | None = None,
    patience: Patience | None = None,
    levels: SentinelHistory | None = None,
    emit: Emit | None = None,
    deadline_s: float | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[Promise, Measurement]:
    """Test whether an engine keeps its budget.

    Args:
        build: loads (or builds) a new engine; best the file that will be deployed.
        budget_ms: the budget of one call.
        percentile: which percentile of calls it is about.
        sentinel: engine that is looked at between sessions; the engine itself if None.
        tries: how many networks are tried in all until one keeps its budget; they share alpha.
        options: how the promise is tested.
        patience: seconds that may be waited for a quiet machine; None does not wait.
        levels: what the sentinel took here before, and where its looks are noted; not for an engine
            that stands in for it.
        emit: progress.
        deadline_s: seconds from now after which no session begins; then the verdict is ambiguous.
        clock: gives seconds, for the deadline.

    Returns:
        The verdict, and what was measured on the way.
    """
    options = options or PromiseOptions()
    if not budget_ms > 0 or tries < 1:
        raise InputError(
            f"a budget of {budget_ms} ms over {tries} tries cannot be tested; both must be positive"
        )
    test = _Test(
        build,
        budget_ms,
        percentile,
        options,
        stages(options.alpha / tries, options.misses),
        patience or Patience(0.0),
        levels if sentinel is not None else None,
    )
    guard = (sentinel or build)()
    try:
        ends_s = float("inf") if deadline_s is None else clock() + deadline_s
        test.ends_s = ends_s
        verdict, why = test.run(guard, lambda: clock() >= ends_s, emit)
    finally:
        guard.close()
    return test.promise(verdict, why), test.measurement()


class _Test:
    """One run of the test: counted sessions, those set aside, looks at the sentinel."""

    def __init__(
        self,
        build: Callable[[], Engine],
        budget_ms: float,
        percentile: Percentile,
        options: PromiseOptions,
        plan: tuple[tuple[int, float], ...],
        patience: Patience,
        levels: SentinelHistory | None,
    ) -> None:
        self.build, self.budget_ms, self.percentile = build, budget_ms, percentile
        self.options, self.plan = options, plan
        most_ms = 1000.0 if percentile == "p50" else float("inf")
        self.session = SessionOptions(options.session_ms, CALLS[percentile], most_ms=most_ms)
        self.counted: list[TimingSession] = []
        self.aside: list[TimingSession] = []
        self.looks: list[float] = []
        self.slowdowns: list[float] = []  # of the sentinel, one for each counted session
        self.patience, self.levels, self.ends_s = patience, levels, float("inf")
        self.known_ms = levels.best_ms() if levels is not None else None
        self.warms = False
        self.waited_s = 0.0
        self.undecided: Literal["border", "calls", "disturbed", "time"] | None = None

    def run(self, guard: Engine, late: Callable[[], bool], emit: Emit | None) -> tuple[Verdict, str]:
        """Sessions until there is a verdict; with it the reason in words where it is not plain."""
        self.warms = warms(guard)
        if self.warms:
            self.known_ms = None  # of a colder device, it may be
        for _ in range(2):
            self._look(guard)
        while True:
            verdict = decide(self.hits, self.plan)
            if verdict == "kept" and not self._tail_holds() and len(self.counted) < self.plan[-1][0]:
                verdict = None  # more calls may show what the sessions show already
            if verdict is not None:
                return self._final(verdict)
            if late() and self.counted:
                self.undecided = "time"
                return "ambiguous", "the time limit ended the test before it was decided"
            self._wait(guard)
            session, slowdown = self._one(guard)
            tired = len(self.aside) >= self.options.repeats and (self.patience.spent or late())
            if self._trusted(session) or tired:
                self.counted.append(session)
                self.slowdowns.append(slowdown)
            else:
                self.aside.append(session)
                if len(self.aside) >= self.options.repeats:
                    self._pause()
            if emit is not None:
                note = f"{format_ms(self.value(session))} ({', '.join(session.gates) or 'undisturbed'})"
                total = max(self.plan[0][0], len(self.counted))
                emit(
                    "progress",
                    {"task": "testing the budget", "done": len(self.counted), "total": total, "note": note},
                )

    def _wait(self, guard: Engine) -> None:
        """Wait for the sentinel to be at its best level, while there is patience."""
        before_s = self.patience.waited_s
        gate = self.options.gates.sentinel
        if not self.patience.spent and self._slowdown(self.looks[-1]) > 1.0 + gate:

            def look() -> float:
                self._look(guard)
                return self._slowdown(self.looks[-1])

            self.patience.until_calm(look, gate, ends_s=self.ends_s)
        self.waited_s += self.patience.waited_s - before_s

    def _pause(self) -> None:
        """Wait a second: what disturbed so many sessions lasts, but not for ever."""
        before_s = self.patience.waited_s
        self.patience.pause(PAUSE_S)
        self.waited_s += self.patience.waited_s - before_s

    def _slowdown(self, look_ms: float) -> float:
        """A look over the best level that is known of the sentinel, here or from before."""
        best_ms = level_ms(self.looks, of_now=self.warms)
        return look_ms / min(best_ms, self.known_ms or best_ms)

    def _one(self, guard: Engine) -> tuple[TimingSession, float]:
        """A session of a fresh engine, and how much slower than its best the sentinel was beside it."""
        engine = self.build()
        try:
            session = run_session(engine, self.session, self.options.gates)
        finally:
            engine.close()
        before_ms = self.looks[-1]
        self._look(guard)
        slowdown = self._slowdown(max(before_ms, self.looks[-1]))
        slow = slowdown > 1.0 + self.options.gates.sentinel
        return (session.flagged("sentinel") if slow else session), slowdown

    def _look(self, guard: Engine) -> None:
        short = SessionOptions(self.options.sentinel_ms, calls=3)
        self.looks.append(run_session(guard, short, self.options.gates).floor_ms)
        if self.levels is not None:
            self.levels.add(self.looks[-1])

    def _trusted(self, session: TimingSession) -> bool:
        """Whether no gate fired that touches the value of the session."""
        if self.percentile == "p50" and session.disturbed < 0.5:
            return set(session.gates) <= FLOOR_HOLDS
        return set(session.gates) <= TOLERATED

    def value(self, session: TimingSession) -> float:
        """What a session says about the budget's percentile, in milliseconds."""
        if self.percentile == "p50":
            return float(np.median(session.undisturbed_ms))
        return float(np.quantile(session.wall_ms, SHARE[self.percentile], method="higher"))

    @property
    def hits(self) -> list[bool]:
        """Whether each counted session was within the budget."""
        return [self.value(s) <= self.budget_ms for s in self.counted]

    def _final(self, verdict: Verdict) -> tuple[Verdict, str]:
        """The sessions' verdict, held against single calls and against gates that fired."""
        if verdict == "broken":
            missed = [(s, slow) for s, slow, hit in zip(self.counted, self.slowdowns, self.hits) if not hit]
            unsure = [s for s, slow in missed if not self._trusted(s) and s.floor_ms / slow <= self.budget_ms]
            if unsure:
                self.undecided = "disturbed"
                gates = ", ".join(sorted({gate for s in unsure for gate in s.gates}))
                return (
                    "ambiguous",
                    f"over the budget, but only while other programs or clock changes disturbed it ({gates})",
                )
            return "broken", ""
        if verdict == "kept" and not self._tail_holds():
            over, calls = self._over()
            self.undecided = "calls"
            return (
                "ambiguous",
                f"{over} of {calls} calls took longer than the budget, too many for {self.percentile}",
            )
        if verdict == "ambiguous":
            doubted = any(not self._trusted(s) for s, hit in zip(self.counted, self.hits) if not hit)
            self.undecided = "disturbed" if doubted else "border"
            return verdict, "sessions fall on both sides of the budget"
        return verdict, ""

    def _over(self) -> tuple[int, int]:
        calls = np.concatenate([s.wall_ms for s in self.counted])
        return int((calls > self.budget_ms).sum()), len(calls)

    def _tail_holds(self) -> bool:
        """Whether single calls refute that more than the percentile leaves are over the budget."""
        if self.percentile == "p50":
            return True
        few, _ = tail(*self._over(), SHARE[self.percentile])
        return few <= self.options.alpha

    def promise(self, verdict: Verdict, why: str) -> Promise:
        """The verdict as a record."""
        misses = self.hits.count(False)
        spent = self.plan[misses][1] if verdict == "kept" else self.plan[-1][1]
        notes = [why] if why else []
        if self.aside:
            notes.append(f"{len(self.aside)} disturbed sessions were repeated")
        if self.waited_s >= 1.0:
            notes.append(f"waited {self.waited_s:.0f} s for a quiet machine")
        if verdict == "ambiguous" and self.patience.spent and self.patience.waited_s > self.waited_s + 1.0:
            before_s = self.patience.waited_s - self.waited_s
            notes.append(f"{before_s:.0f} s of the patience were used up before this test")
        share = float(np.mean([s.disturbed for s in self.counted])) if self.counted else 0.0
        if self.percentile == "p50" and share > 0.01:
            notes.append(
                f"other processes used the core in {share:.0%} of the time slices, which are not counted"
            )
        return Promise(
            verdict=verdict,
            undecided=self.undecided,
            budget_ms=self.budget_ms,
            percentile=self.percentile,
            session_ms=tuple(self.value(s) for s in self.counted),
            misses=misses,
            confidence=1.0 - spent,
            note="; ".join(notes),
        )

    def measurement(self) -> Measurement:
        """What the counted sessions amount to."""
        ledger = Ledger()
        ledger.sessions = self.counted
        return ledger.measurement(TimingOptions(sessions=1, target=1.0, gates=self.options.gates))
