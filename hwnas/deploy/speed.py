"""Whether an engine of fewer bits is faster than the fp32 engine of the same network: by the clock.

int8 in a form that a runtime's kernels do not fuse is slower than fp32; a processor without the units
gains nothing. No file is called int8 here without this being looked at.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hwnas.deploy.manifest import SpeedGain, Weights
from hwnas.measure.timing import TimingOptions, measure
from hwnas.protocols import Backend, Emit, Engine
from hwnas.records import Setting
from hwnas.spec import NetworkSpec


def beside_fp32(
    load: Callable[[], Engine],
    spec: NetworkSpec,
    weights: Weights,
    backend: Backend,
    setting: Setting,
    *,
    deadline_s: float | None = None,
    emit: Emit | None = None,
) -> SpeedGain:
    """Time an engine and its fp32 counterpart in turn.

    Args:
        load: gives the engine.
        spec, weights: the network.
        backend, setting: the runtime, and the conditions of the engine; fp32 takes the same ones.
        deadline_s: seconds for it.
        emit: progress.
    """
    from hwnas.nets import onnx

    model = onnx.network(spec, weights, batch=setting.batch)
    plain = backend.setting(setting.device, "fp32", setting.batch, setting.threads)
    found = measure(
        {"engine": load, "fp32": lambda: backend.build(model, plain)},
        TimingOptions.preset("quick"),
        rng=np.random.default_rng(0),
        deadline_s=deadline_s,
        emit=emit,
    )
    mine, other = found["engine"], found["fp32"]
    error_ms = 1.96 * (mine.se_ms**2 + other.se_ms**2) ** 0.5
    return SpeedGain(
        floor_ms=mine.floor_ms,
        fp32_floor_ms=other.floor_ms,
        differs=abs(mine.floor_ms - other.floor_ms) > error_ms,
    )
