"""How far off each measured network is when it is predicted without itself: what intervals are made of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hwnas.arrays import Bools, Float64s
from hwnas.cost.posterior import Evidence, Prior, fit
from hwnas.measure.rows import RowRole
from hwnas.spec import NetworkSpec

_FOLDS = 8
_LEAST_MS = 1e-9  # a sum of Gaussians may in principle fall below zero


@dataclass(frozen=True)
class Slower:
    """A network that was measured `percent` slower than the others say, `score` standard deviations."""

    spec: NetworkSpec
    percent: float
    score: float


@dataclass(frozen=True)
class CrossValidated:
    """The fitted networks, each predicted without those that were measured beside it.

    Attributes:
        specs: (networks,) which they are.
        role: (networks,) of each in the table.
        error: (networks,) logarithm of measured over predicted latency.
        cost_sd: (networks,) standard deviation of the predicted cost, relative to it.
        noise: (networks,) that of a measurement within a campaign, as the other networks show it.
        se: (networks,) standard error of the measurement itself, relative to it.
    """

    specs: tuple[NetworkSpec, ...]
    role: tuple[RowRole, ...]
    error: Float64s
    cost_sd: Float64s
    noise: Float64s
    se: Float64s

    @property
    def calibration(self) -> Bools:
        """(networks,) those that were drawn at random."""
        return np.array([role == "calibration" for role in self.role], dtype=bool)

    @property
    def mape(self) -> float | None:
        """Mean absolute error of the networks that were drawn at random; None without any."""
        off = np.abs(np.expm1(-self.error[self.calibration]))
        return float(off.mean()) if off.size else None

    @property
    def scores(self) -> Float64s:
        """(networks,) errors in units of their standard deviation; above zero: slower than predicted.

        A network that was measured badly, and whose sessions say so, counts less. What the campaign has in
        common does not count: these networks shared the state of the machine with those that they are
        predicted from.
        """
        found: Float64s = self.error / np.sqrt(self.cost_sd**2 + self.noise**2 + self.se**2)
        return found

    def slower(self, limit: float) -> list[Slower]:
        """Those whose score is above a limit, the highest first."""
        scores = self.scores
        return [
            Slower(self.specs[i], 100.0 * float(np.expm1(self.error[i])), float(scores[i]))
            for i in np.argsort(-scores)
            if scores[i] > limit
        ]


def cross_validate(
    prior: Prior,
    evidence: Evidence,
    own_se: Float64s,
    specs: tuple[NetworkSpec, ...],
    role: tuple[RowRole, ...],
) -> CrossValidated:
    """Predict each fold of neighbours from the others; a fold that is all there is has no others.

    Args:
        prior: of the block costs.
        evidence: the networks, with the errors that they count with for others.
        own_se: (networks,) standard errors of the measurements themselves, in ms.
        specs, role: (networks,) which they are.
    """
    latency_ms = evidence.latency_ms
    error, cost_sd, noise = (np.zeros(len(latency_ms)) for _ in range(3))
    done = np.zeros(len(latency_ms), dtype=bool)
    for fold in folds(len(latency_ms)):
        if fold.all():
            continue
        rest = fit(prior, evidence.only(~fold))
        mean, variance = rest.predict(evidence.counts[fold])
        mean = np.maximum(mean, _LEAST_MS)
        error[fold] = np.log(latency_ms[fold] / mean)
        cost_sd[fold], noise[fold] = np.sqrt(variance) / mean, rest.scales["noise"]
        done |= fold
    return CrossValidated(
        tuple(spec for spec, has in zip(specs, done) if has),
        tuple(one for one, has in zip(role, done) if has),
        error[done],
        cost_sd[done],
        noise[done],
        (own_se / latency_ms)[done],
    )


def folds(n: int) -> list[Bools]:
    """Masks of folds of neighbours in the order of measuring; few, so that the cost stays small."""
    fold = np.arange(n) * _FOLDS // max(n, _FOLDS)
    return [fold == number for number in np.unique(fold)]
