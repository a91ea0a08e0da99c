"""What a report can be drawn from, read from a run folder; what is missing is reported, never guessed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from hwnas import schemas, seals
from hwnas.budgets import parse_latency
from hwnas.by_class import ByClass
from hwnas.by_engine import BENCHMARK, BenchmarkOutcome
from hwnas.deploy.manifest import EngineManifest
from hwnas.deploy.manifest import read_manifest as read_engine_manifest
from hwnas.documents import json_object, read_json
from hwnas.errors import DataFormatError, HwnasError, InputError
from hwnas.estimates import Budget
from hwnas.measure import table as tables
from hwnas.measure import table_folder
from hwnas.measure.rows import SUFFIX
from hwnas.measure.table import LatencyTable
from hwnas.records import Measurement, Promise, SearchResult, Setting, Trial, trained
from hwnas.runs import read_manifest, salvage_events
from hwnas.search.ranking import accuracy, candidates
from hwnas.spec import NetworkSpec
from hwnas.store import parse, read_network
from hwnas.top_losses import TopLoss

T = TypeVar("T")


@dataclass
class RunData:
    """Everything that was found in one run folder.

    Attributes:
        trials: every network that was looked at, from the result or, without one, from the events.
        result: None while a search has not ended (or was killed).
        budget_ms: the (largest) latency budget; None where none is known.
        engines: manifests of exported engines.
        benchmark: its network in every engine that worked here; None where that was not looked at.
        table: the latency table that the run used.
        source: name of the search that a training continues; its trials are shown.
        device: of a search for several devices, the first, which all but one section is about.
        extra: further fields of result.json, such as test accuracy.
        curve: rows of the learning curve of the network that was kept (see `TrainResult.curve`).
        missing: in words, what is not there and what that means.
        warnings: in words, why figures may mean less than they seem to.
    """

    path: Path
    verb: str = "run"
    manifest: dict[str, Any] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)
    trials: tuple[Trial, ...] = ()
    result: SearchResult | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    network: NetworkSpec | None = None
    engines: list[EngineManifest] = field(default_factory=list)
    benchmark: BenchmarkOutcome | None = None
    table: LatencyTable | None = None
    source: str = ""
    device: str = ""
    curve: list[dict[str, float]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.path.resolve().name

    @property
    def config(self) -> dict[str, Any]:
        """The settings that the run was started with."""
        found = self.manifest.get("config", {})
        return found if isinstance(found, dict) else {}

    @property
    def best(self) -> Trial | None:
        """The winner of a finished search."""
        if self.result is None:
            return None
        return next((t for t in self.trials if t.index == self.result.best), None)

    @property
    def budget(self) -> Budget | None:
        """The budget: the result's, an engine's, or what the command asked for."""
        if self.result is not None:
            return self.result.budget.on(self.device)
        exported = (engine.budget for engine in self.engines if engine.budget is not None)
        return next(exported, None) or self.asked_budget()

    @property
    def chosen(self) -> Trial | None:
        """The winner; in a run without a result the best trained network so far that fits."""
        if self.best is not None:
            return self.best
        budget = self.budget
        fitting = [t for t in candidates(self.trials) if budget is None or budget.fits(t.estimate)]
        return max(fitting, key=accuracy, default=None)

    def setting(self) -> Setting | None:
        """The conditions of the latencies."""
        if self.result is not None:
            return self.result.setting
        if self.engines:
            return self.engines[0].setting
        if self.table is not None:
            return self.table.setting
        known = self.config.get("setting")
        try:
            return parse(Setting, known, "setting") if isinstance(known, dict) else None
        except HwnasError:
            return None

    def asked_budget(self) -> Budget | None:
        """The (largest) budget that the command asked for, where its configuration shows one."""
        known = self.config.get("budgets")
        if isinstance(known, list):
            try:
                return parse(Budget, known[-1], "budget").on(self.device)
            except (HwnasError, IndexError):
                pass
        asked = self.config.get("latency_budget")
        texts = asked if isinstance(asked, list) else str(asked or "").split(",")
        found = []
        for text in texts:
            try:
                latency_ms, percentile = parse_latency(str(text).strip())
            except HwnasError:
                continue  # a ratio such as 1.15x:resnet20, or nothing
            found.append(Budget(latency_ms=latency_ms, percentile=percentile))
        return max(found, key=lambda b: b.latency_ms or 0.0, default=None)

    def accuracy(self) -> tuple[str, float | None]:
        """Which split, and the top-1 fraction there: test where it was read, else validation."""
        shown = self.extra.get("accuracy")
        by_split = dict(shown) if isinstance(shown, dict) else {}
        for engine in self.engines:
            by_split = {**engine.accuracy, **by_split}
        if self.best is not None and self.best.evaluation is not None:
            by_split.setdefault("val", self.best.evaluation.accuracy)
        for split, name in (("test", "test"), ("val", "validation")):
            if isinstance(by_split.get(split), (int, float)):
                return name, float(by_split[split])
        return "validation", None

    def on_validation(self, best: Trial) -> tuple[float, float]:
        """Validation accuracy and its standard error: what the run recorded, else the winner's."""
        assert best.evaluation is not None
        figures = [self.extra.get("accuracy"), self.extra.get("accuracy_se")]
        value, error = (found.get("val") if isinstance(found, dict) else None for found in figures)
        if isinstance(value, (int, float)) and isinstance(error, (int, float)):
            return float(value), float(error)
        return best.evaluation.accuracy, best.evaluation.accuracy_se

    def by_class(self) -> tuple[str, ByClass] | None:
        """Which images, and the figures by class there: test where it was read, else what there is."""
        recorded = self.extra.get("by_class")
        for split, what in (("test", "test images"), ("val", "validation images")):
            if isinstance(recorded, dict) and isinstance(recorded.get(split), dict):
                try:
                    return what, parse(ByClass, recorded[split], "result.json: by_class")
                except HwnasError:
                    continue
        for engine in self.engines:
            if engine.by_class is not None:
                return f"images that {engine.engine} was compared on", engine.by_class
        return None

    @property
    def top_losses(self) -> list[TopLoss]:
        """The test images that the network is most wrong about; empty where none are recorded."""
        recorded = self.extra.get("top_losses")
        try:
            return [parse(TopLoss, row, "result.json: top_losses") for row in recorded or ()]
        except (HwnasError, TypeError):
            return []

    @property
    def data(self) -> str:
        """The data set as the user wrote it; empty where none is recorded."""
        found = self.config.get("data")
        return found if isinstance(found, str) else ""

    def seconds(self) -> float | None:
        """Wall time of the run; of its trainings alone while it has no result."""
        if self.result is not None:
            return self.result.seconds.get("total")
        return sum(t.outcome.wall_s for t in trained(self.trials)) or None

    @property
    def proof(self) -> tuple[Measurement, Promise] | None:
        """What was measured of the winner: of the exported file where there is one, else of the search."""
        for engine in self.engines:
            if engine.measured is not None and engine.promise is not None:
                return engine.measured, engine.promise
        return (self.result.measured, self.result.promise) if self.result is not None else None

    def of(self, kind: str) -> list[dict[str, Any]]:
        """The events of a kind, in order."""
        return [e for e in self.events if e.get("event") == kind]


def collect(path: Path) -> RunData:
    """Read a run folder, whatever state it is in; or a latency table alone.

    Raises:
        InputError: there is no such folder, or nothing in it that a report could show.
        DataFormatError: `path` is a table that is damaged.
    """
    if path.name.endswith(SUFFIX):
        table = tables.load(path)
        return RunData(path, verb="profile", table=table, warnings=list(table.warnings))
    if not path.is_dir():
        raise InputError(f"no run folder at {path}; `hwnas runs list` lists the runs")
    run = RunData(path)
    run.manifest = _try(run, "manifest.json", lambda p: read_manifest(p.parent), {})
    run.verb = str(run.manifest.get("verb", "run"))
    run.events = _events(run)
    body: dict[str, Any] = {}
    if (path / "result.json").exists():
        body = _try(run, "result.json", lambda p: read_json(p, "result"), body)
    _result(run, body)
    if run.result is None:
        run.trials = _trials(run)
    _on_first_device(run)
    if (path / "network.json").exists():
        run.network = _try(run, "network.json", read_network, None)
    for file in sorted(path.glob("*.manifest.json")):
        run.engines += _try(run, file.name, lambda p: [read_engine_manifest(p)], [])
    if (path / BENCHMARK).exists():
        run.benchmark = _try(run, BENCHMARK, _benchmark, None)
    if run.verb == "train":
        _inherit(run)
    run.table = _table(run)
    run.curve = _curve(run)
    notes = run.extra.get("data_notes")
    run.warnings += [str(note) for note in notes] if isinstance(notes, list) else []
    run.warnings += run.table.warnings if run.table is not None else []
    if not (run.manifest or run.events or run.trials or run.engines or run.extra):
        raise InputError(f"{path} is not a run folder of hwnas")
    return run


def _on_first_device(run: RunData) -> None:
    """Of a search for several devices, the trials as they are on the first."""
    run.device = next(iter(run.trials[0].estimate.by_device), "") if run.trials else ""
    if not run.device:
        return
    run.trials = tuple(
        trial.model_copy(
            update={
                "estimate": trial.estimate.on(run.device),
                "predicted": None if trial.predicted is None else trial.predicted.on(run.device),
            }
        )
        for trial in run.trials
    )


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


def _curve(run: RunData) -> list[dict[str, float]]:
    """Rows of the learning curve: of a training, or of the winner's where its weights lie."""
    found = run.extra.get("curve")
    done = run.best.evaluation if run.best is not None and not run.source else None
    if found is None and done is not None and done.weights:
        record = (run.path / done.weights).with_suffix(".json")
        if record.is_file() and record.resolve().is_relative_to(run.path.resolve()):
            name = str(record.relative_to(run.path))
            found = _try(run, name, lambda p: read_json(p, "evaluation").get("curve"), None)
    rows = [row for row in found if isinstance(row, dict)] if isinstance(found, list) else []
    return [row for row in rows if all(isinstance(value, (int, float)) for value in row.values())]


def _table(run: RunData) -> LatencyTable | None:
    """The table that the run used: named in its configuration, or found by its id."""
    ids = [run.result.table_id] if run.result else [engine.table_id for engine in run.engines]
    wanted = next((name for name in (*ids, str(run.config.get("table_id") or "")) if name), "")
    named = run.config.get("table")
    places = [Path(named)] if isinstance(named, str) else []
    places += sorted(run.path.glob(f"*{SUFFIX}")) + sorted(table_folder.folder().glob(f"*{SUFFIX}"))
    for place in places if wanted else []:
        if place.is_file() and _last_hash(place) == wanted:
            try:
                return tables.load(place)
            except HwnasError as exc:
                run.missing.append(f"the latency table cannot be read: {exc}")
                return None
    if wanted:
        run.missing.append(f"the latency table {wanted} is not on this machine; its quality is not shown")
    return None


def _inherit(run: RunData) -> None:
    """Let a training show the search that found its network; its own accuracy stays.

    Not where the search was on other data: its accuracies would be taken for those of this training.
    """
    name = run.config.get("network")
    for place in (Path(name), run.path.resolve().parent / name) if isinstance(name, str) else ():
        if (place / "result.json").is_file() and place.resolve() != run.path.resolve():
            source = collect(place)
            if source.data != run.data:
                run.missing.append(
                    f"the network is from {source.name}, which used other data ({source.data or 'none'}): "
                    "its accuracies and its latency test are not shown here"
                )
                return
            run.result, run.trials, run.source = source.result, source.trials, source.name
            run.device = source.device
            run.events = [*source.events, *run.events]
            return


def _last_hash(path: Path) -> str:
    """The hash in the last line of a table, which is the table's id; empty where there is none."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - (1 << 16)))
        line = file.read().rstrip(b"\n").rpartition(b"\n")[2]
    try:
        return str(json_object(line.decode(), path).get(seals.LINE, ""))
    except (UnicodeDecodeError, DataFormatError):
        return ""


def _try(run: RunData, name: str, read: Callable[[Path], T], otherwise: T) -> T:
    try:
        return read(run.path / name)
    except HwnasError as exc:
        absent = not (run.path / name).exists()
        run.missing.append(f"{name} is missing" if absent else f"{name} cannot be read: {exc}")
        return otherwise


def _events(run: RunData) -> list[dict[str, Any]]:
    """The events that can be read: a report of a damaged log beats no report."""
    file = run.path / "events.jsonl"
    if not file.exists():
        run.missing.append("events.jsonl is missing: the course of the run is unknown")
        return []
    nothing: tuple[list[dict[str, Any]], int] = [], 0
    events, damaged = _try(run, file.name, salvage_events, nothing)
    if damaged:
        run.missing.append(f"{damaged} line(s) of events.jsonl are damaged and were left out")
    return events


def _result(run: RunData, body: dict[str, Any]) -> None:
    """Take result.json apart: a search's result, and whatever a command added to it."""
    if body.get("schema") == schemas.SEARCH:
        known = {k: v for k, v in body.items() if k in SearchResult.model_fields}
        run.result = _try(run, "result.json", lambda p: parse(SearchResult, known, p), None)
        run.trials = run.result.trials if run.result else ()
        body = {k: v for k, v in body.items() if k not in known}
    run.extra = {k: v for k, v in body.items() if k != "schema"}
    if run.verb == "search" and run.result is None:
        run.missing.append(
            "the search has no result yet: it was interrupted or still runs; repeat the command with the "
            "same --out to continue"
        )


def _trials(run: RunData) -> tuple[Trial, ...]:
    """Trials from the events, with later measurements added."""
    found: dict[int, Trial] = {}
    for event in run.of("trial"):
        try:
            trial = parse(Trial, event.get("trial", {}), "events.jsonl")
        except HwnasError as exc:
            run.missing.append(str(exc))
            continue
        found[trial.index] = trial
    for event in run.of("confirm"):
        at, taken = event.get("index"), event.get("measured")
        if isinstance(at, int) and at in found and isinstance(taken, dict):
            try:
                measured = parse(Measurement, taken, "events.jsonl")
            except HwnasError as exc:
                run.missing.append(str(exc))
                continue
            found[at] = found[at].model_copy(update={"measured": measured})
    return tuple(found[i] for i in sorted(found))


def promises(run: RunData) -> list[tuple[int, Promise]]:
    """Every promise test of a run, in order, with the index of the trial that it was about."""
    found = []
    for event in run.of("confirm"):
        try:
            found.append((int(event["index"]), parse(Promise, event["promise"], "events.jsonl")))
        except (HwnasError, KeyError, TypeError, ValueError):
            continue
    if not found and run.result is not None:
        found.append((run.result.best, run.result.promise))
    return found
