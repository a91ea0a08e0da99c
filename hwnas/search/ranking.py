"""Trained trials in order: which may win, which is the newest, which the most accurate."""

from __future__ import annotations

import math
from collections.abc import Sequence

from hwnas.records import Trial, trained

# Validation accuracy that a network may lose by growing and still be the one to train on.
COLLAPSE = 0.1


def candidates(trials: Sequence[Trial]) -> list[Trial]:
    """The trials that may win: trained, and not auxiliary networks."""
    return [trial for trial in trained(trials) if trial.role != "probe"]


def accuracy(trial: Trial) -> float:
    """Validation accuracy of a trained trial."""
    return trial.outcome.accuracy


def difference(one: Trial, other: Trial) -> tuple[float, float]:
    """Accuracy of one trained trial over another, with the standard error of the difference."""
    return accuracy(one) - accuracy(other), math.hypot(one.outcome.accuracy_se, other.outcome.accuracy_se)


def newest(trials: Sequence[Trial]) -> Trial | None:
    """The last candidate that was trained."""
    return next((t for t in reversed(trials) if t.evaluation is not None and t.role == "candidate"), None)


def ancestry(trials: Sequence[Trial], trial: Trial) -> list[Trial]:
    """A trained trial and those whose weights it inherited, newest first."""
    by_index = {one.index: one for one in trials}
    found, at = [], by_index.get(trial.index)
    while at is not None:
        found.append(at)
        at = by_index.get(at.parent) if at.parent is not None else None
    return found


def by_accuracy(trials: Sequence[Trial]) -> list[Trial]:
    """Best validation accuracy first; the faster network where it is equal."""
    return sorted(candidates(trials), key=lambda t: (-accuracy(t), t.estimate.latency_ms, t.index))
