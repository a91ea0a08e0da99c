"""Which growth to make: gain per millisecond, with the uncertainty of both.

A growth has to pass three tests. Does the network after it keep the budget at the upper bound
of its predicted latency? Is its gain above zero by more than its standard error explains? And is
its gain per millisecond, taken at the cautious ends of both, the best of all? Near the end the last
test is another one, since unused milliseconds have no value: the last growths that fit are chosen
together (`endings`): gains of sets are rarely told apart by their errors, so of those within one
standard error of the best (the rule by which Breiman et al. 1984, section 3.4.3, choose among trees)
the one that leaves least of the budget is taken. The answers are kept with the figures that led to
them, since a refusal is a result too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import hypot
from statistics import NormalDist
from typing import Literal

from hwnas.estimates import Budget, Estimate
from hwnas.protocols import Move, SearchContext
from hwnas.records import StageImportance
from hwnas.search.moves import cost_of, further, returns
from hwnas.search.stagewise.gains import Gains
from hwnas.search.strategy import Decision
from hwnas.spec import NetworkSpec
from hwnas.units import format_ms

Fate = Literal["grows", "weaker", "not significant", "closed", "unknown"]
# Growths that are left when the end is near.
LAST = 3


@dataclass(frozen=True)
class FinalSet:
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


@dataclass(frozen=True)
class Growth:
    """A possible growth and the decision about it.

    Attributes:
        stage, kind: where, and how (`protocols.Move.kind`).
        steps: how many times the move is applied.
        spec: the network that it leads to.
        gain, gain_se: importance with its standard error.
        cost_ms, cost_se_ms: added latency, in milliseconds, with its standard error.
        estimate: prediction for `spec`.
        fate: what was decided.
        ending: near the end, the best set of growths that holds this one and fits; None before.
    """

    stage: int
    kind: str
    steps: int
    spec: NetworkSpec
    gain: float
    gain_se: float
    cost_ms: float
    cost_se_ms: float
    estimate: Estimate
    fate: Fate = "weaker"
    ending: FinalSet | None = None

    def sure(self, z: float) -> float:
        """Lower bound of the gain."""
        return self.gain - z * self.gain_se

    def worth(self, z: float) -> float:
        """Gain per millisecond at the lower bound of the gain and the upper bound of the cost."""
        return self.sure(z) / (self.cost_ms + z * self.cost_se_ms)

    @property
    def place(self) -> str:
        """Its stage, counted from 1: ``stage 3`` or ``stage 3 wider``."""
        return f"stage {self.stage + 1}" + ("" if self.kind == "deeper" else f" {self.kind}")


def growths(spec: NetworkSpec, budget: Budget, stride_ms: float, context: SearchContext) -> list[Move]:
    """Every growth of a network by about as many milliseconds, so that gains compare.

    A move is repeated while it stays nearer to `stride_ms` and fits the budget; once at least, fitting
    or not. A further step that costs nothing is taken in any case: runtimes are faster with some widths
    than with the next smaller ones.
    """
    before = context.estimate(spec)
    found = []
    for move in context.space.grow(spec):
        cost_ms = cost_of(before, context.estimate(move.spec))
        most = round(stride_ms / cost_ms)
        while True:
            spec = further(context.space, move.spec, move.stage, 1, move.kind)
            larger, now = context.estimate(spec), context.estimate(move.spec)
            no_worse = budget.excess(larger) <= max(budget.excess(now), 0.0)  # of the other limits
            free = larger.latency_ms <= now.latency_ms and no_worse
            if spec.key == move.spec.key or not (free or (move.steps < most and budget.fits(larger))):
                break
            move = replace(move, spec=spec, steps=move.steps + 1)
        found.append(move)
    return found


def weigh(
    now: NetworkSpec,
    moves: Sequence[Move],
    gains: Gains,
    confidence: float,
    budget: Budget,
    context: SearchContext,
) -> list[Growth]:
    """Growths of a network, judged; at most one has the fate ``grows``.

    Args:
        now: the network that may grow.
        moves: from `growths`.
        gains: importance of each growth. A growth without one is ``unknown`` and never taken.
        confidence: one-sided level at which a gain counts as real.
        budget: the limits to keep.
        context: estimates.
    """
    z = NormalDist().inv_cdf(confidence)
    judged = []
    for move in moves:
        found = gains.get((move.stage, move.kind))
        growth = _growth(now, move, found or StageImportance(stage=move.stage, value=0.0), context)
        # Tests 1 and 2: within the budget at the upper bound, and a significant gain.
        if not budget.fits(growth.estimate):
            growth = replace(growth, fate="closed")
        elif found is None:
            growth = replace(growth, fate="unknown")
        elif growth.gain <= z * growth.gain_se:
            growth = replace(growth, fate="not significant")
        judged.append(growth)
    # Near the end: the best set of growths that fits together.
    open_ = [growth for growth in judged if growth.fate == "weaker"]
    sets = endings(now, open_, z, budget, context)
    for n, growth in enumerate(open_ if sets else ()):
        ending = best_of([one for one in sets or () if n in one.members])
        judged[judged.index(growth)] = open_[n] = replace(growth, ending=ending)
    if sets:
        chosen = best_of(sets).members
        open_ = [growth for n, growth in enumerate(open_) if n in chosen]
    # Test 3: the best gain per millisecond.
    best = max(open_, key=lambda growth: (growth.worth(z), -growth.cost_ms), default=None)
    return [replace(growth, fate="grows") if growth is best else growth for growth in judged]


def _growth(now: NetworkSpec, move: Move, found: StageImportance, context: SearchContext) -> Growth:
    before, after = context.estimate(now), context.estimate(move.spec)
    cost_ms = cost_of(before, after)
    # Prediction errors of two networks that share all blocks but one are nearly proportional, so
    # their difference has the relative error of the whole.
    half = (after.high_ms - after.low_ms) / 2
    relative = half / NormalDist().inv_cdf((1 + after.coverage) / 2) / after.latency_ms
    # A gain may have been found for another number of steps (a measurement moved the bounds since).
    judged = further(context.space, now, move.stage, found.steps, move.kind)
    share = returns(now, move.spec, move.stage, move.kind, move.steps)
    share /= returns(now, judged, move.stage, move.kind, found.steps)
    return Growth(
        stage=move.stage,
        kind=move.kind,
        steps=move.steps,
        spec=move.spec,
        gain=found.value * share,
        gain_se=found.se * share,
        cost_ms=cost_ms,
        cost_se_ms=relative * cost_ms,
        estimate=after,
    )


def taken(growths: Sequence[Growth]) -> Growth | None:
    """The growth that was chosen, if one was."""
    return next((growth for growth in growths if growth.fate == "grows"), None)


def decisions(growths: Sequence[Growth], budget: Budget, unit: str) -> list[Decision]:
    """The verdicts as events, the growth first.

    Args:
        growths: from `weigh`.
        budget: the budget they were weighed against.
        unit: of the gains: ``%`` (of the loss; gains are fractions) or another word.
    """
    best = taken(growths)
    ordered = [*([best] if best else []), *(growth for growth in growths if growth is not best)]
    return [_decision(growth, best, budget, unit) for growth in ordered]


def _with_error(value: float, se: float, unit: str) -> str:
    """A value with its standard error, to the second digit of the error: ``+0.40 % +- 0.31 %``."""
    scale = 100.0 if unit == "%" else 1.0
    digits = min(max(1 - math.floor(math.log10(scale * se)), 1), 6) if se > 0 else 2
    return f"{scale * value:+.{digits}f} {unit} +- {scale * se:.{digits}f} {unit}"


def _why_weaker(growth: Growth, best: Growth | None) -> str:
    if best is None:
        return "no more than without growth"
    if growth.ending is None or best.ending is None:
        return f"less gain per millisecond than {best.place}"
    if growth.ending.members == best.ending.members:
        return f"in the same final set; {best.place} is grown first"
    if growth.ending.gain > best.ending.gain - best.ending.gain_se:
        return (
            f"gain within one standard error of {best.place}'s final set, and more of the budget left unused"
        )
    return f"its best final set gains less than {best.place}'s"


def _decision(growth: Growth, best: Growth | None, budget: Budget, unit: str) -> Decision:
    gain = _with_error(growth.gain, growth.gain_se, unit)
    price = f"{gain} for {format_ms(growth.cost_ms)}"
    over = "; ".join(budget.overruns(growth.estimate).values())
    words = {
        "grows": f"grow {growth.place} by {growth.steps}: {price}",
        "weaker": f"{growth.place}: {price}: {_why_weaker(growth, best)}",
        "not significant": f"{growth.place}: {price}: not significant",
        "closed": f"{growth.place}: over the budget: {over}",
        "unknown": f"{growth.place}: not judged yet",
    }
    fields = {
        "stage": growth.stage,
        "kind": growth.kind,
        "steps": growth.steps,
        "fate": growth.fate,
        "gain": growth.gain,
        "gain_se": growth.gain_se,
        "cost_ms": growth.cost_ms,
        "cost_se_ms": growth.cost_se_ms,
        "high_ms": growth.estimate.high_ms,
        "depths": list(growth.spec.depths),
    }
    return Decision("growth" if growth.fate == "grows" else "refusal", words[growth.fate], fields)


def endings(
    now: NetworkSpec, open_: Sequence[Growth], z: float, budget: Budget, context: SearchContext
) -> list[FinalSet] | None:
    """Every set of growths that fits; None while the end is far, as sets of more than `LAST` fit."""
    found: list[FinalSet] = []

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
            found.append(FinalSet(more, gain, se, estimate.latency_ms))
            if not walk(grown, i, more):
                return False
        return True

    return found if walk(now, 0, ()) else None


def best_of(sets: Sequence[FinalSet]) -> FinalSet:
    """Of the sets within one standard error of the best, the one that leaves least of the budget."""
    best = max(sets, key=lambda one: one.gain)
    near = (one for one in sets if one.gain >= best.gain - best.gain_se)
    return max(near, key=lambda one: (one.latency_ms, one.gain))


def _times(now: NetworkSpec, grown: NetworkSpec, growth: Growth, times: int) -> float:
    """What a growth brings that is made once and then `times` - 1 steps further, as a multiple of itself."""
    stage, kind, steps = growth.stage, growth.kind, growth.steps
    whole = returns(now, grown, stage, kind, steps + times - 1)
    return whole / returns(now, growth.spec, stage, kind, steps)
