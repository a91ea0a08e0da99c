"""How well a machine repeats itself, in one word."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from hwnas.measure.device import conditions
from hwnas.measure.levels import SentinelHistory
from hwnas.measure.session import Gates
from hwnas.measure.timing import Builder, TimingOptions, measure
from hwnas.protocols import Emit
from hwnas.spec import BlockSpec


def noise_grade(
    builders: Mapping[str, Builder] | None = None,
    *,
    rng: np.random.Generator,
    emit: Emit | None = None,
    levels: SentinelHistory | None = None,
    device: str = "cpu",
) -> dict[str, Any]:
    """How well this machine repeats itself: every engine is timed against a second of itself.

    A few seconds may be lucky ones, so what other commands saw in the last hour counts as well.

    Args:
        builders: what is timed; three small chains of blocks on this CPU if None (3 s).
        rng: for the order.
        emit: told of progress.
        levels: looks at the sentinel by all commands; this CPU's if `builders` is None.
        device: what `builders` of None are for.

    Returns:
        ``grade`` ("quiet", "usable", "noisy" or "loud"), ``text`` in words, ``repeat_percent``
        (mean difference of the two floors), ``median_percent`` (median over floor, less one),
        ``wall_cpu_ratio``, ``gates``, and ``lately`` (see `slow_lately`).
    """
    guard: Builder | None = None
    if builders is None:
        builders, guard, levels = probes(device)
    twins = {f"{name} {half}": build for name, build in builders.items() for half in ("A", "B")}
    options = TimingOptions(sessions=6, sessions_max=6, repeats=0, target=1.0)

    def progress(kind: str, fields: Mapping[str, Any]) -> None:
        if emit is not None and kind == "progress":  # the grade sums up the gates
            emit(kind, fields)

    found = measure(twins, options, rng=rng, emit=progress, sentinel=guard, levels=levels)
    pairs = [(found[f"{name} A"], found[f"{name} B"]) for name in builders]
    repeat = float(np.mean([abs(a.floor_ms / b.floor_ms - 1.0) for a, b in pairs]))
    ratio = float(np.median([m.wall_cpu_ratio or 1.0 for m in found.values()]))
    above = float(np.median([m.median_ms / m.floor_ms - 1.0 for m in found.values()]))
    gates = sorted({gate for m in found.values() for gate in m.gates})
    lately = slow_lately(levels)
    grade, text = _grade(repeat, ratio, lately["slow_share"] if lately else 0.0)
    if lately:
        text = f"{text}; {lately['text']}"
    return {
        "grade": grade,
        "text": f"{text}; a repeated measurement differs by {repeat:.1%}, wall/CPU time is {ratio:.2f}",
        "repeat_percent": 100.0 * repeat,
        "median_percent": 100.0 * above,
        "wall_cpu_ratio": ratio,
        "gates": gates,
        "lately": lately,
    }


HOUR_S = 3600.0


def slow_lately(levels: SentinelHistory | None, seconds: float = HOUR_S) -> dict[str, Any] | None:
    """What the looks of all commands on this device say of the time before this one.

    Args:
        levels: the sentinel's looks; None for a device without a past.
        seconds: how far back.

    Returns:
        ``slow_share`` of the time that was seen, ``seen_s``, ``best_ms`` and ``text``; None where too
        little was seen for a best level.
    """
    found = levels.slow_share(seconds, Gates().sentinel) if levels is not None else None
    if levels is None or found is None:
        return None
    share, seen_s = found
    text = f"slow in {share:.0%} of the {seen_s:.0f} s measured in the last {seconds / 60.0:.0f} minutes"
    return {"slow_share": share, "seen_s": seen_s, "best_ms": levels.best_ms(), "text": text}


def probes(device: str = "cpu") -> tuple[dict[str, Builder], Builder | None, SentinelHistory | None]:
    """Chains of residual blocks of 0.1 to 3 ms on a present-day core; the sentinel and its levels."""
    from hwnas.measure.sentinel import watched
    from hwnas.nets import onnx

    backend, setting = conditions(device)
    builders: dict[str, Builder] = {}
    for width, size, depth in ((16, 32, 1), (32, 32, 2), (64, 32, 4)):
        block = BlockSpec(kind="basic", c_in=width, c_out=width, size_in=size)
        model = onnx.chain([block] * depth)
        builders[f"{depth} {block.key}"] = partial(backend.build, model, setting)
    return (builders, *watched(backend, setting))


def _grade(repeat: float, ratio: float, slow_share: float = 0.0) -> tuple[str, str]:
    if repeat <= 0.01 and ratio <= 1.02 and slow_share <= 0.05:
        return "quiet", "good for every budget"
    if repeat <= 0.02 and ratio <= 1.2 and slow_share <= 0.25:
        return "usable", "good for floors and medians; for p95 and p99 stop other programs"
    if repeat <= 0.04:
        return "noisy", "floors are reliable, medians and tails are not; stop other programs"
    return "loud", "differences below 10 % are noise; stop other programs or use another machine"
