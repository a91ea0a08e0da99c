"""What int8 costs in accuracy, and the remedies where it is too much: a short fine-tuning, then blocks in
float.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hwnas.arrays import Float32s
from hwnas.backends.forms import form_of
from hwnas.deploy import engine as engines
from hwnas.deploy import preprocess
from hwnas.deploy.manifest import EngineManifest, FineTuned
from hwnas.jobs.export.mixed import Mixing, by_block
from hwnas.jobs.export.samples import Samples, recorded_data
from hwnas.jobs.resolve.origin import Origin
from hwnas.protocols import Backend, Emit

if TYPE_CHECKING:
    from hwnas.train.quantized import TuneOptions

MAX_LOSS = 0.005
IMAGES = 10_000  # training images that are drawn from
OTHER_LEVELS = 127  # where a runtime does not say
LEAST_BATCHES = 10  # of training images; fewer are learnt by heart

Write = Callable[[dict[str, Float32s] | None, frozenset[str]], EngineManifest]


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


@dataclass
class Remedy:
    """What an int8 engine is made of and compared on.

    Attributes:
        write: writes the engine, of the source's weights (None) or of others, with these ONNX nodes in float,
            and gives its manifest.
        folder: where.
        backend, source, drawn: runtime, network and images.
        data: what the user names; None takes what the run was trained on.
        max_loss: share of the images.
        emit: progress, and a word on what was done.
        options: of the fine-tuning.
    """

    write: Write
    folder: Path
    backend: Backend
    source: Origin
    drawn: Samples
    data: str | None
    max_loss: float
    emit: Emit | None = None
    options: TuneOptions | None = None

    @property
    def allowed(self) -> float:
        """What may be lost: among few images one, since none is less than that; nothing where none may be."""
        labels = self.drawn.labels
        images = len(self.drawn.pictures) if labels is None else int((labels >= 0).sum())
        return max(self.max_loss, 1 / images) if self.max_loss and images else self.max_loss

    def lost(self, manifest: EngineManifest) -> float:
        """What an engine that was written loses."""
        return lost(self.folder / manifest.engine, manifest, self.backend, self.source, self.drawn)

    def tried(self, manifest: EngineManifest) -> EngineManifest:
        """The engine as it is where it loses no more than is allowed; else one of fine-tuned weights; where
        that does not do either, or the data are too few for it, one with blocks in float. Of what still
        loses too much, the one that loses least.

        Args:
            manifest: of the engine that was written, all in int8.
        """
        uri = self.data if self.data is not None else recorded_data(self.source)
        if self.drawn.prepared is None or uri is None:
            return manifest
        before = self.lost(manifest)
        if before <= self.allowed:
            return manifest
        self._say(f"int8 loses {_points(before)}, {_points(self.allowed)} are allowed")
        tuned, weights, after = self._fine_tuned(manifest, uri, before)
        if after <= self.allowed:
            return tuned
        mixed = self._by_block(manifest, before)
        if mixed is not None:
            return mixed
        self._say("no mix of int8 and float blocks loses that little; export --precision fp32")
        # Over the last mix; some runtimes build other bytes each time, which the manifest tells.
        again = self.write(weights, frozenset())
        return again.model_copy(update={"fine_tuned": tuned.fine_tuned})

    def _fine_tuned(
        self, manifest: EngineManifest, uri: str, before: float
    ) -> tuple[EngineManifest, dict[str, Float32s] | None, float]:
        """Manifest, weights (None: the network's) and loss after fine-tuning, if that loses less."""
        from hwnas.train.data import load, normalise
        from hwnas.train.quantized import TuneOptions, tune

        source, chosen = self.source, self.options or TuneOptions()
        dataset = load(uri, input_shape=source.spec.input_shape, seed=source.seed, limit=source.limit)
        if len(dataset.train) < LEAST_BATCHES * chosen.batch:
            self._say(f"{len(dataset.train)} training images are too few for fine-tuning")
            return manifest, None, before
        self._say("fine-tuning for int8")
        about = {"mean": dataset.mean, "std": dataset.std, **self.drawn.about}
        some = dataset.train.pixels[:: max(1, len(dataset.train) // IMAGES)][:IMAGES]
        form = form_of(self.backend, manifest.setting.form)
        tuned = tune(
            source.spec,
            source.read_weights(),
            normalise(some, about["mean"], about["std"]),
            levels=form.weight_levels if form is not None else OTHER_LEVELS,
            rng=np.random.default_rng(source.seed),
            options=chosen,
            emit=self.emit,
        )
        better = self.write(tuned, frozenset())
        after = self.lost(better)
        if after >= before:
            self._say(f"fine-tuning did not help ({_points(after)} lost); the network's weights are kept")
            return self.write(None, frozenset()), None, before
        self._say(f"after {chosen.steps} steps of fine-tuning int8 loses {_points(after)}")
        found = FineTuned(steps=chosen.steps, lost_before=before, lost_after=after)
        return better.model_copy(update={"fine_tuned": found}), tuned, after

    def _by_block(self, manifest: EngineManifest, before: float) -> EngineManifest | None:
        """With blocks in float, where that keeps what is allowed. Of the network's own weights: those that
        were fine-tuned for int8 lose in float.
        """
        if not self.backend.forms() or self.drawn.calibration is None:
            return None
        self._say("looking for the blocks that lose it")
        source = self.source
        mixing = Mixing(
            source.spec, source.read_weights(), self.backend, manifest.setting, self.drawn.calibration
        )
        return by_block(
            mixing,
            lambda floats: self.write(None, floats),
            self.lost,
            manifest,
            before=before,
            max_loss=self.allowed,
            emit=self.emit,
        )

    def _say(self, text: str) -> None:
        if self.emit is not None:
            self.emit("note", {"text": text})


def _points(share: float) -> str:
    return f"{100 * share:.2f} points of top-1"
