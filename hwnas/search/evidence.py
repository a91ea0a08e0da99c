"""What all rounds so far say of the growths of a network, not the last one alone.

One round judges growths with a few hundred images, and its gains have errors of a third to the half
of themselves; a search that believes each round for itself follows the noise. The same growths are
judged again in every round, of a network that is one growth further: a moving target, followed as a
Kalman filter would, by weighing each round by its own error and by what may have changed since.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log2, sqrt
from statistics import mean

from hwnas.records import StageImportance, Trial

# How much a gain is taken to change from one round to the next, as a part of itself.
DRIFT = 0.3


def path_of(history: Sequence[Trial], now: Trial) -> list[Trial]:
    """A network and those that it grew from, the newest first."""
    by_index = {trial.index: trial for trial in history}
    found = [now]
    while found[-1].parent is not None:
        found.append(by_index[found[-1].parent])
    return found


def returns(kind: str, depth: int, steps: int) -> float:
    """What `steps` of a growth bring, in units of what the first step of a new stage would.

    Errors fall as powers of depth, so that further blocks bring the logarithm of the factor by which the
    depth grows; other kinds of growth are taken as proportional to their steps.
    """
    return log2((depth + steps) / depth) if kind == "deeper" else float(steps)


def pooled(history: Sequence[Trial], now: Trial) -> dict[tuple[int, str], StageImportance]:
    """Gains of the growths that were judged for `now`, with the evidence of the rounds before it.

    Every round counts by 1 / (se^2 + age (DRIFT gain)^2), mean squares over the growths it judged: the
    same weight for all of them, since a noisy gain is a large one as often as not, and weighing each by
    its own error would favour the small ones. Gains are compared in units of `returns`.
    """
    rounds = [(trial, _units(trial)) for trial in path_of(history, now)]
    found = {}
    for place, one in (rounds[0][1] if rounds else {}).items():
        weights, values, errors = [], [], []
        for age, (_, units) in enumerate(rounds):
            if place in units:
                variance = mean(other.se**2 for other in units.values())
                drift = DRIFT**2 * mean(other.value**2 for other in units.values())
                weights.append(1.0 / max(variance + age * drift, 1e-30))
                values.append(units[place].value)
                errors.append(units[place].se)
        whole = sum(weights)
        stage, kind = place
        unit = returns(kind, len(now.spec.stages[stage]), one.steps)
        found[place] = one.model_copy(
            update={
                "value": unit * sum(w * v for w, v in zip(weights, values, strict=True)) / whole,
                "se": unit * sqrt(sum((w * e) ** 2 for w, e in zip(weights, errors, strict=True))) / whole,
            }
        )
    return found


def _units(trial: Trial) -> dict[tuple[int, str], StageImportance]:
    """A trial's importances in units of `returns`."""
    assert trial.evaluation is not None
    found = {}
    for one in trial.evaluation.importance:
        unit = returns(one.kind, len(trial.spec.stages[one.stage]), one.steps)
        found[one.stage, one.kind] = one.model_copy(update={"value": one.value / unit, "se": one.se / unit})
    return found
