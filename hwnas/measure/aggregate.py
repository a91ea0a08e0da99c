"""The sessions of one engine, and the measurement made of them (statistics of `timing`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from hwnas.errors import InputError
from hwnas.measure.session import Gates, SessionOptions, TimingSession
from hwnas.records import Measurement

# The device's own tail, and how its engine is run: reported, never repeated away.
TOLERATED = frozenset({"spikes", "enqueue-bound"})
FLOOR_HOLDS = TOLERATED | {"contention"}  # gates that leave the floor of a session usable
FEW = 2  # sessions that can be compared
LONE_SE = 0.02  # relative error of a floor from one session (docs/measuring.md)


@dataclass(frozen=True)
class TimingOptions:
    """How much is measured. `TimingOptions.preset("quick")` takes about 0.1 s an engine.

    Attributes:
        sessions: undisturbed sessions of each engine at least.
        sessions_max: sessions at most while the interval is still too wide.
        repeats: further sessions in place of those that failed a gate.
        target: half-width of the floor's 95 % interval, as a share of the floor, that ends it.
        session: length of a session.
        sentinel_ms: length of a look at the sentinel.
        sentinel_every_ms: measuring time between two looks.
        gates: limits.
    """

    sessions: int = 5
    sessions_max: int = 10
    repeats: int = 5
    target: float = 0.005
    session: SessionOptions = field(default_factory=SessionOptions)
    sentinel_ms: float = 10.0
    sentinel_every_ms: float = 500.0
    gates: Gates = field(default_factory=Gates)

    def __post_init__(self) -> None:
        if not 1 <= self.sessions <= self.sessions_max or self.repeats < 0:
            raise InputError(
                f"need 1 <= sessions <= sessions_max and repeats >= 0, got {self.sessions}, "
                f"{self.sessions_max}, {self.repeats}"
            )

    @classmethod
    def preset(cls, name: str) -> TimingOptions:
        """The options behind ``--preset``; InputError for an unknown name."""
        if name == "quick":
            short = SessionOptions(20.0, calls=4)
            return cls(sessions=3, sessions_max=4, repeats=2, target=0.015, session=short)
        if name == "default":
            return cls()
        if name == "thorough":
            return cls(sessions=9, sessions_max=20, repeats=9, target=0.003, session=SessionOptions(80.0))
        raise InputError(f"unknown preset {name!r} (known: quick, default, thorough)")


class Ledger:
    """The sessions of one engine so far.

    Attributes:
        sessions: in the order of measuring.
        base_ms: floor of the sentinel in the state that floors are referred to; None for no reference.
    """

    def __init__(self, sessions: Sequence[TimingSession] = ()) -> None:
        self.sessions: list[TimingSession] = list(sessions)
        self.base_ms: float | None = None

    @property
    def undisturbed(self) -> list[TimingSession]:
        """Sessions on which no gate fired that would have them repeated."""
        return [s for s in self.sessions if set(s.gates) <= TOLERATED]

    @property
    def usable(self) -> list[TimingSession]:
        """Sessions whose floor holds; all where these are too few to compare."""
        usable = [s for s in self.sessions if set(s.gates) <= FLOOR_HOLDS]
        return usable if len(usable) >= FEW else self.sessions

    def floor(self, session: TimingSession) -> float:
        """Floor of a session in ms, as it would be in the state of reference."""
        if self.base_ms is None or session.level_ms is None:
            return session.floor_ms
        return session.floor_ms * self.base_ms / session.level_ms

    def wants_more(self, options: TimingOptions, repeats: int) -> bool:
        """Whether another session is due: too few undisturbed ones, or an interval still too wide.

        Args:
            options: how much is measured.
            repeats: how many sessions may still stand in for failed ones.
        """
        total = len(self.sessions)
        if len(self.undisturbed) < options.sessions and total < options.sessions + repeats:
            return True
        return total < options.sessions or (total < options.sessions_max and not self.settled(options))

    def settled(self, options: TimingOptions) -> bool:
        """Whether the floor is known to the target."""
        value, se = self._floor()
        return 1.96 * se <= options.target * value

    def _floor(self) -> tuple[float, float]:
        """The floor and its standard error, which is no less than what the clock's step leaves: sessions
        that all end on one step agree with each other, not with the truth.
        """
        beside = [(s.floor_ms, s.level_ms) for s in self.usable if s.level_ms is not None]
        if self.base_ms is not None and beside:
            floors, levels = zip(*beside)
            value, se = floor_of(floors, [level / self.base_ms for level in levels])
        else:
            value, se = floor_of([s.floor_ms for s in self.usable])
        return value, max(se, min((s.error_ms for s in self.sessions), default=0.0))

    def measurement(self, options: TimingOptions, extra: Sequence[str] = ()) -> Measurement:
        """The result: percentiles over the undisturbed sessions, or over all with the gates that fired.

        Args:
            options: how much was asked for.
            extra: gates of the whole measurement.
        """
        undisturbed = self.undisturbed
        accepted = undisturbed if len(undisturbed) >= min(2, options.sessions) else self.sessions
        floor_ms, se_ms = self._floor()
        wall = np.concatenate([s.wall_ms for s in accepted])
        p10, p50, p90, p95, p99 = (float(v) for v in np.percentile(wall, [10, 50, 90, 95, 99]))
        ratios = [s.wall_cpu_ratio for s in accepted if s.wall_cpu_ratio is not None]
        gates = [gate for s in accepted for gate in s.gates]
        if differ([self.floor(s) for s in accepted], options.gates.sessions):
            gates.append("sessions")
        if not self.settled(options):
            gates.append("precision")
        return Measurement(
            floor_ms=floor_ms,
            median_ms=p50,
            p10_ms=p10,
            p90_ms=p90,
            p95_ms=p95,
            p99_ms=p99,
            se_ms=se_ms,
            session_ms=tuple(s.median_ms for s in accepted),
            samples=len(wall),
            wall_cpu_ratio=float(np.median(ratios)) if ratios else None,
            gates=tuple(sorted({*gates, *extra})),
            sentinel_ms=self.base_ms,
            host_ms=_typical([s.host_ms for s in accepted]),
            enqueue_ms=_typical([s.enqueue_ms for s in accepted]),
        )


def _typical(values: Sequence[float | None]) -> float | None:
    """The median of what was told; None where nothing was."""
    told = [value for value in values if value is not None]
    return float(np.median(told)) if told else None


def floor_of(floors: Sequence[float], levels: Sequence[float] = ()) -> tuple[float, float]:
    """The fastest session's floor in ms over the sentinel's best level beside the sessions, and its error.

    Of the statistics of `benchmarks.noise` the one that repeats best where slow spells come and go: a session
    in a spell says nothing, and the mean of the faster half still holds some. The spell that lasted through
    all sessions shows in the sentinel, and is divided out. The standard error is the jackknife's, which for
    the fastest is its distance from the next: it is small where two sessions agree. One session alone has no
    spread; its error is set to `LONE_SE`.

    Args:
        floors: of the sessions, in ms.
        levels: the sentinel's beside each, over its level in the state of reference; empty for no reference.
    """
    values = np.asarray(floors, dtype=np.float64)
    beside = np.asarray(levels, dtype=np.float64) if len(levels) else np.ones_like(values)
    n, value = len(values), float(values.min() / beside.min())
    if n == 1:
        return value, LONE_SE * value
    left_out = np.array([np.delete(values, i).min() / np.delete(beside, i).min() for i in range(n)])
    variance = (n - 1) / n * float(((left_out - left_out.mean()) ** 2).sum())
    return value, variance**0.5


def pooled(one: Measurement, other: Measurement) -> Measurement:
    """What two measurements of one engine say together, both referred to the same state.

    The floor is that of the faster, as over sessions (`floor_of`), and so is its error: half the distance
    of the two where that is less than the faster one's own. A gate stays where it fired on both.
    """
    best, rest = sorted((one, other), key=lambda m: m.floor_ms)
    se_ms = min(best.se_ms, (rest.floor_ms - best.floor_ms) / 2.0)
    return best.model_copy(
        update={
            "se_ms": max(se_ms, min(one.se_ms, other.se_ms) / 2.0),
            "session_ms": one.session_ms + other.session_ms,
            "samples": one.samples + other.samples,
            "gates": tuple(sorted(set(one.gates) & set(other.gates))),
        }
    )


def worst(measured: Sequence[Measurement]) -> list[int]:
    """Places of those on which a gate fired (beyond the tail's own), the most uncertain floor first."""
    doubtful = [i for i, m in enumerate(measured) if set(m.gates) - TOLERATED]
    return sorted(doubtful, key=lambda i: -measured[i].se_ms / measured[i].floor_ms)


def differ(floors: Sequence[float], limit: float) -> bool:
    """Whether floors of an engine's sessions differ by more than `limit`: builds are not alike."""
    return len(floors) > 1 and max(floors) > (1.0 + limit) * min(floors)
