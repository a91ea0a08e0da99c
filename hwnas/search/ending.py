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
from hwnas.search.evidence import returns
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
            grown = _further(spec, open_[i], members.count(i), context)
            estimate = context.estimate(grown) if grown is not None else None
            if grown is None or estimate is None or not budget.fits(estimate):
                continue
            more = (*members, i)
            if len(more) > LAST:
                return False
            parts = [(open_[n], _times(now, open_[n], more.count(n))) for n in set(more)]
            gain = sum(growth.sure(z) * times for growth, times in parts)
            se = hypot(*(growth.gain_se * times for growth, times in parts))
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


def _further(spec: NetworkSpec, growth: Growth, times: int, context: SearchContext) -> NetworkSpec | None:
    """A network after a growth (`growth.steps` steps), or, after `times` of it, one step more."""
    grown: NetworkSpec | None = spec
    for _ in range(1 if times else growth.steps):
        moves = context.space.grow(grown) if grown else []
        grown = next((m.spec for m in moves if (m.stage, m.kind) == (growth.stage, growth.kind)), None)
    return grown


def _times(now: NetworkSpec, growth: Growth, times: int) -> float:
    """What a growth brings that is made once and then `times` - 1 steps further, as a multiple of itself."""
    depth = len(now.stages[growth.stage])
    return returns(growth.kind, depth, growth.steps + times - 1) / returns(growth.kind, depth, growth.steps)
