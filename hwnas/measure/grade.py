"""How well a machine repeats itself, in one word."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from hwnas.measure.timing import Builder, TimingOptions, measure
from hwnas.protocols import Emit


def noise_grade(
    builders: Mapping[str, Builder] | None = None,
    *,
    rng: np.random.Generator,
    emit: Emit | None = None,
) -> dict[str, Any]:
    """How well this machine repeats itself: every engine is timed against a second of itself.

    Args:
        builders: what is timed; three small chains of blocks on this CPU if None (3 s).
        rng: for the order.
        emit: told of progress.

    Returns:
        ``grade`` ("quiet", "usable", "noisy" or "loud"), ``text`` in words, ``repeat_percent``
        (mean difference of the two floors), ``median_percent`` (median over floor, less one),
        ``wall_cpu_ratio`` and ``gates``.
    """
    builders = builders or _probes()
    twins = {f"{name} {half}": build for name, build in builders.items() for half in ("A", "B")}
    options = TimingOptions(sessions=6, sessions_max=6, repeats=0, target=1.0)

    def progress(kind: str, fields: Mapping[str, Any]) -> None:
        if emit is not None and kind == "progress":  # the grade sums up the gates
            emit(kind, fields)

    found = measure(twins, options, rng=rng, emit=progress)
    pairs = [(found[f"{name} A"], found[f"{name} B"]) for name in builders]
    repeat = float(np.mean([abs(a.floor_ms / b.floor_ms - 1.0) for a, b in pairs]))
    ratio = float(np.median([m.wall_cpu_ratio or 1.0 for m in found.values()]))
    above = float(np.median([m.median_ms / m.floor_ms - 1.0 for m in found.values()]))
    gates = sorted({gate for m in found.values() for gate in m.gates})
    grade, text = _grade(repeat, ratio)
    return {
        "grade": grade,
        "text": f"{text}; a repeated measurement differs by {repeat:.1%}, wall/CPU time is {ratio:.2f}",
        "repeat_percent": 100.0 * repeat,
        "median_percent": 100.0 * above,
        "wall_cpu_ratio": ratio,
        "gates": gates,
    }


def _probes() -> dict[str, Builder]:
    """Chains of residual blocks of 0.1 to 3 ms on a present-day core."""
    from hwnas.measure.device import conditions
    from hwnas.nets import onnx
    from hwnas.spec import BlockSpec

    backend, setting = conditions("cpu")
    builders: dict[str, Builder] = {}
    for width, size, depth in ((16, 32, 1), (32, 32, 2), (64, 32, 4)):
        block = BlockSpec(kind="basic", c_in=width, c_out=width, size_in=size)
        model = onnx.chain([block] * depth)
        builders[f"{depth} {block.key}"] = partial(backend.build, model, setting)
    return builders


def _grade(repeat: float, ratio: float) -> tuple[str, str]:
    if repeat <= 0.01 and ratio <= 1.02:
        return "quiet", "good for every budget"
    if repeat <= 0.02 and ratio <= 1.2:
        return "usable", "good for floors and medians; for p95 and p99 stop other programs"
    if repeat <= 0.04:
        return "noisy", "floors are reliable, medians and tails are not; stop other programs"
    return "loud", "differences below 10 % are noise; stop other programs or use another machine"
