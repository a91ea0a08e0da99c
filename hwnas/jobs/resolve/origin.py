"""What is to be deployed: network and weights of a run, with the conditions that they were found under."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hwnas import runs, schemas
from hwnas.arrays import Float32s
from hwnas.backends.formats import usual
from hwnas.deploy.manifest import weights_digest
from hwnas.documents import read_json
from hwnas.errors import DataFormatError, HwnasError, InputError
from hwnas.estimates import Budget, Estimate
from hwnas.jobs.resolve.networks import find
from hwnas.measure.remote.address import is_remote
from hwnas.nets.weights import read_weights
from hwnas.records import SearchedDevice, SearchResult, Setting
from hwnas.spec import NetworkSpec
from hwnas.store import parse, read_network
from hwnas.traced import VariantSpec

SEARCHED = ("setting", "budget", "predicted", "table_id", "table_error_percent", "devices")
MADE_BY = ("search", "train")


@dataclass(frozen=True)
class Origin:
    """A network with its weights, and what is known about it.

    Attributes:
        folder: where it lies and where an engine of it goes.
        weights: file of its weights.
        setting, budget, predicted, table_id, table_error_percent: of the search that found it, where one did.
        accuracy: fraction right by split, where it was read.
        about: class names and normalisation, where they are recorded.
        data, seed, limit: what it was trained on, for `train.data.load`; `data` is text out of a file
            (see `jobs.export.samples`).
        fingerprint: of that data, as it was then.
        weights_sha256: of the weights that the training wrote, where it recorded them.
        devices: all that the search was for, where it was for several.
        all_predicted: with the times of each of these devices, where `predicted` has one's.
    """

    folder: Path
    spec: NetworkSpec
    weights: Path
    setting: Setting | None = None
    budget: Budget | None = None
    predicted: Estimate | None = None
    table_id: str = ""
    table_error_percent: float | None = None
    accuracy: dict[str, float] = field(default_factory=dict)
    about: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    data: str | None = None
    seed: int = 0
    limit: int | None = None
    fingerprint: str | None = None
    weights_sha256: str | None = None
    devices: tuple[SearchedDevice, ...] = ()
    all_predicted: Estimate | None = None

    def on(self, device: str) -> Origin:
        """As it is known on one of the devices that the search was for; the same on any other."""
        for one in self.devices:
            if one.setting.device == device and self.budget is not None:
                budget = self.budget.model_copy(update={"latency_ms": one.budget_ms, "by_device_ms": {}})
                return replace(
                    self,
                    setting=one.setting,
                    table_id=one.table_id,
                    budget=budget,
                    predicted=None if self.all_predicted is None else self.all_predicted.on(device),
                )
        return self

    def read_weights(self) -> dict[str, Float32s]:
        """The weights by state-dict name; DataFormatError unless they are those that were trained."""

        found = read_weights(self.weights)
        if self.weights_sha256 is not None and (digest := weights_digest(found)) != self.weights_sha256:
            raise DataFormatError(
                f"weights {self.weights} differ from those that the training wrote: their SHA-256 is "
                f"{digest[:12]}..., {self.weights_sha256[:12]}... is recorded in result.json; the file was "
                "damaged or replaced, so train again, or take it from a copy"
            )
        return found


def origin(name: str | None, weights: Path | None = None) -> Origin:
    """Find what a user wants to deploy.

    Args:
        name: a run (name or folder), a folder of one of its targets, or a network file; None takes
            the newest search or training that has weights.
        weights: file of weights; default ``weights.safetensors`` beside the network.

    Raises:
        InputError: no such run, or it has no weights.
        DataFormatError: its files are damaged.
    """
    network = newest() / "network.json" if name is None else find(name)
    beside = weights or network.with_name("weights.safetensors")
    if not beside.is_file():
        raise InputError(
            f"{network} has no weights ({beside} does not exist); train it first: hwnas train {network} "
            "--data DATA, or name a file with --weights"
        )
    spec = read_network(network)
    folder = network.parent
    if folder.is_symlink():  # runs/latest: the run itself is what is meant
        folder = folder.parent / folder.readlink()
    known = _known(run_of(folder), spec, folder / "weights.safetensors")
    if weights is not None:  # what was recorded is about other weights
        known = {k: v for k, v in known.items() if k not in ("accuracy", "weights_sha256")}
    found = Origin(folder=folder, spec=spec, weights=beside, all_predicted=known.get("predicted"), **known)
    first = next(iter(found.budget.by_device_ms), "") if found.budget is not None else ""
    return found.on(first)


def export_command(run: str) -> str:
    """The command that exports a run for the runtime that it was searched through."""

    named = ""
    try:
        found = origin(run)
        setting = found.setting
        if isinstance(found.spec, VariantSpec) and (function := found.spec.base.function):
            named = f" --model {shlex.quote(function)}"
    except HwnasError:  # a search for several budgets: its networks lie one folder deeper
        setting = None
    far = f" --device {shlex.quote(setting.device)}" if setting and is_remote(setting.device) else ""
    return f"hwnas export {run} --format {usual(setting.backend if setting else '')}{far}{named}"


def newest(root: Path = runs.RUNS) -> Path:
    """The newest finished search or training under `root`."""
    found = [
        path
        for verb in MADE_BY
        for path in root.glob(f"{verb}-*")
        if (path / "weights.safetensors").is_file() and (path / "manifest.json").is_file()
    ]
    if not found:
        raise InputError(
            f"no finished search or training in {root}/ yet; make one by `hwnas search --latency-budget 18ms "
            "--data DATA`, or name a run"
        )
    return max(found, key=lambda path: (path / "manifest.json").stat().st_mtime)


def run_of(folder: Path) -> Path | None:
    """The run that a network's folder belongs to: itself, or the one it is a target of."""
    places = [folder, folder.parent.parent] if folder.parent.name == "targets" else [folder]
    return next((place for place in places if (place / "manifest.json").is_file()), None)


def _known(
    run: Path | None, spec: NetworkSpec, weights: Path | None = None, depth: int = 0
) -> dict[str, Any]:
    """What a run's files say about one of its networks."""
    if run is None:
        return {}
    config = runs.read_manifest(run)["config"]
    known: dict[str, Any] = {}
    if isinstance(config.get("data"), str):
        known = {
            "data": config["data"],
            "seed": _whole(config.get("seed")) or 0,
            "limit": _whole(config.get("limit")),
            "fingerprint": config.get("data_fingerprint"),
        }
    error = config.get("table_error_percent")
    if isinstance(error, (int, float)) and not isinstance(error, bool):
        known["table_error_percent"] = float(error)
    if not (run / "result.json").is_file():
        return known
    body = read_json(run / "result.json", "result")
    if body.get("schema") == schemas.SEARCH:
        known |= _searched(body, spec, run)
    elif isinstance(config.get("network"), str) and depth == 0:
        known = {**_source(config["network"], spec), **known}
    accuracy = body.get("accuracy")
    if isinstance(accuracy, dict) and known.pop("is_best", True):
        known["accuracy"] = {k: float(v) for k, v in accuracy.items() if isinstance(v, (int, float))}
    known.pop("is_best", None)
    recorded = body.get("weights_sha256")
    if weights is not None and isinstance(recorded, dict):
        known["weights_sha256"] = recorded.get(weights.relative_to(run).as_posix())
    about = {k: tuple(body[k]) for k in ("classes", "mean", "std") if isinstance(body.get(k), list)}
    return {**known, "about": about} if about else known


def _whole(value: Any) -> int | None:
    """An integer of a file; None for anything else."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def digests(run: Path) -> dict[str, str]:
    """SHA-256 of every file of weights that a run leaves, by its place in the run, for ``result.json``."""

    found = [run / "weights.safetensors", *sorted(run.glob("targets/*/weights.safetensors"))]
    return {p.relative_to(run).as_posix(): weights_digest(read_weights(p)) for p in found if p.is_file()}


def _source(name: str, spec: NetworkSpec) -> dict[str, Any]:
    """What the search says that a training started from; nothing where it was no run."""
    try:
        run = run_of(find(name).parent)
    except HwnasError:
        return {}
    known = _known(run, spec, depth=1)
    return {k: v for k, v in known.items() if k in SEARCHED}


def _searched(body: dict[str, Any], spec: NetworkSpec, run: Path) -> dict[str, Any]:
    """Conditions, budget and prediction of a searched network."""
    fields = {k: v for k, v in body.items() if k in SearchResult.model_fields}
    result = parse(SearchResult, fields, run / "result.json")
    trial = next((t for t in reversed(result.trials) if t.spec.key == spec.key), None)
    target = next((t for t in result.targets if result.trials[t.best].spec.key == spec.key), None)
    chosen = result.trials[target.best if target else result.best]
    found = chosen.evaluation
    return {
        "setting": result.setting,
        "budget": target.budget if target else result.budget,
        "predicted": trial.estimate if trial else None,
        "table_id": result.table_id,
        "devices": result.devices,
        "is_best": result.trials[result.best].spec.key == spec.key,
        **({"accuracy": {"val": found.accuracy}} if found and chosen.spec.key == spec.key else {}),
    }
