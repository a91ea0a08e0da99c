"""The history: what runs there are, what one gave, how several differ, and removing them."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hwnas import locks, runs, schemas
from hwnas.documents import read_json
from hwnas.errors import HwnasError, InputError
from hwnas.records import SearchResult
from hwnas.results import Result
from hwnas.runs import RUNS, read_manifest
from hwnas.store import parse


class Run(Result):
    """One run of the history; a figure that it does not have is None.

    `state` is "done", "running", "unfinished" or "damaged", and `note` says what is damaged.
    """

    name: str
    path: str
    verb: str | None
    created: str
    state: str
    data: str | None
    space: str | None
    strategy: str | None
    network: str | None
    device: str | None
    precision: str | None
    accuracy: float | None
    test_accuracy: float | None
    latency_ms: float | None
    budget_ms: float | None
    macs: int | None
    params: int | None
    trials: int | None
    engines: tuple[str, ...]
    note: str


class Runs(Result):
    """The runs under a folder, oldest first."""

    root: str
    runs: tuple[Run, ...]


class File(Result):
    """A file of a run, by its place in it."""

    path: str
    bytes: int


class RunDetails(Run):
    """One run with its configuration, the versions that it ran under, and its files.

    `where` says how many networks each machine trained; empty where the search itself trained them. `running`
    has the process that works in the run now, and the place of each task that it has elsewhere.
    """

    config: dict[str, Any]
    environment: dict[str, Any]
    where: dict[str, int]
    running: dict[str, str]
    files: tuple[File, ...]


class Comparison(Result):
    """Several runs, and the configuration values in which they differ, in the order of the runs."""

    runs: tuple[Run, ...]
    differences: dict[str, tuple[Any, ...]]


class Removed(Result):
    """The folders that were deleted; in a dry run those that would be."""

    removed: tuple[str, ...]
    dry_run: bool


def history(root: Path = RUNS) -> Runs:
    """Every run under `root`, oldest first."""
    folders = [p.parent for p in root.glob("*/manifest.json") if not p.parent.is_symlink()]
    found = [summary(folder) for folder in folders]
    return Runs.of({"root": str(root), "runs": sorted(found, key=lambda r: (r["created"], r["name"]))})


def show(name: str | None = None, root: Path = RUNS) -> RunDetails:
    """Everything about one run: summary, configuration, files with their sizes in bytes."""
    folder = runs.resolve(name, root=root)
    manifest = read_manifest(folder)
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    body = {
        **summary(folder),
        "config": manifest["config"],
        "environment": {k: manifest[k] for k in ("hwnas", "python", "platform") if k in manifest},
        "where": _where(folder / "events.jsonl"),
        "running": _running(folder),
        "files": [{"path": str(p.relative_to(folder)), "bytes": p.stat().st_size} for p in files],
    }
    return RunDetails.of(body)


def _where(path: Path) -> dict[str, int]:
    """Trainings by the machine that ran them, as far as the events can be read."""
    if not path.is_file():
        return {}
    events, _ = runs.salvage_events(path)
    places = [event.get("where") for event in events]
    return dict(Counter(place.partition(",")[0] for place in places if isinstance(place, str)))


def _running(folder: Path) -> dict[str, str]:
    """What works in a run now: its process, and the tasks that began since and have no result yet."""
    holder = locks.holder(folder)
    if holder is None:
        return {}
    open_: dict[str, str] = {}
    events = runs.salvage_events(folder / "events.jsonl")[0] if (folder / "events.jsonl").is_file() else []
    for event in events:
        if event.get("event") == "began":
            open_[str(event.get("task"))] = str(event.get("where"))
        elif event.get("event") == "trial" and isinstance(event.get("trial"), dict):
            open_.pop(f"trial {event['trial'].get('index')}", None)
        elif event.get("event") == "preparation":
            open_.pop(f"preparing {event.get('strategy')}", None)
    # What measures is done in seconds, and has no event at its end.
    long_ones = {task: where for task, where in open_.items() if task.startswith(("trial ", "preparing "))}
    return {"process": holder, **long_ones}


def compare(names: Sequence[str], root: Path = RUNS) -> Comparison:
    """Several runs side by side: summaries, and the configuration values in which they differ."""
    if len(names) < 2:
        raise InputError("runs compare needs at least two runs; `hwnas runs list` lists the runs")
    folders = [runs.resolve(name, root=root) for name in names]
    configs = [read_manifest(f)["config"] for f in folders]
    keys = sorted({key for config in configs for key in config})
    differing = {
        key: [config.get(key) for config in configs]
        for key in keys
        if any(config.get(key) != configs[0].get(key) for config in configs)
    }
    return Comparison.of({"runs": [summary(folder) for folder in folders], "differences": differing})


def remove(names: Sequence[str], root: Path = RUNS, *, dry_run: bool = False) -> Removed:
    """Delete run folders; every name is resolved, checked and locked before the first is deleted.

    Only what holds a run manifest of hwnas is deleted. Of links only ``latest`` is followed, so that
    ``runs rm latest`` removes the run itself; it then points at the newest that is left.

    Raises:
        InputError: no such run, a link of the user's, a folder that one works in, or one in use.
        DataFormatError: the manifest is damaged or not of hwnas.
    """
    for name in names:
        _refuse_link(name, root)
    folders = list(dict.fromkeys(runs.resolve(name, root=root) for name in names))
    for folder in folders:
        if any(folder.resolve() in (place, *place.parents) for place in (Path.cwd(), Path.home())):
            raise InputError(f"{folder} contains the current working directory; it was not deleted")
    if not dry_run:
        held = [locks.Lock(folder, folder=True) for folder in folders]
        for folder in folders:
            shutil.rmtree(folder)
        for lock in held:
            lock.release()
        for parent in {folder.parent for folder in folders}:
            _relink(parent)
    return Removed.of({"removed": [str(folder) for folder in folders], "dry_run": dry_run})


def _refuse_link(name: str, root: Path) -> None:
    for path in (Path(name), root / name):
        if path.is_symlink() and path.name != "latest":
            raise InputError(f"{path} is a link; name the run itself to delete it, or remove the link")


def _relink(root: Path) -> None:
    link = root / "latest"
    if not link.is_symlink() or link.exists() or len(link.readlink().parts) != 1:
        return
    link.unlink()
    with suppress(InputError):  # none is left
        runs.link_latest(runs.resolve(None, root=root))


def summary(folder: Path) -> dict[str, Any]:
    """Name, verb, state and the figures of one run; a figure that the run does not have is None."""
    base = {**_EMPTY, "name": folder.name, "path": str(folder)}
    try:
        manifest = read_manifest(folder)
        base |= {"verb": manifest["verb"], "created": manifest.get("created", "")}
        base |= _asked(manifest["config"])
        if locks.holder(folder) is not None:
            base |= {"state": "running"}
        if (folder / "result.json").is_file():
            base |= {"state": "done", **_figures(folder / "result.json")}
    except HwnasError as exc:  # it must not hide the runs that are well
        return {**base, "state": "damaged", "note": str(exc)}
    engines = sorted(p.name.removesuffix(".manifest.json") for p in folder.rglob("*.manifest.json"))
    return {**base, "engines": engines}


def _asked(config: dict[str, Any]) -> dict[str, Any]:
    """What tells runs apart before they have a result, where the configuration names it."""
    setting = config.get("setting")
    conditions = setting if isinstance(setting, dict) else config
    found = {name: config.get(name) for name in ("data", "space", "strategy", "network")}
    found |= {name: conditions.get(name) for name in ("device", "precision")}
    return {name: value for name, value in found.items() if isinstance(value, str)}


_EMPTY: dict[str, Any] = {
    "verb": None,
    "created": "",
    "state": "unfinished",
    "data": None,
    "space": None,
    "strategy": None,
    "network": None,
    "device": None,
    "precision": None,
    "accuracy": None,
    "test_accuracy": None,
    "latency_ms": None,
    "budget_ms": None,
    "macs": None,
    "params": None,
    "trials": None,
    "engines": [],
    "note": "",
}


def _figures(path: Path) -> dict[str, Any]:
    """Accuracies, latency and size out of a search's or a training's result."""
    body = read_json(path, "run result", sealed=True)
    accuracy = body.get("accuracy")
    by_split = accuracy if isinstance(accuracy, dict) else {"val": accuracy}
    val, test = (
        value if isinstance(value, (int, float)) else None
        for value in (by_split.get("val"), by_split.get("test"))
    )
    if body.get("schema") == schemas.SEARCH:
        known = {name: value for name, value in body.items() if name in SearchResult.model_fields}
        result = parse(SearchResult, known, f"run result {path}")
        best = result.trials[result.best]
        return {
            "accuracy": best.evaluation.accuracy if best.evaluation else None,
            "test_accuracy": test,
            "latency_ms": result.measured.median_ms,
            "budget_ms": result.budget.latency_ms,
            "macs": best.estimate.macs,
            "params": best.estimate.params,
            "trials": len(result.trials),
        }
    return {"accuracy": val, "test_accuracy": test}
