"""Which form of int8 an engine has: the fastest of those that its runtime may be fast in, by the clock.

Whether a residual sum pays for being quantized is a matter of the network: it gained 5 % for one and lost a
tenth for another. So the engine of this very network is built in every form, and all are timed in turn.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from hwnas.arrays import Float32s
from hwnas.measure.candidates import in_forms, name_of
from hwnas.measure.timing import Builder, SessionOptions, TimingOptions, measure
from hwnas.protocols import Backend, Emit, Engine
from hwnas.records import Setting
from hwnas.traced import AnyNetwork
from hwnas.units import format_ms

# Forms differ by percents: more short sessions than runtimes need, still about a second each.
BRIEF = TimingOptions(sessions=6, sessions_max=6, repeats=0, session=SessionOptions(session_ms=60.0))


def fastest(
    spec: AnyNetwork,
    weights: Mapping[str, Float32s],
    backend: Backend,
    setting: Setting,
    *,
    emit: Emit | None = None,
) -> tuple[Setting, dict[str, float]]:
    """The setting in its fastest form, and the lowest milliseconds of each form by its name.

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
    found = measure(builders, BRIEF, rng=np.random.default_rng(0), emit=None)
    floors = {form: found[form].floor_ms for form in forms}
    best = forms[min(floors, key=lambda form: floors[form])]
    if emit is not None:
        others = [
            f"{form or 'usual form'} {format_ms(ms)}" for form, ms in floors.items() if form != best.form
        ]
        text = f"fastest form of int8: {name_of(best)}, {format_ms(floors[best.form])} ({', '.join(others)})"
        emit("note", {"text": text})
    return best, floors


def _builder(backend: Backend, model: bytes, setting: Setting) -> Builder:
    def build() -> Engine:
        return backend.build(model, setting)

    return build
