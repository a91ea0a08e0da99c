"""The last steps to a budget are fine: one block larger, or larger here and cheaper elsewhere.

Growth raises a whole stage at a time, and near the end no such step fits though milliseconds are left,
which have no other use. Then single blocks change, and where nothing can only grow, something cheaper
elsewhere pays for what grows. A score that needs no training decides, and never falls.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from hwnas.errors import InputError
from hwnas.estimates import Budget, Estimate
from hwnas.protocols import SearchContext, SearchSpace
from hwnas.records import Trial
from hwnas.search.solve.entropy import entropy
from hwnas.search.solve.greedy import filled
from hwnas.spec import NetworkSpec

# Part of a budget that counts as used: what is left of it is no more than predictions are uncertain by.
USED = 0.97
# Networks that are looked at so many changes away from the present one, and most changes.
NEAR, FARTHEST = 100, 4
# Proposals for one budget, after measurements refused the ones before; how many of them are trained, the
# second where a measurement showed that more fits; and the part of the budget that one has to add.
TRIES, TRAINED, WORTH = 4, 2, 0.02


def refined(
    spec: NetworkSpec,
    space: SearchSpace,
    estimate: Callable[[NetworkSpec], Estimate],
    budget: Budget,
    score: Callable[[NetworkSpec], float] = entropy,
    tried: frozenset[str] = frozenset(),
) -> NetworkSpec:
    """A network near `spec` that uses `USED` of a budget on latency, or as much as any near it.

    The score does not fall, and the nearest network that is large enough is taken: with each change more,
    less is left of what was chosen for better reasons.

    Args:
        spec: a network that fits.
        space: whose neighbours are looked at.
        estimate: predicts.
        budget: the limits to keep.
        score: without training.
        tried: keys of networks that are no answer.
    """
    limit_ms = budget.latency_ms
    if limit_ms is None:
        return spec
    grown = filled(spec, space, estimate, budget, score)
    best = grown if grown.key not in tried else spec
    used = estimate(best).bound_ms / limit_ms
    least, rng = score(spec), np.random.default_rng(0)
    seen = {*tried, grown.key}
    for changes in range(1, FARTHEST + 1):
        for _ in range(NEAR):
            if used >= USED:
                return best
            near = grown
            try:
                for _ in range(changes):
                    near = space.mutate(near, rng)
            except InputError:  # the only member of its space
                return best
            if near.key in seen:
                continue
            seen.add(near.key)
            if score(near) < least:
                continue
            found = estimate(near)
            if found.bound_ms / limit_ms > used and budget.fits(found):
                best, used = near, found.bound_ms / limit_ms
    return best


def last_steps(
    history: Sequence[Trial],
    context: SearchContext,
    budget: Budget,
    *,
    note: tuple[str, int],
    score: Callable[[NetworkSpec], float] = entropy,
) -> tuple[Trial, NetworkSpec] | None:
    """The trial to continue from and the network that uses the rest of a budget; None where there is none.

    Args:
        history: every trial.
        context: space and estimates.
        budget: what is to be used.
        note: name and value that every last step to this budget carries.
        score: see `refined`.
    """
    limit_ms, estimate = budget.latency_ms, context.estimate
    trained = [t for t in history if t.evaluation is not None and t.role == "candidate"]
    fitting = [t for t in trained if budget.fits(estimate(t.spec))]
    before = [t for t in history if t.notes.get(note[0]) == note[1]]
    enough = len(before) >= TRIES or sum(t.evaluation is not None for t in before) >= TRAINED
    if limit_ms is None or not fitting or enough:
        return None
    now = fitting[-1]
    used = estimate(now.spec).bound_ms / limit_ms
    if used >= USED:
        return None
    tried = frozenset(t.spec.key for t in history)
    spec = refined(now.spec, context.space, estimate, budget, score, tried)
    worth = spec.key not in tried and estimate(spec).bound_ms >= (used + WORTH) * limit_ms
    return (now, spec) if worth else None
