"""How wide an interval is, from how far networks were off that were predicted without being fitted.

The scores are such errors in units of the standard deviation that was predicted for each
(`hwnas.cost.validated`), so that a network whose blocks are poorly known gets a wider interval. They are
taken as draws of a Student distribution with `DOF` degrees of freedom, of which the scale is not known. Each
score z has a weight:

    w = (DOF + 1) / (DOF + z^2 / scale^2),    scale^2 = (PRIOR s0^2 + sum w z^2) / (PRIOR + n)

(expectation and maximisation; Lange, Little & Taylor 1989). A score adds less than DOF + 1 squares of the
scale, however large it is, so that one network which was measured in a slow spell cannot decide the width of
all intervals, as the largest of twenty scores would. The prior counts as `PRIOR` scores for s0, the scale
at which the interval is that of a Gaussian. `benchmarks.intervals` compares it with other rules.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
from scipy.special import stdtrit

from hwnas.arrays import Float64s

COVERAGE = 0.95
DOF, PRIOR = 4.0, 4.0
_STEPS, _CLOSE = 200, 1e-10


def gaussian(coverage: float = COVERAGE) -> float:
    """Half-width of a Gaussian's interval in standard deviations: 1.96 for 95 %."""
    return NormalDist().inv_cdf((1.0 + coverage) / 2.0)


def half_width(scores: Float64s, coverage: float = COVERAGE) -> float:
    """Half-width of the interval in predicted standard deviations.

    Args:
        scores: (networks,) errors over their standard deviations; without any the interval is a Gaussian's.
        coverage: probability that the interval holds a network's latency.
    """
    student = float(stdtrit(DOF, (1.0 + coverage) / 2.0))
    squares = np.asarray(scores, dtype=np.float64) ** 2
    prior = (gaussian(coverage) / student) ** 2
    scale = prior
    for _ in range(_STEPS):
        weights = (DOF + 1.0) / (DOF + squares / scale)
        before, scale = scale, float((PRIOR * prior + weights @ squares) / (PRIOR + len(squares)))
        if abs(scale - before) <= _CLOSE * before:
            break
    return student * math.sqrt(scale)
