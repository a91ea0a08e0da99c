"""The checks of a verification besides parity and latency; `deploy.verify` lists what each looks at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwnas.arrays import Float32s, Uint8s
from hwnas.backends.images import prepare as prepare_images
from hwnas.deploy.manifest import EngineManifest, Parity, Weights, weights_digest
from hwnas.deploy.parity import TOLERANCES
from hwnas.estimates import Budget
from hwnas.nets.count import count
from hwnas.protocols import Engine
from hwnas.records import Check, Promise
from hwnas.spec import NetworkSpec
from hwnas.units import format_count, format_ms

SAME_LEVELS = 0.01  # of 255: inputs that differ by rounding alone
PREPARED = 1e-3  # of the largest score; equal inputs give equal scores, up to the order of sums


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


def pictures(
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
    shapes = sorted({images[at].shape[:2] for at in own}, key=lambda size: (size[0] * size[1], size))
    sizes = " to ".join(dict.fromkeys(f"{height}x{width}" for height, width in (shapes[0], shapes[-1])))
    detail = (
        f"{len(own)} pictures in their own size ({sizes}, height x width), cropped, resized and "
        f"normalised as when deployed, are the training's images to {levels.max():.2g} of 255 levels "
        f"({SAME_LEVELS:g} allowed)"
    )
    return [Check(name="pictures", passed=bool(levels.max() <= SAME_LEVELS), detail=detail)]


def source(manifest: EngineManifest, spec: NetworkSpec, weights: Weights) -> Check:
    """Whether network and weights are those that the engine was built from."""
    same_spec = spec.key == manifest.network_key
    same = same_spec and weights_digest(weights) == manifest.weights_sha256
    detail = f"network {spec.key} and its weights are those that the engine was built from"
    if not same:
        what = "weights" if same_spec else f"network {spec.key}"
        detail = f"the engine was built from other {what} (network {manifest.network_key})"
    return Check(name="source", passed=same, detail=detail)


def as_trained(manifest: EngineManifest, found: Parity, training: Training) -> list[Check]:
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


def preprocessing(engine: Engine, manifest: EngineManifest) -> list[Check]:
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


def counts(spec: NetworkSpec, budget: Budget | None, batch: int) -> list[Check]:
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


def budget(promise: Promise) -> Check:
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
