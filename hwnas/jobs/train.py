"""`hwnas train`: train a found or given network, and read the test split once."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwnas import options as option_values
from hwnas import runs, schemas, top_losses
from hwnas.by_class import ByClass
from hwnas.documents import read_json
from hwnas.errors import InputError
from hwnas.jobs.resolve.networks import find
from hwnas.jobs.resolve.origin import digests
from hwnas.jobs.resolve.trained import (
    Inherited,
    check_initial,
    initial_weights,
    rescale,
    run_around,
    run_of_init,
    teacher_of,
    transferred,
    weights_of,
)
from hwnas.jobs.train_options import TrainOptions
from hwnas.nets.count import count
from hwnas.protocols import Emit
from hwnas.records import now_utc, to_json
from hwnas.results import DryRun, Result
from hwnas.spec import NetworkSpec
from hwnas.store import parse, read_network, write_json, write_network
from hwnas.train.options import Recipe

if TYPE_CHECKING:
    import torch

    from hwnas.train.data import Dataset
    from hwnas.train.loop import TrainResult
    from hwnas.train.losses import Teacher


class TrainOutcome(Result):
    """A finished training, as it stands in the run's ``result.json``.

    Attributes:
        run, network, data: its folder, what was trained on what.
        accuracy, accuracy_se, balanced_accuracy, loss: by split, "val" and "test".
        by_class: figures of every class, by split.
        epochs, seconds: how long.
        curve: rows of the learning curve.
        macs, params: of the network.
        classes, mean, std: names of the classes, normalisation of images in [0, 1].
        images_in_two_splits: how many are in both, by "train_val", "train_test" and "val_test".
    """

    run: str
    network: str
    data: str
    accuracy: dict[str, float]
    accuracy_se: dict[str, float]
    balanced_accuracy: dict[str, float]
    loss: dict[str, float]
    by_class: dict[str, ByClass]
    epochs: float
    seconds: float
    curve: tuple[dict[str, float], ...]
    macs: int
    params: int
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    data_notes: tuple[str, ...]
    images_in_two_splits: dict[str, int]


class Beside(Result):
    """What another process of torchrun than the first gives: nothing of its own."""

    rank: int


def train(options: TrainOptions, emit: Emit | None = None) -> TrainOutcome | DryRun | Beside:
    """Train into a run folder: ``weights.safetensors``, ``network.json``, ``result.json``.

    Returns:
        ``accuracy{val, test}``, ``epochs``, ``seconds``, ``run``, and how it was done. Under torchrun the
        first process alone has them, and alone writes.

    Raises:
        InputError: a name, a path or an option is wrong, or `out` holds another run.
        DataFormatError: data, network or weights are damaged.
        HwnasError: training diverged.
    """
    from hwnas.train.data import load

    place = find(options.network)
    given = read_network(place)
    _recipe(options, None)  # values are checked before anything is loaded
    initial = initial_weights(options.init)
    weights = weights_of(place) if options.start == "weights" and initial is None else None
    trained = Inherited.of(place)
    options = trained.into(options, strictly=weights is not None)
    check_initial(run_around(options.init), options.data, options.seed, options.limit)
    data, seed = options.data, options.seed
    assert data is not None  # `into` sees to both
    assert seed is not None
    dataset = load(data, input_shape=given.input_shape, seed=seed, limit=options.limit, strict=options.strict)
    if weights is not None:
        trained.check(dataset, options)
    rescale(dataset, place if weights is not None else run_of_init(options.init))
    spec = with_classes(given, len(dataset.classes))
    weights = weights if spec == given else None
    recipe = _recipe(options, dataset)
    teacher = teacher_of(options, dataset)
    if options.dry_run:
        return _plan(options, spec, dataset, recipe, weights or initial)
    config = {
        **{k: v for k, v in asdict(options).items() if k not in ("out", "dry_run", "strict", "jobs")},
        "network_key": spec.key,
        "data_fingerprint": dataset.fingerprint,
        "weights": _hash(weights),
        "init": _hash(initial),
    }
    from hwnas.train import ranks

    started = ranks.launched()
    if started is not None and options.jobs > 1:
        raise InputError("torchrun has started the processes of this training; leave --jobs out")
    if started is not None and not started.is_first:
        return _beside(options, spec, dataset, recipe, weights, initial, teacher)
    with (
        closing(runs.RunFolder(options.out or runs.reserve("train"), "train", config)) as run,
        ranks.joined() as rank,
    ):
        done = (run.path / "result.json").is_file()
        if rank.same(done):
            return TrainOutcome.of(read_json(run.path / "result.json", "result", schemas.TRAIN, sealed=True))
        if emit is not None:
            emit("run", {"run": str(run.path), "text": f"run folder {run.path}"})
        if spec != given:
            _say(run, emit, f"the head of {options.network} now gives the data's {spec.classes} classes")
        return _train(options, run, spec, dataset, recipe, weights, initial, teacher, emit)


def _beside(
    options: TrainOptions,
    spec: NetworkSpec,
    dataset: Dataset,
    recipe: Recipe,
    weights: Path | None,
    initial: Path | None,
    teacher: Teacher | None,
) -> Beside:
    """The part of another process of torchrun than the first."""
    from hwnas.train import loop, ranks

    with ranks.joined() as rank:
        if not rank.same(False):
            module, rate = _start(spec, recipe, weights, initial)
            loop.train(module, spec, dataset, recipe, teacher=teacher, rate=rate, jobs=options.jobs)
        return Beside.of({"rank": rank.at})


def _start(
    spec: NetworkSpec, recipe: Recipe, weights: Path | None, initial: Path | None
) -> tuple[torch.nn.Module, float]:
    """Where training starts, and the factor on its learning rate."""
    from hwnas.nets.build import build, load_weights, read_weights
    from hwnas.nets.build import weights as own_weights

    module = build(spec, seed=recipe.seed)
    if initial is not None:
        load_weights(module, transferred(read_weights(initial), own_weights(module)))
    if weights is None:
        return module, 1.0
    load_weights(module, read_weights(weights))
    return module, recipe.inherited_lr


def _train(
    options: TrainOptions,
    run: runs.RunFolder,
    spec: NetworkSpec,
    dataset: Dataset,
    recipe: Recipe,
    weights: Path | None,
    initial: Path | None,
    teacher: Teacher | None,
    emit: Emit | None,
) -> TrainOutcome:
    from hwnas.nets.build import save
    from hwnas.train import loop

    write_network(run.path / "network.json", spec)
    for text in (dataset.describe(), *_notes(dataset, recipe)):
        _say(run, emit, text)
    module, rate = _start(spec, recipe, weights, initial)
    if weights is not None:
        _say(run, emit, f"starts from {weights}")
    if initial is not None:
        _say(run, emit, f"starts from {initial}, with a new classifier")
    checkpoint = run.path / "checkpoint.safetensors"
    result = loop.train(
        module,
        spec,
        dataset,
        recipe,
        checkpoint=checkpoint,
        teacher=teacher,
        rate=rate,
        watch=True,
        emit=_logged(run, emit),
        final=True,
        jobs=options.jobs,
    )
    save(run.path / "weights.safetensors", module)
    counts = count(spec)
    body: dict[str, Any] = {
        "schema": schemas.TRAIN,
        "run": str(run.path),
        "network": spec.name or spec.key,
        "data": options.data,
        **_judged(run.path, module, dataset, result),
        "epochs": options.epochs,
        "seconds": result.wall_s,
        **{k: v for k, v in asdict(result).items() if k not in ("accuracy", "se", "loss", "wall_s")},
        "curve": list(result.curve),
        "macs": counts.macs,
        "params": counts.params,
        "weights_sha256": digests(run.path),
        "classes": list(dataset.classes),
        "mean": list(dataset.mean),
        "std": list(dataset.std),
        "data_notes": list(dataset.notes),
        "images_in_two_splits": dataset.shared,
        "test_reads": dataset.test_reads,
        "finished": now_utc(),
    }
    write_json(run.path / "result.json", body, sealed=True)
    checkpoint.unlink(missing_ok=True)
    reached = body["accuracy"]
    text = f"test accuracy {reached['test']:.2%} (validation {reached['val']:.2%})"
    run.append("trained", {"text": text, "accuracy": reached})
    runs.link_latest(run.path)
    return TrainOutcome.of(body)


def _judged(folder: Path, module: torch.nn.Module, dataset: Dataset, result: TrainResult) -> dict[str, Any]:
    """Figures of the trained network on both splits; the test images are read here, once."""
    from hwnas.train.score import judge

    val, test = judge(module, dataset.val, dataset.classes), judge(module, dataset.test(), dataset.classes)
    top_losses.write(folder, test.pictures)
    return {
        "accuracy": {"val": result.accuracy, "test": test.score.accuracy},
        "accuracy_se": {"val": result.se, "test": test.score.se},
        "balanced_accuracy": {
            "val": val.by_class.balanced_accuracy,
            "test": test.by_class.balanced_accuracy,
        },
        "loss": {"val": result.loss, "test": test.score.loss},
        "by_class": {"val": to_json(val.by_class), "test": to_json(test.by_class)},
        "top_losses": [to_json(row) for row in test.top_losses],
    }


def with_classes(spec: NetworkSpec, classes: int) -> NetworkSpec:
    """The network with a head for so many classes; itself where it has them already."""
    if spec.classes == classes:
        return spec
    head = {**spec.head.model_dump(), "c_out": classes}
    return parse(NetworkSpec, {**spec.model_dump(), "head": head}, f"network {spec.name}")


def _recipe(options: TrainOptions, dataset: Dataset | None) -> Recipe:
    """The recipe; without a data set its values are only checked."""

    images = max(1, round(options.epochs * len(dataset.train))) if dataset is not None else 1
    base = Recipe(images=images, seed=options.seed or 0, ema=0.999 if options.ema else 0.0)
    return option_values.read(Recipe, {**vars(base), **options.recipe}, "training option")


def _notes(dataset: Dataset, recipe: Recipe) -> list[str]:
    """What a user should know of the data, and what is done to it unasked."""
    if recipe.flip is None and dataset.mirrors:
        text = "training images are mirrored at random; if left and right matter: --recipe flip=off"
        return [*dataset.notes, text]
    return list(dataset.notes)


def _plan(
    options: TrainOptions, spec: NetworkSpec, dataset: Dataset, recipe: Recipe, weights: Path | None
) -> DryRun:
    """What would be done."""
    from hwnas.train.plan import steps_of

    body = {
        "schema": schemas.TRAIN,
        "dry_run": True,
        "run": str(options.out or runs.next_path("train")),
        "data": dataset.describe(),
        "images": recipe.images,
        "steps": steps_of(recipe, len(dataset.train)),
        "epochs": options.epochs,
        "train_macs": 3.0 * count(spec).macs * recipe.images,
        "starts_from": str(weights) if weights else "scratch",
        "notes": _notes(dataset, recipe),
    }
    return DryRun.of(body)


def _hash(weights: Path | None) -> str | None:
    return hashlib.sha256(weights.read_bytes()).hexdigest()[:16] if weights else None


def _logged(run: runs.RunFolder, emit: Emit | None) -> Emit:
    """Pass events on, and keep those worth keeping in the run's log."""

    def both(kind: str, fields: Mapping[str, Any]) -> None:
        if kind != "progress":
            run.append(kind, fields)
        if emit is not None:
            emit(kind, fields)

    return both


def _say(run: runs.RunFolder, emit: Emit | None, text: str) -> None:
    _logged(run, emit)("note", {"text": text})
