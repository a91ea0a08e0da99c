"""Whether an engine file computes what its network computes, and keeps its budget. Proof, not trust.

Users of other exporters met engines whose accuracy fell silently. Here every export runs
these checks on the exported file itself, and fails loudly:

``images``
    enough different ones for what the precision is judged by;
``parity``
    scores against those of the torch module with the same weights, in fp32, on real images. The engine
    gets them as `Session` does: as bytes, prepared as its manifest says (`deploy.preprocess`); the module
    gets them as the training prepared them, so that a wrong mean or size shows;
``top1``
    the share of images for which both name the same class;
``accuracy``
    where labels are known: the engine is not less accurate than the module by more than is allowed;
``classes``, ``normalisation``, ``training``
    where a training recorded them: names and normalisation of the manifest are its own, and the network is
    as accurate on the same images as it was then;
``pictures``
    where the data hold pictures of another size than the network's input: cropped, resized and normalised as
    when deployed, they are the training's images;
``preprocessing``
    where the engine prepares images itself (a GPU's kernel): as the host does;
``macs``, ``params``, ``memory``
    counts against the budget's limits, where it has them;
``budget``
    the measured promise of `hwnas.measure.promise`: fresh sessions, order statistic.

Tolerances depend on the precision (`parity.TOLERANCES`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hwnas.arrays import Float32s, Int64s, Uint8s
from hwnas.backends.images import prepare as prepare_images
from hwnas.by_class import ByClass, by_class
from hwnas.deploy import engine as engines
from hwnas.deploy import preprocess
from hwnas.deploy.manifest import (
    EngineManifest,
    Parity,
    Preprocessing,
    SpeedGain,
    Weights,
    check_file,
    read_manifest,
    weights_digest,
)
from hwnas.deploy.parity import TOLERANCES, compare, judge
from hwnas.deploy.speed import beside_fp32
from hwnas.errors import InputError, VerificationFailed
from hwnas.lazy import lazy_import
from hwnas.measure.patience import PATIENCE_S, Patience
from hwnas.measure.promise import PromiseOptions, keep
from hwnas.measure.sentinel import watched
from hwnas.measure.timing import TimingOptions, measure
from hwnas.nets.count import count
from hwnas.protocols import Backend, Emit, Engine
from hwnas.records import Budget, Check, Measurement, Promise, Report, Setting
from hwnas.spec import NetworkSpec
from hwnas.units import format_count, format_ms

if TYPE_CHECKING:
    import torch
else:
    torch = lazy_import("torch")

SAME_LEVELS = 0.01  # of 255: inputs that differ by rounding alone
PREPARED = 1e-3  # of the largest score; equal inputs give equal scores, up to the order of sums


@dataclass(frozen=True)
class CheckOptions:
    """How thorough the check is.

    Attributes:
        timed: whether latency is measured at all.
        promise: how the budget is tested.
        timing: how latency is measured where there is no budget.
        deadline_s: seconds for the timing; a test that is not decided by then is ambiguous.
        patience_s: seconds that may be waited for a quiet machine.
        seed: order of measuring.
    """

    timed: bool = True
    promise: PromiseOptions | None = None
    timing: TimingOptions | None = None
    deadline_s: float | None = None
    patience_s: float = PATIENCE_S
    seed: int = 0


@dataclass(frozen=True)
class Training:
    """What a training recorded of its network; empty where it recorded nothing.

    Attributes:
        classes, mean, std: names of the classes and normalisation of images in [0, 1], by channel.
        accuracy: fraction right of the validation images; None where the images compared are others.
        images: how many validation images there were.
    """

    classes: tuple[str, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    accuracy: float | None = None
    images: int = 0


@dataclass(frozen=True)
class Verified:
    """What verification found: the report, and the parts that go into the manifest."""

    report: Report
    parity: Parity
    preprocessing: Preprocessing | None
    by_class: ByClass | None = None
    speed: SpeedGain | None = None

    def complete(self, manifest: EngineManifest) -> EngineManifest:
        """The manifest with the proof in it."""
        found = self.report
        return manifest.model_copy(
            update={
                "parity": self.parity,
                "preprocessing": self.preprocessing,
                "by_class": self.by_class,
                "speed": self.speed,
                "measured": found.measured,
                "promise": found.promise,
                "budget": found.budget,
                "checks": found.checks,
            }
        )

    def require(self, path: Path, result: Mapping[str, Any] | None = None) -> None:
        """VerificationFailed unless every check passed; it carries `result` for those who print one."""
        failed = [f"{c.name}: {c.detail}" for c in self.report.checks if not c.passed]
        if failed:
            raise VerificationFailed(f"{path} did not pass: {'; '.join(failed)}", result=result)


def verify(
    engine_path: Path,
    *,
    weights: Weights,
    images: NDArray[Any] | Sequence[Uint8s],
    reference_images: Float32s | None = None,
    spec: NetworkSpec | None = None,
    labels: Int64s | None = None,
    training: Training | None = None,
    checked: Sequence[Check] = (),
    budget: Budget | None = None,
    data: str = "images given",
    backend: Backend | None = None,
    options: CheckOptions | None = None,
    emit: Emit | None = None,
) -> Verified:
    """Check an engine file against its network and its budget.

    Args:
        engine_path: the file that will be deployed; its manifest lies beside it.
        weights: of the network, as `nets.build.weights` gives them.
        images: what the engine is given, as to `Session.scores`: uint8 (n, H, W, C), pictures (H, W, C)
            each of its own size, or float32 (n, C, H, W) taken as normalised; real ones.
        reference_images: the same images as the training prepared them, (n, C, H, W) float32; default as
            the engine's manifest says.
        spec: the network; default the manifest's.
        labels: (n,) classes of the images, as places in the network's class names; -1 for an image that
            accuracy is not judged by.
        training: what was recorded of the network.
        checked: what the caller looked at already.
        budget: default the manifest's; None there means that latency is measured and not judged.
        data: which images, in words.
        backend: default the one that the engine was built by.
        options: how thorough.
        emit: progress.

    Raises:
        InputError: no images, or of another shape.
        DataFormatError: the file is not the one that its manifest describes.
        BackendUnavailable: its runtime is not here.
    """
    options = options or CheckOptions()
    manifest = read_manifest(engine_path)
    check_file(engine_path, manifest)
    spec = spec or manifest.network
    budget = budget or manifest.budget
    inputs = _inputs(images, manifest)
    if reference_images is None:
        reference_images = inputs
    if reference_images.ndim != 4 or not len(images) or reference_images.shape[1:] != spec.input_shape:
        wanted = ", ".join(map(str, spec.input_shape))
        raise InputError(f"images are {reference_images.shape}; the network takes (n, {wanted})")

    def load() -> Engine:
        return engines.load(engine_path, backend)

    engine = load()
    try:
        given = preprocess.scores(engine, manifest, images)
        setting, prepared = engine.setting, _preparation(engine, manifest)
        cost = preprocess.cost(engine, manifest) if options.timed else None
    finally:
        engine.close()
    reference = reference_scores(spec, weights, reference_images)
    distinct = len({image.tobytes() for image in inputs})
    found = compare(reference, given, labels, data, distinct)
    given_as = _sizes(images, inputs, reference_images, manifest)
    checks = [_same_network(manifest, spec, weights), *judge(found, setting.precision), *given_as, *prepared]
    checks += [*checked, *_as_trained(manifest, found, training or Training())]
    checks += _counts(spec, budget, setting.batch)
    runtime = backend or engines.runtime(manifest)
    measured, promise, timing = _time(load, budget, options, emit, runtime, setting)
    speed = None
    if options.timed and setting.precision != "fp32":
        speed = beside_fp32(load, spec, weights, runtime, setting, deadline_s=options.deadline_s, emit=emit)
    report = Report(
        network=spec.key,
        setting=setting,
        max_abs_err=found.max_abs_err,
        cosine_min=found.cosine_min,
        top1_agreement=found.top1_agreement,
        top1_reference=found.top1_reference,
        top1_engine=found.top1_engine,
        predicted_ms=manifest.predicted.latency_ms if manifest.predicted else None,
        measured=measured,
        budget=budget,
        promise=promise,
        checks=(*checks, *timing),
    )
    classes = manifest.classes or tuple(map(str, range(spec.classes)))
    figures = None
    if labels is not None and (labels >= 0).any():
        at = labels >= 0
        figures = by_class(labels[at], given[at].argmax(axis=1), classes)
    return Verified(report, found, cost, figures, speed)


def reference_scores(spec: NetworkSpec, weights: Weights, images: Float32s) -> Float32s:
    """Scores of the torch module in eval mode, fp32, (n, classes)."""
    from hwnas.nets import build

    module = build.build(spec, seed=0)
    build.load_weights(module, weights)
    module.eval()
    with torch.inference_mode():
        parts = [module(torch.from_numpy(images[at : at + 256])).numpy() for at in range(0, len(images), 256)]
    return np.concatenate(parts).astype(np.float32)


def _inputs(images: NDArray[Any] | Sequence[Uint8s], manifest: EngineManifest) -> Float32s:
    """What the network gets of the images, by the manifest's preprocessing."""
    if not isinstance(images, np.ndarray):
        return np.concatenate([preprocess.ready(picture[None], manifest) for picture in images])
    return preprocess.ready(images, manifest) if images.dtype == np.uint8 else images


def _sizes(
    images: NDArray[Any] | Sequence[Uint8s],
    inputs: Float32s,
    reference_images: Float32s,
    manifest: EngineManifest,
) -> list[Check]:
    """Whether pictures of their own size become the very images of the training."""
    side = manifest.network.input_shape[1:]
    own = [] if isinstance(images, np.ndarray) else [at for at, p in enumerate(images) if p.shape[:2] != side]
    if not own:
        return []
    levels = np.abs(inputs - reference_images)[own] * 255 * manifest.normalisation[1][:, None, None]
    shapes = sorted({images[at].shape[1::-1] for at in own}, key=lambda size: (size[0] * size[1], size))
    sizes = " to ".join(dict.fromkeys(f"{width}x{height}" for width, height in (shapes[0], shapes[-1])))
    detail = (
        f"{len(own)} pictures in their own size ({sizes}), cropped, resized and "
        f"normalised as when deployed, are the training's images to {levels.max():.2g} of 255 levels "
        f"({SAME_LEVELS:g} allowed)"
    )
    return [Check(name="pictures", passed=bool(levels.max() <= SAME_LEVELS), detail=detail)]


def _same_network(manifest: EngineManifest, spec: NetworkSpec, weights: Weights) -> Check:
    """Whether network and weights are those that the engine was built from."""
    same_spec = spec.key == manifest.network_key
    same = same_spec and weights_digest(weights) == manifest.weights_sha256
    detail = f"network {spec.key} and its weights are those that the engine was built from"
    if not same:
        what = "weights" if same_spec else f"network {spec.key}"
        detail = f"the engine was built from other {what} (network {manifest.network_key})"
    return Check(name="source", passed=same, detail=detail)


def _as_trained(manifest: EngineManifest, found: Parity, training: Training) -> list[Check]:
    """Whether names, normalisation and accuracy are those that the training recorded."""
    checks = []
    if training.classes:
        same = manifest.classes == training.classes
        detail = "class names are those used in training"
        if not same:
            own, other = ", ".join(training.classes[:4]), ", ".join(manifest.classes[:4])
            detail = f"the manifest has other classes ({other}, ...) than the training ({own}, ...)"
        checks.append(Check(name="classes", passed=same, detail=detail))
    if training.mean:
        same = (manifest.mean, manifest.std) == (training.mean, training.std)
        detail = "images are normalised as in training"
        if not same:
            detail = (
                f"the manifest normalises by mean {manifest.mean} and std {manifest.std}, training by "
                f"{training.mean} and {training.std}"
            )
        checks.append(Check(name="normalisation", passed=same, detail=detail))
    if training.accuracy is not None and found.top1_reference is not None:
        judged = found.labelled or found.images
        allowed = _allowed(training.accuracy, judged, training.images)
        off = abs(found.top1_reference - training.accuracy)
        detail = (
            f"top-1 of the network {100 * found.top1_reference:.2f} % on {judged} of the "
            f"{training.images} validation images, {100 * training.accuracy:.2f} % recorded by the training "
            f"({100 * allowed:.2g} % difference allowed)"
        )
        if off > allowed:
            detail += "; the weights are not those that were trained"
        checks.append(Check(name="training", passed=off <= allowed, detail=detail))
    return checks


def _allowed(accuracy: float, images: int, recorded: int) -> float:
    """How far an accuracy may be from a recorded one: by rounding over the same images, by three standard
    errors of a binomial over a part of them.
    """
    exact = max(1 / images, TOLERANCES["fp32"].drop)
    if images >= recorded:
        return exact
    guess = (accuracy * images + 0.5) / (images + 1)
    return exact + 3 * float(np.sqrt(guess * (1 - guess) / images))


def _preparation(engine: Engine, manifest: EngineManifest) -> list[Check]:
    """Whether an engine that takes bytes (`run_bytes`) prepares them as `images.prepare` does.

    Both ways end in the same engine, so that scores show a difference of inputs.
    """
    run_bytes = getattr(engine, "run_bytes", None)
    if run_bytes is None:
        return []
    channels, height, width = manifest.network.input_shape
    shape = (engine.setting.batch, 2 * height + 1, max(1, width - 3), channels)  # shrunk and stretched
    pictures = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    mean, std = manifest.normalisation
    expected = engine.run(prepare_images(pictures, (height, width), mean, std))
    off = float(np.abs(run_bytes(pictures, mean, std) - expected).max())
    allowed = PREPARED * max(float(np.abs(expected).max()), 1e-6)
    detail = f"images prepared by device and by host: scores differ by {off:.2g} ({allowed:.2g} allowed)"
    return [Check(name="preprocessing", passed=off <= allowed, detail=detail)]


def _counts(spec: NetworkSpec, budget: Budget | None, batch: int) -> list[Check]:
    """Counts against the limits that a budget has; activations are those of a whole batch."""
    if budget is None or not (budget.macs or budget.params or budget.memory_bytes):
        return []

    counts = count(spec)
    memory_bytes = counts.activation_bytes * batch + counts.weight_bytes
    rows = (
        ("macs", counts.macs, budget.macs, "MAC"),
        ("params", counts.params, budget.params, "param"),
        ("memory", memory_bytes, budget.memory_bytes, "B"),
    )
    return [
        Check(
            name=name,
            passed=value <= limit,
            detail=f"{format_count(value, unit)} of {format_count(limit, unit)}",
        )
        for name, value, limit, unit in rows
        if limit is not None
    ]


def _time(
    load: Callable[[], Engine],
    budget: Budget | None,
    options: CheckOptions,
    emit: Emit | None,
    backend: Backend,
    setting: Setting,
) -> tuple[Measurement | None, Promise | None, list[Check]]:
    """Measure the engine; with a latency budget, by its promise test."""
    if not options.timed:
        return None, None, []
    guard, levels = watched(backend, setting)
    patience = Patience(options.patience_s, emit=emit)
    if budget is None or budget.latency_ms is None:
        rng = np.random.default_rng(options.seed)
        timing = options.timing or TimingOptions.preset("quick")
        found = measure(
            {"engine": load},
            timing,
            rng=rng,
            emit=emit,
            deadline_s=options.deadline_s,
            sentinel=guard,
            patience=patience,
            levels=levels,
        )
        return found["engine"], None, []
    promise, measured = keep(
        load,
        budget.latency_ms,
        budget.percentile,
        sentinel=guard,
        options=options.promise,
        patience=patience,
        levels=levels,
        emit=emit,
        deadline_s=options.deadline_s,
    )
    return measured, promise, [budget_check(promise)]


def budget_check(promise: Promise) -> Check:
    """The verdict of a promise test as a check; an ambiguous one does not pass, and says so."""
    total = len(promise.session_ms)
    worst = max(promise.session_ms, default=float("nan"))
    text = (
        f"{total - promise.misses} of {total} sessions within {format_ms(promise.budget_ms)} at "
        f"{promise.percentile} (slowest {format_ms(worst)})"
    )
    if promise.verdict == "kept":
        text += f", {100 * promise.confidence:.1f} % confidence"
    elif promise.verdict == "ambiguous":
        text += ": undecided, shown neither to be met nor to be exceeded; repeat on an idle machine"
    else:
        text += ": the budget is exceeded"
    return Check(
        name="budget",
        passed=promise.verdict == "kept",
        detail=text + (f" ({promise.note})" if promise.note else ""),
    )
