"""Gains of growths, pooled over all rounds so far.

One round judges growths with a few hundred images, and its gains have errors of a third to the half
of themselves; a search that uses each round alone follows the noise. The same growths are
judged again in every round, of a network that is one growth further: a moving target, followed as a
Kalman filter would, by weighing each round by its own error and by what may have changed since.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt
from statistics import mean

from hwnas.protocols import SearchSpace
from hwnas.records import StageImportance, Trial
from hwnas.search.moves import further, returns

# How much a gain is taken to change from one round to the next, as a part of itself.
DRIFT = 0.3
# Importance by stage and kind of growth.
Gains = Mapping[tuple[int, str], StageImportance]


def path_of(history: Sequence[Trial], now: Trial) -> list[Trial]:
    """A network and those that it grew from, the newest first."""
    by_index = {trial.index: trial for trial in history}
    found = [now]
    while found[-1].parent is not None:
        found.append(by_index[found[-1].parent])
    return found


def pooled(history: Sequence[Trial], now: Trial, space: SearchSpace) -> Gains:
    """Gains of the growths that were judged for `now`, with the evidence of the rounds before it.

    Every round counts by 1 / (se^2 + age (DRIFT gain)^2), mean squares over the growths it judged: the
    same weight for all of them, since a noisy gain is a large one as often as not, and weighing each by
    its own error would favour the small ones. Gains are compared in units of `moves.returns`.
    """
    rounds = [_units(trial, space) for trial in path_of(history, now)]
    weights = [_weight(units, age) for age, units in enumerate(rounds)]
    found = {}
    for place, one in rounds[0].items():
        seen = [(w, units[place]) for w, units in zip(weights, rounds, strict=True) if place in units]
        # The mean is in units of `moves.returns`; back to what this growth brings.
        scale = _unit(now, one, space) / sum(w for w, _ in seen)
        value = scale * sum(w * other.value for w, other in seen)
        se = scale * sqrt(sum((w * other.se) ** 2 for w, other in seen))
        found[place] = one.model_copy(update={"value": value, "se": se})
    return found


def _weight(units: Gains, age: int) -> float:
    """Weight of a round that is `age` rounds old; one that judged nothing has none."""
    if not units:
        return 0.0
    variance = mean(one.se**2 for one in units.values())
    drift = DRIFT**2 * mean(one.value**2 for one in units.values())
    return 1.0 / max(variance + age * drift, 1e-30)


def _unit(trial: Trial, one: StageImportance, space: SearchSpace) -> float:
    after = further(space, trial.spec, one.stage, one.steps, one.kind)
    return returns(trial.spec, after, one.stage, one.kind, one.steps)


def _units(trial: Trial, space: SearchSpace) -> Gains:
    """A trial's importances in units of `moves.returns`."""
    found = {}
    for one in trial.outcome.importance:
        unit = _unit(trial, one, space)
        found[one.stage, one.kind] = one.model_copy(update={"value": one.value / unit, "se": one.se / unit})
    return found
