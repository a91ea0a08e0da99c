"""Which form of int8 an engine has: the fastest of those that its runtime may be fast in, by the clock.

Whether a residual sum pays for being quantized is a matter of the network: it gained 5 % for one and lost a
tenth for another. So the engine of this very network is built in every form, and all are timed in turn.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from hwnas.arrays import Float32s
from hwnas.measure.candidates import in_forms, name_of
from hwnas.measure.timing import Builder
from hwnas.measure.turns import in_turn
from hwnas.protocols import Backend, Emit, Engine
from hwnas.records import Setting
from hwnas.traced import AnyNetwork

TURNS = 60  # forms differ by percents


def fastest(
    spec: AnyNetwork,
    weights: Mapping[str, Float32s],
    backend: Backend,
    setting: Setting,
    *,
    emit: Emit | None = None,
) -> tuple[Setting, dict[str, float]]:
    """The setting in its fastest form, and by name how long each takes, as a multiple of the fastest.

    Args:
        spec, weights: the network.
        backend, setting: runtime and conditions; of a precision or runtime with one form only, nothing is
            timed and nothing is told.
        emit: told what was taken.
    """
    forms = {s.form: s for s in in_forms(backend, setting)}
    if len(forms) == 1:
        return setting, {}
    from hwnas.nets import onnx

    model = onnx.network(spec, weights, batch=setting.batch)
    builders = {form: _builder(backend, model, s) for form, s in forms.items()}
    found = in_turn(builders, rng=np.random.default_rng(0), turns=TURNS)
    relative = {form: turn.relative for form, turn in found.items()}
    best = forms[min(relative, key=lambda form: relative[form])]
    if emit is not None:
        others = [f"{name_of(s)} {relative[f]:.2f}" for f, s in forms.items() if f != best.form]
        text = f"fastest form of int8: {name_of(best)}; times as long: {', '.join(others)}"
        emit("note", {"text": text})
    return best, relative


def _builder(backend: Backend, model: bytes, setting: Setting) -> Builder:
    def build() -> Engine:
        return backend.build(model, setting)

    return build
