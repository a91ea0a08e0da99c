"""What a search needs of the runtime, and what it says of its result."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hwnas import schemas, top_losses
from hwnas.documents import read_json
from hwnas.estimates import Budget, Estimate
from hwnas.jobs.resolve.origin import digests
from hwnas.lazy import lazy_import
from hwnas.measure import promise, timing
from hwnas.measure.patience import Patience
from hwnas.measure.sentinel import watched
from hwnas.nets import onnx
from hwnas.nets.count import count
from hwnas.protocols import Backend, Emit, Engine, Importance, Question
from hwnas.records import (
    Measurement,
    Promise,
    SearchResult,
    Setting,
    StageImportance,
    Target,
    Trial,
    to_json,
    trained,
)
from hwnas.runs import RunFolder
from hwnas.search.driver import target_folder
from hwnas.search.log import images_of
from hwnas.spec import NetworkSpec
from hwnas.store import write_json
from hwnas.units import format_ms

if TYPE_CHECKING:
    import torch
    import torch.nn.functional as F

    from hwnas.jobs.preparations.prepare import Prepared
    from hwnas.train.data import Dataset
    from hwnas.train.options import Recipe
else:
    torch = lazy_import("torch")
    F = lazy_import("torch.nn.functional")

# Multiply-accumulates of a step by which the speed of training is told: under a second anywhere.
_RATED_MACS = 3e9
# Candidates that may be measured against one budget until one keeps it; they share its error.
TRIES = 3
# Part of the patience that is left which a candidate's first measurement may use; the promise needs the rest.
MEASURE_SHARE = 0.25


@dataclass(frozen=True)
class NetworkBuilder:
    """Builds networks with the runtime of the table, to measure them whole."""

    runtime: Backend
    setting: Setting
    seed: int
    patience: Patience
    sentinel_ms: float | None = None  # of the table: the state of the machine that its floors are true in

    def engine(self, spec: NetworkSpec, weights: Path | None = None) -> Callable[[], Engine]:
        """A function that builds a new engine."""
        from hwnas.nets.build import read_weights

        values = read_weights(weights) if weights is not None else None
        graph = onnx.network(spec, values, batch=self.setting.batch, seed=self.seed)
        return lambda: self.runtime.build(graph, self.setting)

    def measure(self, spec: NetworkSpec) -> Measurement:
        """A quick whole measurement, for the cost model."""
        rng = np.random.default_rng(self.seed)
        options = timing.TimingOptions.preset("quick")
        guard, past = watched(self.runtime, self.setting) if self.sentinel_ms is not None else (None, None)
        found = timing.measure(
            {"network": self.engine(spec)},
            options,
            rng=rng,
            sentinel=guard,
            refer=guard is not None,
            base_ms=self.sentinel_ms,
            patience=self.patience.lend(MEASURE_SHARE),
            levels=past,
        )
        return found["network"]

    def confirm(
        self, spec: NetworkSpec, weights: Path | None, budget: Budget, emit: Emit
    ) -> tuple[Promise, Measurement]:
        """The measured promise of a candidate winner."""
        assert budget.latency_ms is not None
        engine = self.engine(spec, weights)
        emit("note", {"text": f"measuring {spec.depths_text} whole against {format_ms(budget.latency_ms)}"})
        guard, past = watched(self.runtime, self.setting)
        return promise.keep(
            engine,
            budget.latency_ms,
            budget.percentile,
            sentinel=guard,
            tries=TRIES,
            patience=self.patience,
            levels=past,
            emit=emit,
        )


@dataclass(frozen=True)
class Here:
    """Measures networks whole on this machine."""

    builder: NetworkBuilder
    emit: Emit

    def measure(self, spec: NetworkSpec) -> Measurement:
        """See `NetworkBuilder.measure`."""
        return self.builder.measure(spec)

    def confirm(self, spec: NetworkSpec, weights: Path | None, budget: Budget) -> tuple[Promise, Measurement]:
        """See `NetworkBuilder.confirm`."""
        return self.builder.confirm(spec, weights, budget, self.emit)


def figures(
    result: SearchResult, prepared: Prepared | None = None, tables: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The keys of docs/cli.md out of a result; what a preparation cost is part of the costs.

    `tables` has the file of each device's table, where the search is for several.
    """
    done = trained(result.trials)
    body: dict[str, Any] = {
        "best": _network(result.trials[result.best], result.measured, result.budget),
        "within_budget": result.promise.verdict == "kept",
        "budget": result.budget.describe(),
        "promise": to_json(result.promise),
        "conditions": "; ".join(one.setting.describe() for one in result.devices)
        or result.setting.describe(),
        "trials": len(result.trials),
        "trained": len(done),
        "images": sum(map(images_of, done)) + (prepared.images if prepared else 0),
        "train_macs": sum(map(_train_macs, done)) + (prepared.train_macs if prepared else 0.0),
        "seconds": result.seconds,
        "strategy": result.strategy,
        "stopped": result.stopped,
        "pareto": list(result.pareto),
    }
    if prepared is not None:
        body["preparation"] = {
            "images": prepared.images,
            "train_macs": prepared.train_macs,
            "seconds": prepared.seconds,
        }
    if result.targets:
        body["targets"] = [
            {
                "budget": target.budget.describe(),
                "best": _network(result.trials[target.best], target.measured, target.budget),
                "within_budget": target.promise.verdict == "kept",
                "devices": _devices(result, target, tables or {}),
            }
            for target in result.targets
        ]
    if result.devices:
        body["devices"] = body["targets"][-1]["devices"]
    return body


def _devices(result: SearchResult, target: Target, tables: Mapping[str, str]) -> list[dict[str, Any]]:
    """What a winner takes on each device whose budget it keeps, where the search is for several."""
    found, trial = [], result.trials[target.best]
    for device in result.devices:
        name = device.setting.device
        if name not in target.budget.by_device_ms:
            continue
        promise, measured = target.promise.by_device[name], target.measured.by_device[name]
        found.append(
            {
                "device": name,
                "conditions": device.setting.describe(),
                "table": tables.get(name, ""),
                "budget": target.budget.on(name).describe(),
                **_latencies(trial.estimate.on(name), measured),
                "within_budget": promise.verdict == "kept",
            }
        )
    return found


def _train_macs(trial: Trial) -> float:
    """Multiply-accumulates of a trial's training, its importance included (three passes an image)."""
    extra = sum(one.images for one in trial.outcome.importance)
    return trial.outcome.train_macs + 3.0 * trial.estimate.macs * extra


def _latencies(estimate: Estimate, measured: Measurement) -> dict[str, Any]:
    return {
        "predicted_ms": estimate.latency_ms,
        "low_ms": estimate.low_ms,
        "high_ms": estimate.high_ms,
        "measured": {"median_ms": measured.median_ms, "p95_ms": measured.p95_ms},
    }


def _network(trial: Trial, measured: Measurement, budget: Budget) -> dict[str, Any]:
    """A winner; of several devices the times are those of the first that the budget is for."""
    first = next(iter(budget.by_device_ms), "")
    return {
        "network": trial.spec.name or trial.spec.key,
        "depths": list(trial.spec.depths),
        "accuracy": trial.outcome.accuracy,
        **_latencies(trial.estimate.on(first), measured),
        "macs": trial.estimate.macs,
        "params": trial.estimate.params,
    }


def test_once(run: RunFolder, result: SearchResult, dataset: Dataset, data: str) -> dict[str, Any]:
    """Test accuracy of the winner and what a deployment needs to know of the data, in ``result.json``.

    The test split is read when the file does not have them yet, and only then; ``text`` says so.
    """
    from hwnas.nets.build import build, load_weights, read_weights
    from hwnas.train.score import judge

    path = run.path / "result.json"
    body = read_json(path, "search result", schemas.SEARCH, sealed=True)
    kept = (
        "accuracy",
        "accuracy_se",
        "balanced_accuracy",
        "by_class",
        "top_losses",
        "weights_sha256",
        "classes",
        "mean",
        "std",
        "data",
        "data_notes",
        "target_figures",
    )
    if all(name in body for name in kept):
        return {name: body[name] for name in kept}
    best, unseen = result.trials[result.best], dataset.test()

    def judged(trial: Trial, folder: Path) -> dict[str, Any]:
        module = build(trial.spec, seed=0)
        load_weights(module, read_weights(folder / "weights.safetensors"))
        val, test = judge(module, dataset.val, dataset.classes), judge(module, unseen, dataset.classes)
        top_losses.write(folder, test.pictures)
        return {
            "accuracy": {"val": trial.outcome.accuracy, "test": test.score.accuracy},
            "accuracy_se": {"val": trial.outcome.accuracy_se, "test": test.score.se},
            "balanced_accuracy": {
                "val": val.by_class.balanced_accuracy,
                "test": test.by_class.balanced_accuracy,
            },
            "by_class": {"val": to_json(val.by_class), "test": to_json(test.by_class)},
            "top_losses": [to_json(row) for row in test.top_losses],
        }

    found = judged(best, run.path)
    extra: dict[str, Any] = {
        **found,
        "target_figures": [
            found
            if target.best == result.best
            else judged(result.trials[target.best], target_folder(run.path, target))
            for target in result.targets
        ],
        "weights_sha256": digests(run.path),
        "classes": list(dataset.classes),
        "mean": list(dataset.mean),
        "std": list(dataset.std),
        "data": data,
        "data_notes": list(dataset.notes),
    }
    write_json(path, {**body, **extra}, sealed=True)
    text = f"test accuracy {found['accuracy']['test']:.2%} (validation {best.outcome.accuracy:.2%})"
    return {**extra, "text": text}


def training_rate(spec: NetworkSpec, recipe: Recipe) -> float:
    """Training images a second of a network here, from a few steps; for plans."""
    from hwnas.nets.build import build
    from hwnas.train.precision import choose

    compute = choose(recipe)
    module = build(spec, seed=0).to(compute.device).to(memory_format=torch.channels_last).train()
    batch = int(min(max(_RATED_MACS / (3 * count(spec).macs), 2), 64))
    images = torch.zeros((batch, *spec.input_shape), device=compute.device)
    labels = torch.zeros(batch, dtype=torch.int64, device=compute.device)
    took_s = []
    for _ in range(3):  # the first ones also make ready
        start = time.perf_counter()
        with compute.autocast():
            scores = module(images)
        torch.autograd.backward(F.cross_entropy(scores.float(), labels))
        took_s.append(time.perf_counter() - start)
    return len(images) / min(took_s)


@dataclass(frozen=True)
class OnThreads:
    """An importance on as many threads as the trainings; they may compete with other work."""

    importance: Importance
    threads: int

    def __call__(self, question: Question) -> tuple[StageImportance, ...]:
        """See `hwnas.protocols.Importance`."""
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            return self.importance(question)
        finally:
            torch.set_num_threads(before)
