"""What int8 costs in accuracy, and the remedy where it is too much: a short fine-tuning."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hwnas.arrays import Float32s
from hwnas.deploy import engine as engines
from hwnas.deploy import preprocess
from hwnas.deploy.manifest import EngineManifest, FineTuned
from hwnas.jobs.export.samples import Samples, recorded_data
from hwnas.jobs.resolve.origin import Origin
from hwnas.protocols import Backend, Emit

if TYPE_CHECKING:
    from hwnas.train.quantized import TuneOptions

MAX_LOSS = 0.005
IMAGES = 10_000  # training images that are drawn from
OTHER_LEVELS = 127  # where a runtime does not say

Write = Callable[[dict[str, Float32s] | None], EngineManifest]


def lost(path: Path, manifest: EngineManifest, backend: Backend, source: Origin, drawn: Samples) -> float:
    """Share of the images that an engine gets wrong beyond its network: by labels where they are known, else
    by how often both name another class.
    """
    from hwnas.deploy.verify import reference_scores

    engine = engines.load(path, backend)
    try:
        given = preprocess.scores(engine, manifest, drawn.pictures).argmax(axis=1)
    finally:
        engine.close()
    assert drawn.prepared is not None
    exact = reference_scores(source.spec, source.read_weights(), drawn.prepared).argmax(axis=1)
    if drawn.labels is not None and (at := drawn.labels >= 0).any():
        labels = drawn.labels[at]
        return float((exact[at] == labels).mean() - (given[at] == labels).mean())
    return float((exact != given).mean())


def remedied(
    write: Write,
    manifest: EngineManifest,
    folder: Path,
    backend: Backend,
    source: Origin,
    drawn: Samples,
    *,
    data: str | None,
    max_loss: float,
    emit: Emit | None = None,
    options: TuneOptions | None = None,
) -> EngineManifest:
    """The engine as it is where it loses no more than is allowed; else one of fine-tuned weights, if that
    loses less.

    Args:
        write: writes the engine, of the source's weights (None) or of others, and gives its manifest.
        manifest: of the engine that was written.
        folder: where.
        backend, source, drawn: runtime, network and images.
        data: what the user names; None takes what the run was trained on.
        max_loss: share of the images.
        emit: progress, and a word on what was done.
        options: of the fine-tuning.
    """
    from hwnas.train.data import load, normalise
    from hwnas.train.quantized import TuneOptions, tune

    path = folder / manifest.engine
    uri = data if data is not None else recorded_data(source)
    if drawn.prepared is None or uri is None:
        return manifest
    before = lost(path, manifest, backend, source, drawn)
    if before <= max_loss:
        return manifest
    _say(emit, f"int8 loses {_points(before)}, {_points(max_loss)} are allowed: fine-tuning for int8")
    dataset = load(uri, input_shape=source.spec.input_shape, seed=source.seed, limit=source.limit)
    about = {"mean": dataset.mean, "std": dataset.std, **drawn.about}
    some = dataset.train.images[:: max(1, len(dataset.train) // IMAGES)][:IMAGES]
    images = normalise(some, about["mean"], about["std"])
    form, chosen = backend.form(), options or TuneOptions()
    tuned = tune(
        source.spec,
        source.read_weights(),
        images,
        levels=form.weight_levels if form is not None else OTHER_LEVELS,
        rng=np.random.default_rng(source.seed),
        options=chosen,
        emit=emit,
    )
    better = write(tuned)
    after = lost(path, better, backend, source, drawn)
    if after >= before:
        _say(emit, f"fine-tuning did not help ({_points(after)} lost); the network's weights are kept")
        return write(None)
    _say(emit, f"after {chosen.steps} steps of fine-tuning int8 loses {_points(after)}")
    found = FineTuned(steps=chosen.steps, lost_before=before, lost_after=after)
    return better.model_copy(update={"fine_tuned": found})


def _points(share: float) -> str:
    return f"{100 * share:.2f} points of top-1"


def _say(emit: Emit | None, text: str) -> None:
    if emit is not None:
        emit("note", {"text": text})
