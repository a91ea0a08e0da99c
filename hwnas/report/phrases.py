"""The sentences of a report: what a figure says, for someone who has never seen hwnas."""

from __future__ import annotations

from collections.abc import Sequence

from hwnas import sizes
from hwnas.budgets import Percentile
from hwnas.estimates import Budget
from hwnas.records import Measurement, Promise, Trial
from hwnas.spec import BlockSpec, NetworkSpec

PERCENTILES = {
    "p50": "median",
    "p90": "90th percentile",
    "p95": "95th percentile",
    "p99": "99th percentile",
}

# What the gates of `hwnas.measure` mean, for those who have not read its documentation.
GATES = {
    "contention": "other processes used the core",
    "autocorrelation": "times varied slowly and periodically",
    "spread": "times varied widely",
    "spikes": "single calls took over three times as long",
    "sentinel": "the reference network ran slower: the machine slowed down",
    "sessions": "sessions gave different times",
    "precision": "the interval is wider than requested",
    "load": "other processes used the machine",
    "deadline": "the time limit was reached",
}

# Part of a budget that needs no explanation.
WELL_USED = 0.9


def pair_ms(value_ms: float, budget_ms: float) -> str:
    """Two latencies in one unit with one number of digits: ``0.58 ms of 0.60 ms``.

    The value is rounded up where rounding down would hide an overrun.
    """
    unit, factor = ("us", 1e3) if budget_ms < 0.1 else ("ms", 1.0) if budget_ms < 1e3 else ("s", 1e-3)
    value, limit = value_ms * factor, budget_ms * factor
    digits = 2 if limit < 10 else 1 if limit < 100 else 0
    shown = f"{value:.{digits}f}"
    while (value > limit) != (float(shown) > float(f"{limit:.{digits}f}")) and digits < 6:
        digits += 1
        shown = f"{value:.{digits}f}"
    return f"{shown} {unit} of {limit:.{digits}f} {unit}"


def percent(fraction: float, digits: int = 1) -> str:
    """``97.8 %``."""
    return f"{100 * fraction:.{digits}f} %"


def promise(found: Promise) -> str:
    """``kept in 5 of 5 sessions``, or what else came of it."""
    total = len(found.session_ms)
    if found.verdict == "kept":
        return f"kept in {total - found.misses} of {total} sessions"
    if found.verdict == "broken":
        return f"missed in {found.misses} of {total} sessions"
    return f"undecided after {total} sessions"


def latency(measured: Measurement, budget: Budget) -> str:
    """Measured latency against the budget: ``0.58 ms of 0.60 ms``."""
    assert budget.latency_ms is not None
    return pair_ms(measured.at(budget.percentile), budget.latency_ms)


def statistic(percentile: Percentile) -> str:
    """What a percentile is called."""
    return PERCENTILES[percentile]


def stage_name(place: str) -> str:
    """``stages.0`` as ``stage 1``; other parts as they are."""
    head, _, number = place.partition(".")
    return f"stage {int(number) + 1}" if head == "stages" and number.isdigit() else place


def block(spec: BlockSpec) -> str:
    """A block in words: ``basic 3x3, 32 to 64 channels, stride 2, on 16x16``."""
    parts = [f"{spec.kind} {spec.kernel}x{spec.kernel}", f"{spec.c_in} to {spec.c_out} channels"]
    parts += [f"stride {spec.stride}"] if spec.stride > 1 else []
    parts += [f"expand {spec.expand}"] if spec.expand > 1 else []
    parts += [f"SE {spec.se:g}"] if spec.se else []
    return ", ".join(parts) + f", on {sizes.text(spec.size_in)}"


def change(before: NetworkSpec, after: NetworkSpec) -> str:
    """What growth did: ``stage 3: 5 to 6 blocks``; several stages joined by semicolons."""
    if len(before.stages) != len(after.stages):
        return f"{len(before.stages)} to {len(after.stages)} stages"
    parts = []
    for number, (old, new) in enumerate(zip(before.stages, after.stages), start=1):
        if old != new:
            parts.append(f"stage {number}: {_stage_change(old, new)}")
    return "; ".join(parts) or "trained further"


def _stage_change(old: Sequence[BlockSpec], new: Sequence[BlockSpec]) -> str:
    if len(old) != len(new):
        return f"{len(old)} to {len(new)} blocks"
    for field, name in (("c_out", "width"), ("kernel", "kernel"), ("expand", "expand"), ("se", "SE")):
        values = [(getattr(a, field), getattr(b, field)) for a, b in zip(old, new)]
        changed = [(a, b) for a, b in values if a != b]
        if changed:
            return f"{name} {changed[0][0]:g} to {changed[0][1]:g}"
    return "other blocks"


def shown_ms(trial: Trial, percentile: Percentile = "p50") -> float:
    """Latency to show for a trial: measured as a whole where it was, else predicted."""
    return trial.measured.at(percentile) if trial.measured else trial.estimate.latency_ms


def gates(found: Sequence[str]) -> str:
    """A sentence about the gates that fired while something was measured; empty where none did."""
    if not found:
        return ""
    return f" Disturbances during this measurement: {'; '.join(GATES.get(g, g) for g in found)}."


def unused(used: float | None, stopped: str) -> str:
    """Why much of a budget is left; empty where little is, or nothing was said."""
    if used is None or used >= WELL_USED or not stopped:
        return ""
    return f"{100 * (1 - used):.0f} % of the budget is left: {stopped}"
