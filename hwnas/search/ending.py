"""The last growths of a search, chosen together.

Far from the budget the best growth for each millisecond is the one to make. Near it, milliseconds that
are left over buy nothing, so what still fits is compared as sets. Gains of sets are rarely told apart by
their errors; of those within one standard error of the best (the rule by which Breiman et al. 1984,
section 3.4.3, choose among trees), the one that leaves least of the budget is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import hypot
from typing import TYPE_CHECKING

from hwnas.protocols import SearchContext
from hwnas.records import Budget
from hwnas.search.steps import further, returns
from hwnas.spec import NetworkSpec

if TYPE_CHECKING:
    from hwnas.search.growth import Growth

# Growths that are left when the end is near.
LAST = 3


@dataclass(frozen=True)
class Ending:
    """Growths that fit together.

    Attributes:
        members: which, by number; a stage may be in it several times.
        gain: lower bound of what they bring, with falling returns; `gain_se` its standard error.
        latency_ms: predicted for the network with all of them.
    """

    members: tuple[int, ...]
    gain: float
    gain_se: float
    latency_ms: float


def endings(
    now: NetworkSpec, open_: Sequence[Growth], z: float, budget: Budget, context: SearchContext
) -> list[Ending] | None:
    """Every set of growths that fits; None while the end is far, as sets of more than `LAST` fit."""
    found: list[Ending] = []

    def walk(spec: NetworkSpec, first: int, members: tuple[int, ...]) -> bool:
        """Look at every set that begins with `members`; False where one is too large."""
        for i in range(first, len(open_)):
            growth = open_[i]
            steps = 1 if i in members else growth.steps
            grown = further(context.space, spec, growth.stage, steps, growth.kind)
            estimate = context.estimate(grown)
            if grown.key == spec.key or not budget.fits(estimate):
                continue
            more = (*members, i)
            if len(more) > LAST:
                return False
            parts = [(open_[n], _times(now, grown, open_[n], more.count(n))) for n in set(more)]
            gain = sum(one.sure(z) * times for one, times in parts)
            se = hypot(*(one.gain_se * times for one, times in parts))
            found.append(Ending(more, gain, se, estimate.latency_ms))
            if not walk(grown, i, more):
                return False
        return True

    return found if walk(now, 0, ()) else None


def best_of(sets: Sequence[Ending]) -> Ending:
    """Of the sets within one standard error of the best, the one that leaves least of the budget."""
    best = max(sets, key=lambda one: one.gain)
    near = (one for one in sets if one.gain >= best.gain - best.gain_se)
    return max(near, key=lambda one: (one.latency_ms, one.gain))


def _times(now: NetworkSpec, grown: NetworkSpec, growth: Growth, times: int) -> float:
    """What a growth brings that is made once and then `times` - 1 steps further, as a multiple of itself."""
    stage, kind, steps = growth.stage, growth.kind, growth.steps
    whole = returns(now, grown, stage, kind, steps + times - 1)
    return whole / returns(now, growth.spec, stage, kind, steps)
