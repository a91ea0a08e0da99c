"""What a report can be drawn from, read from a run folder; what is missing is reported, never guessed."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hwnas import schemas
from hwnas.budgets import parse_latency
from hwnas.by_class import ByClass
from hwnas.by_engine import BenchmarkOutcome
from hwnas.deploy.manifest import EngineManifest
from hwnas.documents import read_json
from hwnas.errors import HwnasError, InputError
from hwnas.estimates import Budget
from hwnas.measure import table as tables
from hwnas.measure.rows import SUFFIX
from hwnas.measure.table import LatencyTable
from hwnas.records import Measurement, Promise, SearchResult, Setting, Trial, trained
from hwnas.report.run_files import RunFiles
from hwnas.runs import read_manifest
from hwnas.search.ranking import accuracy, candidates
from hwnas.spec import NetworkSpec
from hwnas.store import parse, read_network
from hwnas.top_losses import TopLoss


@dataclass
class RunData:
    """Everything that was found in one run folder.

    Attributes:
        trials: every network that was looked at, from the result or, without one, from the events.
        result: None while a search has not ended (or was killed).
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
    return _collect(path, frozenset())


def _collect(path: Path, before: frozenset[Path]) -> RunData:
    """A folder; `before` are those that were read because they continue it."""
    run = RunData(path)
    files = RunFiles(path, run.missing)
    run.manifest = files.read("manifest.json", lambda p: read_manifest(p.parent), {})
    run.verb = str(run.manifest.get("verb", "run"))
    run.events = files.events()
    _result(run, files)
    if run.result is None:
        run.trials = files.trials(run.events)
    _on_first_device(run)
    if (path / "network.json").exists():
        run.network = files.read("network.json", read_network, None)
    run.engines = files.engines()
    run.benchmark = files.benchmark()
    if run.verb == "train":
        _inherit(run, before)
    run.table = _table(run, files)
    run.curve = _curve(run, files)
    notes = run.extra.get("data_notes")
    run.warnings += [str(note) for note in notes] if isinstance(notes, list) else []
    run.warnings += run.table.warnings if run.table is not None else []
    if not (run.manifest or run.events or run.trials or run.engines or run.extra):
        raise InputError(f"{path} is not a run folder of hwnas")
    return run


def _result(run: RunData, files: RunFiles) -> None:
    """Take result.json apart: a search's result, and whatever a command added to it."""
    body: dict[str, Any] = {}
    if (run.path / "result.json").exists():
        body = files.read("result.json", lambda p: read_json(p, "result"), body)
    if body.get("schema") == schemas.SEARCH:
        known = {k: v for k, v in body.items() if k in SearchResult.model_fields}
        run.result = files.read("result.json", lambda p: parse(SearchResult, known, p), None)
        run.trials = run.result.trials if run.result else ()
        body = {k: v for k, v in body.items() if k not in known}
    run.extra = {k: v for k, v in body.items() if k != "schema"}
    if run.verb == "search" and run.result is None:
        run.missing.append(
            "the search has no result yet: it was interrupted or still runs; repeat the command with the "
            "same --out to continue"
        )


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


def _curve(run: RunData, files: RunFiles) -> list[dict[str, float]]:
    """Rows of the learning curve: of a training, or of the winner's where its weights lie."""
    found = run.extra.get("curve")
    done = run.best.evaluation if run.best is not None and not run.source else None
    if found is None and done is not None and done.weights:
        found = files.curve_of(done.weights)
    rows = [row for row in found if isinstance(row, dict)] if isinstance(found, list) else []
    return [row for row in rows if all(isinstance(value, (int, float)) for value in row.values())]


def _table(run: RunData, files: RunFiles) -> LatencyTable | None:
    """The table that the run used: named in its configuration, or found by its id."""
    ids = [run.result.table_id] if run.result else [engine.table_id for engine in run.engines]
    wanted = next((name for name in (*ids, str(run.config.get("table_id") or "")) if name), "")
    named = run.config.get("table")
    return files.table(wanted, named if isinstance(named, str) else None) if wanted else None


def _inherit(run: RunData, before: frozenset[Path]) -> None:
    """Let a training show the search that found its network; its own accuracy stays.

    Not where the search was on other data: its accuracies would be taken for those of this training.
    """
    name, known = run.config.get("network"), before | {run.path.resolve()}
    for place in (Path(name), run.path.resolve().parent / name) if isinstance(name, str) else ():
        if not _has_result(place) or place.resolve() in known:
            continue
        try:
            source = _collect(place, known)
        except HwnasError as exc:
            run.missing.append(f"the run that the network is from cannot be shown: {exc}")
            return
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


def _has_result(place: Path) -> bool:
    try:
        return (place / "result.json").is_file()
    except OSError:  # a name that no file system takes, or a folder that is not ours to read
        return False


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
