"""Intervals with a stated coverage from networks that were not fitted (Vovk et al. 2005).

Scores are residuals in units of the model's own standard deviation, so that a network whose blocks
are poorly known gets a wider interval. For exchangeable networks P(T within) >= coverage.
"""

from __future__ import annotations

import math

import numpy as np

from hwnas.arrays import Float64s

COVERAGE = 0.95
_GAUSS_95 = 1.96


def quantile(scores: Float64s, coverage: float = COVERAGE) -> float:
    """Half-width of the interval in standard deviations: the ceil((n + 1) coverage)-th score.

    With fewer than 19 scores no order statistic reaches 95 %; then the largest score or the
    Gaussian 1.96 is taken, whichever is more.
    """
    n = len(scores)
    rank = math.ceil((n + 1) * coverage)
    if rank > n:
        return float(max(_GAUSS_95, *scores)) if n else _GAUSS_95
    return float(np.sort(scores)[rank - 1])
