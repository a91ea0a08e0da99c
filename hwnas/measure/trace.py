"""Recorded calls, and engines that play them back: what a real machine's noise does, the same every time.

A trace holds every call of several engines that ran in turn. `Replay` stands at a moment of it: an
engine that is asked for calls gives those that were recorded from that moment on, and the moment moves to
the end of the last one. Sessions, looks at a sentinel and pauses work on it as on a real device, so
estimators and patience can be compared on one and the same slow spell.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hwnas.arrays import Float64s, Int64s
from hwnas.errors import DataFormatError, InputError
from hwnas.protocols import CallTimes, Engine
from hwnas.records import Setting
from hwnas.store import atomic_path

MOST_BYTES = 1 << 28  # of the unpacked arrays: hours of calls
FIELDS = ("network", "start_s", "wall_ms", "cpu_ms", "names", "conditions")
IN_TURN = 5  # calls of an engine before the next one's, as in the traces of docs/evidence/measuring.md


class TraceOver(InputError):
    """The replay has come to the end of its trace."""


@dataclass(frozen=True)
class Trace:
    """Calls in the order in which they ran.

    Attributes:
        names: the engines.
        conditions: of the recording, in words.
        network: (n,) which of `names` ran.
        start_s: (n,) seconds since the recording began.
        wall_ms, cpu_ms: (n,) durations.
    """

    names: tuple[str, ...]
    conditions: str
    network: Int64s
    start_s: Float64s
    wall_ms: Float64s
    cpu_ms: Float64s

    @property
    def seconds(self) -> float:
        """Length."""
        return float(self.start_s[-1] + self.wall_ms[-1] / 1e3)

    def of(self, name: str) -> tuple[Float64s, Float64s, Float64s]:
        """Start times, wall and CPU times of one engine's calls; InputError if it is not there."""
        if name not in self.names:
            raise InputError(f"the trace has no engine {name!r}; it has {', '.join(self.names)}")
        mine = self.network == self.names.index(name)
        return self.start_s[mine], self.wall_ms[mine], self.cpu_ms[mine]

    def save(self, path: Path) -> None:
        """Write ``.npz``, small: times in single precision, relative to the beginning."""
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(
                file,
                network=self.network.astype(np.int16),
                start_s=self.start_s,
                wall_ms=self.wall_ms.astype(np.float32),
                cpu_ms=self.cpu_ms.astype(np.float32),
                names=np.array(self.names),
                conditions=np.array(self.conditions),
            )

    @staticmethod
    def load(path: Path) -> Trace:
        """Read a file of `save`.

        Raises:
            InputError: there is none.
            DataFormatError: it is no trace, or its values are impossible.
        """
        try:
            with zipfile.ZipFile(path) as archive:
                size = sum(entry.file_size for entry in archive.infolist())
            if size > MOST_BYTES:
                raise DataFormatError(f"trace {path} would take {size} bytes; at most {MOST_BYTES} are read")
            with np.load(path, allow_pickle=False) as file:
                found = {name: file[name] for name in FIELDS}
        except FileNotFoundError as exc:
            raise InputError(f"trace {path} does not exist") from exc
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as exc:
            raise DataFormatError(f"{path} is not a recording of `hwnas doctor --record`: {exc}") from exc
        return _checked(path, found)


def _checked(path: Path, found: Mapping[str, np.ndarray]) -> Trace:
    names = tuple(str(name) for name in np.atleast_1d(found["names"]))
    columns = [found[name] for name in FIELDS[:4]]
    calls = len(columns[0]) if columns[0].ndim == 1 else 0
    whole = calls > 0 and all(c.shape == (calls,) and c.dtype.kind in "iuf" for c in columns)
    if whole:
        network, start_s, wall_ms, cpu_ms = (np.asarray(c, dtype=np.float64) for c in columns)
        whole = bool(
            all(np.isfinite(c).all() for c in (network, start_s, wall_ms, cpu_ms))
            and (network % 1 == 0).all()
            and 0 <= network.min() <= network.max() < len(names)
            and (np.diff(start_s) >= 0).all()
            and start_s[0] >= 0
            and (wall_ms > 0).all()
            and (cpu_ms >= 0).all()
        )
    if not whole:
        raise DataFormatError(f"trace {path}: calls need a network, a start that grows, and positive times")
    return Trace(names, str(found["conditions"]), network.astype(np.int64), start_s, wall_ms, cpu_ms)


def record(
    builders: Mapping[str, Callable[[], Engine]],
    seconds: float,
    conditions: str,
    *,
    clock: Callable[[], float],
    told: Callable[[float], None] = lambda done_s: None,
) -> Trace:
    """Run engines in turn, `IN_TURN` calls each, and keep every call.

    Args:
        builders: name to a function that builds the engine.
        seconds: how long.
        conditions: in words.
        clock: gives seconds.
        told: how many seconds are done, about once a second.
    """
    engines = {name: build() for name, build in builders.items()}
    rows: list[tuple[int, float, float, float]] = []
    try:
        begun, said = clock(), 0.0
        while (now := clock() - begun) < seconds:
            for at, engine in enumerate(engines.values()):
                start_s = clock() - begun
                times = engine.time(IN_TURN)
                cpu_ms = times.cpu_ms if times.cpu_ms is not None else float(times.wall_ms.sum())
                for wall_ms in times.wall_ms:
                    rows.append((at, start_s, float(wall_ms), cpu_ms / IN_TURN))
                    start_s += float(wall_ms) / 1e3
            if now - said >= 1.0:
                said = now
                told(now)
    finally:
        for engine in engines.values():
            engine.close()
    network, start, wall, cpu = (np.array(column, dtype=np.float64) for column in zip(*rows))
    return Trace(
        tuple(engines), conditions, network.astype(np.int64), np.maximum.accumulate(start), wall, cpu
    )


class Replay:
    """A moment of a trace, in seconds; call it to read it, as `time.perf_counter`."""

    def __init__(self, trace: Trace, at_s: float = 0.0) -> None:
        self.trace, self.now_s = trace, at_s
        self.setting = Setting(
            device="replay",
            device_arch="trace",
            backend="replay",
            backend_version="1",
            precision="fp32",
            batch=1,
            threads=1,
        )

    def __call__(self) -> float:
        """The moment."""
        return self.now_s

    def sleep(self, seconds: float) -> None:
        """Advance the clock."""
        self.now_s += seconds

    def engine(self, name: str) -> Callable[[], ReplayEngine]:
        """A function that gives a new engine."""
        self.trace.of(name)
        return lambda: ReplayEngine(self, name)


class ReplayEngine:
    """One of a trace's engines. It has no outputs: only its times were recorded."""

    def __init__(self, replay: Replay, name: str) -> None:
        self.replay, self.setting = replay, replay.setting
        self._start_s, self._wall_ms, self._cpu_ms = replay.trace.of(name)

    def time(self, calls: int) -> CallTimes:
        """The next calls that were recorded; TraceOver where there are no more."""
        first = int(np.searchsorted(self._start_s, self.replay.now_s))
        last = first + calls
        if last > len(self._start_s):
            raise TraceOver(f"the trace ends at {self.replay.trace.seconds:.0f} s")
        wall_ms = self._wall_ms[first:last]
        self.replay.now_s = float(self._start_s[last - 1] + wall_ms[-1] / 1e3)
        return CallTimes(wall_ms.copy(), float(self._cpu_ms[first:last].sum()))

    def run(self, images: object) -> np.ndarray:
        """Nothing: a trace holds times only."""
        raise InputError("an engine of a trace has no outputs")

    def save(self, path: Path) -> None:
        """Nothing to save."""
        raise InputError("an engine of a trace cannot be saved")

    def close(self) -> None:
        """Nothing to free."""
