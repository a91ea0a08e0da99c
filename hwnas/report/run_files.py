"""The files of a run, each read by itself; of one that cannot be read a note says why."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from hwnas import schemas, seals
from hwnas.by_engine import BENCHMARK, BenchmarkOutcome
from hwnas.deploy.manifest import EngineManifest
from hwnas.deploy.manifest import read_manifest as read_engine_manifest
from hwnas.documents import json_object, read_json
from hwnas.errors import DataFormatError, HwnasError
from hwnas.measure import table as tables
from hwnas.measure import table_folder
from hwnas.measure.rows import SUFFIX
from hwnas.measure.table import LatencyTable
from hwnas.records import Measurement, Trial
from hwnas.runs import salvage_events
from hwnas.store import parse

T = TypeVar("T")
Read = TypeVar("Read", Trial, Measurement)


@dataclass(frozen=True)
class RunFiles:
    """The files of one run folder.

    Attributes:
        path: the folder.
        missing: takes what is not there or cannot be read, in words.
    """

    path: Path
    missing: list[str]

    def read(self, name: str, read: Callable[[Path], T], otherwise: T) -> T:
        """What is read of a file; `otherwise` where it is not there or damaged."""
        try:
            return read(self.path / name)
        except HwnasError as exc:
            absent = not (self.path / name).exists()
            self.missing.append(f"{name} is missing" if absent else f"{name} cannot be read: {exc}")
            return otherwise

    def events(self) -> list[dict[str, Any]]:
        """The events that can be read: a report of a damaged log beats no report."""
        file = self.path / "events.jsonl"
        if not file.exists():
            self.missing.append("events.jsonl is missing: the course of the run is unknown")
            return []
        nothing: tuple[list[dict[str, Any]], int] = [], 0
        events, damaged = self.read(file.name, salvage_events, nothing)
        if damaged:
            self.missing.append(f"{damaged} line(s) of events.jsonl are damaged and were left out")
        return events

    def trials(self, events: Sequence[dict[str, Any]]) -> tuple[Trial, ...]:
        """Trials from the events, with later measurements added."""
        found: dict[int, Trial] = {}
        for event in (e for e in events if e.get("event") == "trial"):
            if (trial := self._parsed(Trial, event.get("trial", {}))) is not None:
                found[trial.index] = trial
        for event in (e for e in events if e.get("event") == "confirm"):
            at, taken = event.get("index"), event.get("measured")
            if not isinstance(at, int) or at not in found or not isinstance(taken, dict):
                continue
            if (measured := self._parsed(Measurement, taken)) is not None:
                found[at] = found[at].model_copy(update={"measured": measured})
        return tuple(found[i] for i in sorted(found))

    def _parsed(self, model: type[Read], body: Any) -> Read | None:
        """A part of an event; None where it is not what it should be."""
        try:
            return parse(model, body, "events.jsonl")
        except HwnasError as exc:
            self.missing.append(str(exc))
            return None

    def engines(self) -> list[EngineManifest]:
        """Manifests of the engines that were exported."""
        files = sorted(self.path.glob("*.manifest.json"))
        found = [self.read(file.name, read_engine_manifest, None) for file in files]
        return [manifest for manifest in found if manifest is not None]

    def benchmark(self) -> BenchmarkOutcome | None:
        """The table of engines; None where that was not looked at."""
        return self.read(BENCHMARK, _benchmark, None) if (self.path / BENCHMARK).exists() else None

    def curve_of(self, weights: str) -> Any:
        """The learning curve that was recorded beside a trial's weights; None where none lies there."""
        record = (self.path / weights).with_suffix(".json")
        if not record.is_file() or not record.resolve().is_relative_to(self.path.resolve()):
            return None
        name = str(record.relative_to(self.path))
        return self.read(name, lambda p: read_json(p, "evaluation").get("curve"), None)

    def table(self, wanted: str, named: str | None) -> LatencyTable | None:
        """The latency table with an id: at the path that was named, in the folder or among this machine's."""
        places = [Path(named)] if named is not None else []
        places += sorted(self.path.glob(f"*{SUFFIX}")) + sorted(table_folder.folder().glob(f"*{SUFFIX}"))
        for place in places:
            if _last_hash(place) == wanted:
                try:
                    return tables.load(place)
                except HwnasError as exc:
                    self.missing.append(f"the latency table cannot be read: {exc}")
                    return None
        self.missing.append(f"the latency table {wanted} is not on this machine; its quality is not shown")
        return None


def _benchmark(path: Path) -> BenchmarkOutcome:
    """The table of engines; DataFormatError where it is damaged."""
    body = read_json(path, "benchmark", schemas.BENCHMARK)
    del body["schema"]
    found = BenchmarkOutcome.of(body)
    if any(at is not None and not 0 <= at < len(found.engines) for at in _places(found)):
        raise DataFormatError(f"{path}: its fastest engine is not in the table; run `hwnas benchmark` again")
    return found


def _places(found: BenchmarkOutcome) -> tuple[int | None, int | None]:
    return found.fastest, found.fastest_within_loss


def _last_hash(path: Path) -> str:
    """The hash in the last line of a table, which is the table's id; empty where there is none."""
    try:
        if not path.is_file():
            return ""
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - (1 << 16)))
            line = file.read().rstrip(b"\n").rpartition(b"\n")[2]
        return str(json_object(line.decode(), path).get(seals.LINE, ""))
    except (
        OSError,
        UnicodeDecodeError,
        DataFormatError,
    ):  # not ours to read, a path that no system takes, ...
        return ""
