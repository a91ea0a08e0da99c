"""int8 by block: where int8 loses too much, the fastest mix of int8 and float blocks that does not.

What each block costs is timed in context, what it loses is seen by quantizing it alone on calibration
images, and the choice among all mixes is exact. The mix is then built and compared as a whole: while it
still loses too much, the block that is thought to lose most goes back to float.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hwnas.arrays import Float32s, Float64s
from hwnas.backends.forms import form_of
from hwnas.by_block import BlockPrecision, Mixed
from hwnas.deploy.engine import is_timed, run_all
from hwnas.deploy.manifest import EngineManifest
from hwnas.lazy import lazy_import
from hwnas.measure.timing import Builder, TimingOptions, measure
from hwnas.protocols import Backend, Emit, Engine
from hwnas.records import Setting
from hwnas.search.solve.precision import PrecisionCosts, costs, fastest
from hwnas.spec import NetworkSpec
from hwnas.store import scratch
from hwnas.traced import VariantSpec

if TYPE_CHECKING:
    from hwnas.backends.calibrate import Calibration

special = lazy_import("scipy.special")

IMAGES = 256  # of the calibration images, that a block's loss is seen on
WHOLE, NONE = "all in int8", "all in float"

WriteMix = Callable[[frozenset[str]], EngineManifest]
LostBy = Callable[[EngineManifest], float]


class Mixing:
    """The engines of one network whose blocks are in int8 or in float.

    Attributes:
        blocks: outputs of the ONNX nodes of each block, in order.
    """

    def __init__(
        self,
        spec: NetworkSpec,
        weights: Mapping[str, Float32s],
        backend: Backend,
        setting: Setting,
        images: Float32s,
    ) -> None:
        from hwnas.backends import segments
        from hwnas.backends.calibrate import calibrate
        from hwnas.nets import onnx

        form = form_of(backend, setting.form)
        assert form is not None
        self.form, self.backend, self.setting, self.images = form, backend, setting, images
        self.model = onnx.network(spec, weights, batch=setting.batch)
        if isinstance(spec, VariantSpec):
            self.blocks = segments.by_cut(self.model)
        else:
            self.blocks = segments.by_place(self.model, [place for place, _ in spec.walk()])
        found: Calibration = calibrate(self.model, images, form)
        self.ranges, self.means = found.ranges, found.means

    def floats(self, int8: tuple[bool, ...]) -> frozenset[str]:
        """Outputs of the nodes that stay in float where these blocks are in int8."""
        return frozenset[str]().union(*(n for n, chosen in zip(self.blocks.values(), int8) if not chosen))

    def build(self, int8: tuple[bool, ...]) -> Engine:
        """An engine of a mix; the float engine where no block is in int8."""
        from hwnas.backends.quantize import to_int8

        if not any(int8):
            s = self.setting
            setting = self.backend.setting(s.device, self.form.rest, s.batch, s.threads)
            return self.backend.build(self.model, setting)
        model = to_int8(self.model, self.ranges, self.form, self.means, self.floats(int8))
        return self.backend.build(model, self.setting)

    def losses(self) -> Float64s:
        """By block: how far the scores move when it alone is in int8, as the mean Kullback-Leibler
        divergence from those of the float network.
        """
        n = len(self.blocks)
        exact = self._log_chances((False,) * n)
        alone = [self._log_chances(tuple(other == at for other in range(n))) for at in range(n)]
        found = [float((np.exp(exact) * (exact - given)).sum(axis=1).mean()) for given in alone]
        return np.maximum(found, 0.0)

    def _log_chances(self, int8: tuple[bool, ...]) -> Float64s:
        engine = self.build(int8)
        try:
            scores = run_all(engine, self.images[:IMAGES])
        finally:
            engine.close()
        chances: Float64s = special.log_softmax(scores.astype(np.float64), axis=1)
        return chances

    def timed(self, emit: Emit | None) -> tuple[PrecisionCosts, float, float]:
        """Costs of the blocks in context, and milliseconds of the network in float and in int8."""
        n = len(self.blocks)
        mixes = {NONE: (False,) * n, WHOLE: (True,) * n}
        for border in range(1, n):
            mixes[f"int8 before {border}"] = tuple(at < border for at in range(n))
            mixes[f"int8 from {border}"] = tuple(at >= border for at in range(n))
        with scratch() as folder:
            loaders = {
                name: self._loader(int8, folder / f"{at}{self.backend.suffix}")
                for at, (name, int8) in enumerate(mixes.items())
            }
            options, rng = TimingOptions.preset("quick"), np.random.default_rng(0)
            floors = {
                name: found.floor_ms for name, found in measure(loaders, options, rng=rng, emit=emit).items()
            }
        borders = range(1, n)
        heads = [floors[f"int8 before {border}"] for border in borders]
        tails = [floors[f"int8 from {border}"] for border in borders]
        return costs(floors[NONE], floors[WHOLE], heads, tails), floors[NONE], floors[WHOLE]

    def _loader(self, int8: tuple[bool, ...], path: Path) -> Builder:
        """Saves an engine and gives what loads it: building takes minutes in some runtimes."""
        engine = self.build(int8)
        setting = engine.setting
        try:
            engine.save(path)
        finally:
            engine.close()
        return lambda: self.backend.load(path, setting)


def by_block(
    mixing: Mixing,
    write: WriteMix,
    lost: LostBy,
    manifest: EngineManifest,
    *,
    before: float,
    max_loss: float,
    emit: Emit | None = None,
) -> EngineManifest | None:
    """An engine of int8 and float blocks that loses no more than is allowed; None where none is found.

    Args:
        mixing: the network.
        write: writes the engine with these nodes in float, and gives its manifest.
        lost: share of the images that the engine of a manifest gets wrong beyond the network.
        manifest: of the engine that is all in int8.
        before: what that one loses.
        max_loss: what may be lost.
        emit: progress, and a word on what was chosen.
    """
    names = list(mixing.blocks)
    moved = mixing.losses()
    # What the whole loses is laid on the blocks by how far each of them moves the scores.
    losses = before * moved / max(float(moved.sum()), 1e-30)
    timed = is_timed(manifest)
    if timed:
        found, float_ms, int8_ms = mixing.timed(emit)
    else:  # made for another machine: as many blocks as the loss allows
        found, float_ms, int8_ms = PrecisionCosts((1.0,) * len(names), (0.0,) * (len(names) - 1)), 0.0, 0.0
    chosen = list(fastest(found, losses.tolist(), max_loss))
    returned: list[str] = []
    while any(chosen):
        made = write(mixing.floats(tuple(chosen)))
        after = lost(made)
        if after <= max_loss:
            mixed = Mixed(
                blocks=tuple(
                    BlockPrecision(
                        block=name,
                        precision="int8" if int8 else mixing.form.rest,
                        loss=float(loss),
                        gain_ms=gain_ms if timed else None,
                        returned=name in returned,
                    )
                    for name, int8, loss, gain_ms in zip(names, chosen, losses, found.gain_ms)
                ),
                switch_ms=found.switch_ms if timed else (),
                float_ms=float_ms if timed else None,
                int8_ms=int8_ms if timed else None,
                predicted_ms=float_ms - found.of(chosen) if timed else None,
                lost_before=before,
                lost_after=after,
            )
            _say(emit, mixed.describe())
            return made.model_copy(update={"mixed": mixed})
        worst = max((at for at, int8 in enumerate(chosen) if int8), key=lambda at: float(losses[at]))
        chosen[worst] = False
        returned.append(names[worst])
        _say(emit, f"that mix loses {100 * after:.2f} points of top-1: {names[worst]} goes back to float")
    return None


def _say(emit: Emit | None, text: str) -> None:
    if emit is not None:
        emit("note", {"text": text})
