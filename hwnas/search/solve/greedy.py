"""Fill the rest of a budget by a score that needs no training.

Where training was too short to tell growths apart, the budget would be left unused. A score without
training (the `entropy` unless another is given) then decides: growths are made one by one, each
time the one that adds most to it for its milliseconds, while one fits.
"""

from __future__ import annotations

from collections.abc import Callable

from hwnas.estimates import Budget, Estimate
from hwnas.protocols import SearchSpace
from hwnas.search.moves import cost_of
from hwnas.search.solve.entropy import entropy
from hwnas.spec import NetworkSpec


def filled(
    spec: NetworkSpec,
    space: SearchSpace,
    estimate: Callable[[NetworkSpec], Estimate],
    budget: Budget,
    score: Callable[[NetworkSpec], float] = entropy,
) -> NetworkSpec:
    """The network grown by score per millisecond until nothing that adds to the score fits the budget."""
    while True:
        now, before = score(spec), estimate(spec)
        best, best_worth = None, 0.0
        for move in space.grow(spec):
            after = estimate(move.spec)
            if not budget.fits(after):
                continue
            worth = (score(move.spec) - now) / cost_of(before, after)
            if worth > best_worth:
                best, best_worth = move.spec, worth
        if best is None:
            return spec
        spec = best
