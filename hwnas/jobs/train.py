"""`hwnas train`: train a found or given network, and read the test split once."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hwnas import options as option_values
from hwnas import runs
from hwnas.documents import read_json
from hwnas.errors import InputError
from hwnas.jobs.resolve.networks import find
from hwnas.jobs.resolve.origin import digests
from hwnas.plugins import unknown
from hwnas.protocols import Emit
from hwnas.records import now_utc
from hwnas.spec import NetworkSpec
from hwnas.store import parse, read_network, write_json, write_network

if TYPE_CHECKING:
    from hwnas.train.data import Dataset
    from hwnas.train.loop import Teacher
    from hwnas.train.options import Recipe

RESULT_SCHEMA = "hwnas.train/1"


@dataclass(frozen=True)
class TrainOptions:
    """What to train, on what, for how long.

    Attributes:
        network: a run, a ``network.json`` or a shipped example's name. Its number of classes is set
            to the data's; images are resized to its input.
        data: see `hwnas.train.data.load`.
        epochs: how often every training image is seen; may be a fraction.
        out: run folder; None takes the next free one. The same one again resumes.
        start: ``weights`` goes on from the run's weights, where it has any; ``scratch`` does not.
        distill: run with weights to learn from as well (its network and its weights).
        ema: keep a moving average of the weights, with a decay of 0.999 a step.
        seed: of first weights, order, augmentation and the validation split.
        limit: use at most so many images for training and validation.
        recipe: fields of `hwnas.train.options.TrainOptions` that differ from its defaults.
        dry_run: say what would be trained, touch nothing.
    """

    network: str
    data: str
    epochs: float = 20.0
    out: Path | None = None
    start: Literal["weights", "scratch"] = "weights"
    distill: str | None = None
    ema: bool = False
    seed: int = 0
    limit: int | None = None
    recipe: Mapping[str, Any] = field(default_factory=dict)
    dry_run: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.epochs < float("inf"):
            raise InputError(f"epochs {self.epochs} must be greater than zero")
        if self.start not in ("weights", "scratch"):
            raise InputError(unknown("start", self.start, ("weights", "scratch")))


def train(options: TrainOptions, emit: Emit | None = None) -> dict[str, Any]:
    """Train into a run folder: ``weights.safetensors``, ``network.json``, ``result.json``.

    Returns:
        ``accuracy{val, test}``, ``epochs``, ``seconds``, ``run``, and how it was done.

    Raises:
        InputError: a name, a path or an option is wrong, or `out` holds another run.
        DataFormatError: data, network or weights are damaged.
        HwnasError: training diverged.
    """
    from hwnas.train.data import load

    place = find(options.network)
    given = read_network(place)
    dataset = load(options.data, input_shape=given.input_shape, seed=options.seed, limit=options.limit)
    spec = with_classes(given, len(dataset.classes))
    recipe = _recipe(options, dataset)
    weights = _weights_of(place) if options.start == "weights" and spec == given else None
    if options.dry_run:
        return _plan(options, spec, dataset, recipe, weights)
    config = {
        **{k: v for k, v in asdict(options).items() if k not in ("out", "dry_run")},
        "network_key": spec.key,
        "data_fingerprint": dataset.fingerprint,
        "weights": _hash(weights),
    }
    run = runs.RunFolder(options.out or runs.reserve("train"), "train", config)
    if (run.path / "result.json").is_file():
        return read_json(run.path / "result.json", "result", RESULT_SCHEMA)
    if emit is not None:
        emit("run", {"run": str(run.path), "text": f"run folder {run.path}"})
    if spec != given:
        _say(run, emit, f"the head of {options.network} now gives the data's {spec.classes} classes")
    return _train(options, run, spec, dataset, recipe, weights, emit)


def _train(
    options: TrainOptions,
    run: runs.RunFolder,
    spec: NetworkSpec,
    dataset: Dataset,
    recipe: Recipe,
    weights: Path | None,
    emit: Emit | None,
) -> dict[str, Any]:
    from hwnas.nets.build import build, load_weights, read_weights, save
    from hwnas.nets.count import count
    from hwnas.train import loop

    write_network(run.path / "network.json", spec)
    _say(run, emit, dataset.describe())
    module = build(spec, seed=options.seed)
    if weights is not None:
        load_weights(module, read_weights(weights))
        _say(run, emit, f"starts from {weights}")
    checkpoint = run.path / "checkpoint.safetensors"
    result = loop.train(
        module,
        spec,
        dataset,
        recipe,
        checkpoint=checkpoint,
        teacher=_teacher(options),
        rate=1.0 if weights is None else recipe.inherited_lr,
        emit=_logged(run, emit),
    )
    save(run.path / "weights.safetensors", module)
    test = loop.score(module, dataset.test())
    counts = count(spec)
    body = {
        "schema": RESULT_SCHEMA,
        "run": str(run.path),
        "network": spec.name or spec.key,
        "data": options.data,
        "accuracy": {"val": result.accuracy, "test": test.accuracy},
        "accuracy_se": {"val": result.se, "test": test.se},
        "loss": {"val": result.loss, "test": test.loss},
        "epochs": options.epochs,
        "seconds": result.wall_s,
        **{k: v for k, v in asdict(result).items() if k not in ("accuracy", "se", "loss", "wall_s")},
        "macs": counts.macs,
        "params": counts.params,
        "weights_sha256": digests(run.path),
        "classes": list(dataset.classes),
        "mean": list(dataset.mean),
        "std": list(dataset.std),
        "test_reads": dataset.test_reads,
        "finished": now_utc(),
    }
    write_json(run.path / "result.json", body)
    checkpoint.unlink(missing_ok=True)
    text = f"test accuracy {test.accuracy:.2%} (validation {result.accuracy:.2%})"
    run.append("trained", {"text": text, "accuracy": body["accuracy"]})
    runs.link_latest(run.path)
    return body


def with_classes(spec: NetworkSpec, classes: int) -> NetworkSpec:
    """The network with a head for so many classes; itself where it has them already."""
    if spec.classes == classes:
        return spec
    head = {**spec.head.model_dump(), "c_out": classes}
    return parse(NetworkSpec, {**spec.model_dump(), "head": head}, f"network {spec.name}")


def _recipe(options: TrainOptions, dataset: Dataset) -> Recipe:
    from hwnas.train.options import Recipe

    images = max(1, round(options.epochs * len(dataset.train)))
    base = Recipe(images=images, seed=options.seed, ema=0.999 if options.ema else 0.0)
    return option_values.read(Recipe, {**vars(base), **options.recipe}, "training option")


def _weights_of(network: Path) -> Path | None:
    """Weights beside a network's file: a run has them."""
    beside = network.with_name("weights.safetensors")
    return beside if network.name == "network.json" and beside.is_file() else None


def _teacher(options: TrainOptions) -> Teacher | None:
    """The network and weights of the run named by `distill`."""
    from hwnas.nets.build import build, load_weights, read_weights
    from hwnas.nets.count import count
    from hwnas.train.loop import Teacher

    if options.distill is None:
        return None
    place = find(options.distill)
    weights = _weights_of(place)
    if weights is None:
        raise InputError(f"{options.distill} has no weights to learn from; give a run that was trained")
    spec = read_network(place)
    module = build(spec, seed=0)
    load_weights(module, read_weights(weights))
    return Teacher(module, count(spec).macs)


def _plan(
    options: TrainOptions, spec: NetworkSpec, dataset: Dataset, recipe: Recipe, weights: Path | None
) -> dict[str, Any]:
    """What would be done."""
    from hwnas.nets.count import count
    from hwnas.train.plan import steps_of

    return {
        "schema": RESULT_SCHEMA,
        "dry_run": True,
        "run": str(options.out or runs.next_path("train")),
        "data": dataset.describe(),
        "images": recipe.images,
        "steps": steps_of(recipe, len(dataset.train)),
        "epochs": options.epochs,
        "train_macs": 3.0 * count(spec).macs * recipe.images,
        "starts_from": str(weights) if weights else "scratch",
    }


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
