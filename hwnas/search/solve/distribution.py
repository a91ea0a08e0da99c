"""The exact distribution of a sum of independent choices: what share of a space is affordable.

The cost of a network whose layers are chosen independently is distributed as the convolution of the
layers' distributions. On a grid that takes milliseconds for 10^12 networks and needs no sampling, so
it is the measure for space proposals (`proposals`): before, with all choices equally likely, and after.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hwnas.arrays import Float64s
from hwnas.errors import InputError

CELLS = 20_000


def share_within(
    costs: Sequence[Sequence[float]],
    fixed: float,
    low: float,
    high: float,
    probability: Sequence[Sequence[float]] | Float64s | None = None,
    *,
    cells: int = CELLS,
) -> float:
    """Probability that the cost lies in [low, high].

    Networks are gathered in cells of about 1 / `cells` of the most expensive one's cost, and each cell is
    judged by its mean cost, which is exact; only a cell that the window's end cuts is judged as a whole.

    Args:
        costs: for each layer the cost of each of its operators, in any one unit.
        fixed: cost of everything that is not chosen.
        low, high: the window, both ends included.
        probability: of each operator of each layer (longer rows are cut); None for equally likely.
        cells: of the grid.
    """
    if not costs or not all(costs):
        raise InputError("every layer needs at least one operator")
    step = max(sum(max(row) for row in costs) / cells, 1e-300)
    mass, moment = np.ones(1), np.zeros(1)
    for n, row in enumerate(costs):
        p = np.full(len(row), 1 / len(row)) if probability is None else np.asarray(probability[n])[: len(row)]
        shifts = [round(cost / step) for cost in row]
        size = len(mass) + max(shifts)
        grown, grown_moment = np.zeros(size), np.zeros(size)
        for cost, shift, share in zip(row, shifts, p, strict=True):
            grown[shift : shift + len(mass)] += share * mass
            grown_moment[shift : shift + len(mass)] += share * (moment + cost * mass)
        mass, moment = grown, grown_moment
    cost_of = fixed + moment / np.maximum(mass, 1e-300)
    slack = 1e-9 * max(abs(high), 1e-300)
    inside = (cost_of >= low - slack) & (cost_of <= high + slack)
    return min(float(mass[inside].sum()), 1.0)
