"""The last steps to a budget are fine: one block larger, or larger here and cheaper elsewhere.

Growth raises a whole stage at a time, and near the end no such step fits though milliseconds are left,
which have no other use. Then single blocks change, and where nothing can only grow, something cheaper
elsewhere pays for what grows. A score that needs no training decides, and never falls.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from hwnas.errors import InputError
from hwnas.protocols import SearchContext, SearchSpace
from hwnas.records import Budget, Estimate, Trial
from hwnas.search.solve.entropy import entropy
from hwnas.search.solve.greedy import filled
from hwnas.spec import NetworkSpec

# Part of a budget that counts as used: what is left of it is no more than predictions are uncertain by.
USED = 0.97
# Networks that are looked at around the present one, and how many changes they are away.
NEAR, FARTHEST = 240, 4
# Proposals for one budget, after measurements refused the ones before or showed that more fits.
TRIES = 4


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
    used = estimate(best).high_ms / limit_ms
    least, rng = score(spec), np.random.default_rng(0)
    changes = 1
    while used < USED and changes <= FARTHEST:
        for _ in range(NEAR // FARTHEST):
            near = grown
            try:
                for _ in range(changes):
                    near = space.mutate(near, rng)
            except InputError:  # the only member of its space
                return best
            if near.key in tried or score(near) < least:
                continue
            found = estimate(near)
            if found.high_ms / limit_ms > used and budget.fits(found):
                best, used = near, found.high_ms / limit_ms
        changes += 1
    return best


def last_steps(
    history: Sequence[Trial],
    context: SearchContext,
    budget: Budget,
    *,
    note: tuple[str, int],
    score: Callable[[NetworkSpec], float] = entropy,
) -> tuple[Trial, NetworkSpec] | None:
    """The trial to go on from and the network that uses the rest of a budget; None where there is none.

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
    if limit_ms is None or not fitting or sum(t.notes.get(note[0]) == note[1] for t in history) >= TRIES:
        return None
    now = fitting[-1]
    if estimate(now.spec).high_ms >= USED * limit_ms:
        return None
    tried = frozenset(t.spec.key for t in history)
    spec = refined(now.spec, context.space, estimate, budget, score, tried)
    return None if spec.key in tried else (now, spec)
