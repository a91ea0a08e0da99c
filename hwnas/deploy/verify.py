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
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hwnas.arrays import Float32s, Int64s, Uint8s
from hwnas.by_class import ByClass, by_class
from hwnas.deploy import checks, preprocess
from hwnas.deploy import engine as engines
from hwnas.deploy.checks import Training
from hwnas.deploy.manifest import (
    EngineManifest,
    Parity,
    Preprocessing,
    SpeedGain,
    Weights,
    check_file,
    read_manifest,
)
from hwnas.deploy.parity import compare, judge
from hwnas.deploy.speed import beside_fp32
from hwnas.errors import InputError, VerificationFailed
from hwnas.estimates import Budget
from hwnas.lazy import lazy_import
from hwnas.measure.patience import PATIENCE_S, Patience
from hwnas.measure.promise import PromiseOptions, keep
from hwnas.measure.sentinel import watched
from hwnas.measure.session import sustain
from hwnas.measure.timing import TimingOptions, measure
from hwnas.protocols import Backend, Emit, Engine
from hwnas.records import Check, Measurement, Promise, Report, Setting
from hwnas.spec import NetworkSpec

if TYPE_CHECKING:
    import torch
else:
    torch = lazy_import("torch")


@dataclass(frozen=True)
class CheckOptions:
    """How thorough the check is.

    Attributes:
        timed: whether latency is measured at all.
        promise: how the budget is tested.
        timing: how latency is measured where there is no budget.
        deadline_s: seconds for the timing; a test that is not decided by then is ambiguous.
        patience_s: seconds that may be waited for a quiet machine.
        sustained_s: seconds for which the device is kept busy before it is timed.
        seed: order of measuring.
    """

    timed: bool = True
    promise: PromiseOptions | None = None
    timing: TimingOptions | None = None
    deadline_s: float | None = None
    patience_s: float = PATIENCE_S
    sustained_s: float = 0.0
    seed: int = 0


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
        InputError: no images, of another shape, or not as many as reference images or labels.
        DataFormatError: the file is not the one that its manifest describes.
        BackendUnavailable: its runtime is not here.
    """
    options = options or CheckOptions()
    manifest = read_manifest(engine_path)
    check_file(engine_path, manifest)
    spec = spec or manifest.network
    budget = budget or manifest.budget
    inputs, reference_images = _inputs(images, reference_images, manifest, spec)
    if labels is not None and len(labels) != len(inputs):
        raise InputError(f"{len(labels)} labels are given for {len(inputs)} images")
    # Step 1: scores of the engine, as it is deployed, and of the torch module.
    load = partial(engines.load, engine_path, backend)
    ran = _ran(load, manifest, images, options)
    reference = reference_scores(spec, weights, reference_images)
    parity = compare(reference, ran.scores, labels, data, len({image.tobytes() for image in inputs}))
    # Step 2: what is judged without a clock.
    found = [
        checks.source(manifest, spec, weights),
        *judge(parity, ran.setting.precision),
        *checks.pictures(images, inputs, reference_images, manifest),
        *ran.prepared,
        *checked,
        *checks.as_trained(manifest, parity, training or Training()),
        *checks.counts(spec, budget, ran.setting.batch),
    ]
    # Step 3: latency, against the budget where there is one, and beside fp32.
    runtime = backend or engines.runtime(manifest)
    clocked = _Clocked()
    if options.timed:
        clocked = _clocked(load, spec, weights, budget, options, runtime, ran.setting, emit)
    report = _report(manifest, spec, budget, ran.setting, parity, clocked, found)
    return Verified(report, parity, ran.cost, _by_class(ran.scores, labels, manifest), clocked.speed)


def _report(
    manifest: EngineManifest,
    spec: NetworkSpec,
    budget: Budget | None,
    setting: Setting,
    parity: Parity,
    clocked: _Clocked,
    found: Sequence[Check],
) -> Report:
    """The figures and all checks."""
    return Report(
        network=spec.key,
        setting=setting,
        max_abs_err=parity.max_abs_err,
        cosine_min=parity.cosine_min,
        top1_agreement=parity.top1_agreement,
        top1_reference=parity.top1_reference,
        top1_engine=parity.top1_engine,
        predicted_ms=manifest.predicted.latency_ms if manifest.predicted else None,
        measured=clocked.measured,
        budget=budget,
        promise=clocked.promise,
        checks=(*found, *clocked.checks),
    )


@dataclass(frozen=True)
class _Ran:
    """An engine's answers: scores, its conditions, checks of its preparing images, and what that costs."""

    scores: Float32s
    setting: Setting
    prepared: list[Check]
    cost: Preprocessing | None


def _ran(
    load: Callable[[], Engine],
    manifest: EngineManifest,
    images: NDArray[Any] | Sequence[Uint8s],
    options: CheckOptions,
) -> _Ran:
    """Load the engine, give it the images as a program of its user's would, and close it."""
    with closing(load()) as engine:
        return _Ran(
            preprocess.scores(engine, manifest, images),
            engine.setting,
            checks.preprocessing(engine, manifest),
            preprocess.cost(engine, manifest) if options.timed else None,
        )


def _by_class(scores: Float32s, labels: Int64s | None, manifest: EngineManifest) -> ByClass | None:
    """Figures of every class where images have labels."""
    if labels is None or not (labels >= 0).any():
        return None
    at = labels >= 0
    names = manifest.classes or tuple(map(str, range(manifest.network.classes)))
    return by_class(labels[at], scores[at].argmax(axis=1), names, scores[at])


def reference_scores(spec: NetworkSpec, weights: Weights, images: Float32s) -> Float32s:
    """Scores of the torch module in eval mode, fp32, (n, classes)."""
    from hwnas.nets import build

    module = build.build(spec, seed=0)
    build.load_weights(module, weights)
    module.eval()
    with torch.inference_mode():
        parts = [module(torch.from_numpy(images[at : at + 256])).numpy() for at in range(0, len(images), 256)]
    return np.concatenate(parts).astype(np.float32)


def _inputs(
    images: NDArray[Any] | Sequence[Uint8s],
    reference_images: Float32s | None,
    manifest: EngineManifest,
    spec: NetworkSpec,
) -> tuple[Float32s, Float32s]:
    """What the network gets of the images, by the manifest's preprocessing and by the training's."""
    wanted = f"the network takes (n, {', '.join(map(str, spec.input_shape))})"
    if not len(images):
        raise InputError(f"no images to compare on; {wanted}")
    if not isinstance(images, np.ndarray):
        inputs = np.concatenate([preprocess.ready(picture[None], manifest) for picture in images])
    else:
        inputs = preprocess.ready(images, manifest) if images.dtype == np.uint8 else images
    reference = inputs if reference_images is None else reference_images
    if reference.shape[1:] != spec.input_shape:
        raise InputError(f"images are {reference.shape}; {wanted}")
    if len(reference) != len(inputs):
        raise InputError(f"{len(reference)} reference images are given for {len(inputs)} images")
    return inputs, reference


@dataclass(frozen=True)
class _Clocked:
    """What the clock said; nothing where it was not asked."""

    measured: Measurement | None = None
    promise: Promise | None = None
    speed: SpeedGain | None = None
    checks: tuple[Check, ...] = ()


def _clocked(
    load: Callable[[], Engine],
    spec: NetworkSpec,
    weights: Weights,
    budget: Budget | None,
    options: CheckOptions,
    backend: Backend,
    setting: Setting,
    emit: Emit | None,
) -> _Clocked:
    """Measure the engine; with a latency budget, by its promise test; in fewer bits, beside fp32 as well."""
    if options.sustained_s:
        with closing(load()) as warm:
            sustain(warm, options.sustained_s)
    guard, levels = watched(backend, setting)
    patience = Patience(options.patience_s, emit=emit)
    promise: Promise | None = None
    judged: tuple[Check, ...] = ()
    if budget is None or budget.latency_ms is None:
        measured = measure(
            {"engine": load},
            options.timing or TimingOptions.preset("quick"),
            rng=np.random.default_rng(options.seed),
            emit=emit,
            deadline_s=options.deadline_s,
            sentinel=guard,
            patience=patience,
            levels=levels,
        )["engine"]
    else:
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
        judged = (checks.budget(promise),)
    speed = None
    if setting.precision != "fp32":
        speed = beside_fp32(load, spec, weights, backend, setting, deadline_s=options.deadline_s, emit=emit)
    return _Clocked(measured, promise, speed, judged)
