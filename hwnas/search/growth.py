"""Which growth pays: gain for each millisecond, with the uncertainty of both, in figures and words.

A growth has to pass three questions. Does the network after it keep the budget at the upper bound
of its predicted latency? Is its gain above zero by more than its standard error explains? And is
its gain per millisecond, taken at the cautious ends of both, the best of all? Near the end the last
question is another one: milliseconds that are left over buy nothing, so the growth is taken that
brings most together with what still fits beside it. The answers are kept with the figures that led
to them, since a refusal is a result too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Literal

from hwnas.protocols import Move, SearchContext, SearchSpace
from hwnas.records import Budget, Estimate, StageImportance
from hwnas.search.log import Decision
from hwnas.spec import NetworkSpec
from hwnas.units import format_ms

Fate = Literal["grows", "weaker", "not significant", "closed", "unknown"]
# A growth that is predicted to cost nothing would be infinitely good: this part of the network's
# latency is the least that any is taken to cost.
LEAST = 1e-3
# Growths that are left when the end is near.
LAST = 3
# Importance by stage and kind of growth.
Gains = Mapping[tuple[int, str], StageImportance]


@dataclass(frozen=True)
class Growth:
    """A possible growth and what became of it.

    Attributes:
        stage, kind: where, and how (`protocols.Move.kind`).
        steps: how many times the move is applied.
        spec: the network that it leads to.
        gain, gain_se: importance with its standard error.
        cost_ms, cost_se_ms: added latency, in milliseconds, with its standard error.
        estimate: prediction for `spec`.
        fate: what was decided.
        ending: near the end, the gain of the best set of growths that holds this one and fits, at the
            lower bounds of all; None before.
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
    ending: float | None = None

    def sure(self, z: float) -> float:
        """Lower bound of the gain."""
        return self.gain - z * self.gain_se

    def worth(self, z: float) -> float:
        """Gain per millisecond at the lower bound of the gain and the upper bound of the cost."""
        return self.sure(z) / (self.cost_ms + z * self.cost_se_ms)

    @property
    def place(self) -> str:
        """Where, as people count: ``stage 3`` or ``stage 3 wider``."""
        return f"stage {self.stage + 1}" + ("" if self.kind == "deeper" else f" {self.kind}")


def growths(spec: NetworkSpec, budget: Budget, stride_ms: float, context: SearchContext) -> list[Move]:
    """Every growth of a network by about as many milliseconds, so that gains compare.

    A move is repeated while it stays nearer to `stride_ms` and fits the budget; once at least, fitting
    or not.
    """
    before_ms = context.estimate(spec).latency_ms
    found = []
    for move in context.space.grow(spec):
        cost_ms = max(context.estimate(move.spec).latency_ms - before_ms, before_ms * LEAST)
        for steps in range(2, round(stride_ms / cost_ms) + 1):
            again = (m for m in context.space.grow(move.spec) if (m.stage, m.kind) == (move.stage, move.kind))
            further = next(again, None)
            if further is None or not budget.fits(context.estimate(further.spec)):
                break
            move = replace(further, steps=steps)
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
    before = context.estimate(now)
    judged = []
    for move in moves:
        found = gains.get((move.stage, move.kind))
        growth = _growth(move, found or StageImportance(stage=move.stage, value=0.0), before, context)
        if not budget.fits(growth.estimate):
            growth = replace(growth, fate="closed")
        elif found is None:
            growth = replace(growth, fate="unknown")
        elif growth.gain <= z * growth.gain_se:
            growth = replace(growth, fate="not significant")
        judged.append(growth)
    open_ = [growth for growth in judged if growth.fate == "weaker"]
    sets = _sets(now, open_, z, budget, context)
    if open_ and sets is not None:
        gains_of = dict(zip(map(id, open_), sets, strict=True))
        judged = [replace(growth, ending=gains_of.get(id(growth))) for growth in judged]
        open_ = [growth for growth in judged if growth.ending is not None]
    best = max(
        open_, key=lambda growth: (growth.ending or 0.0, growth.worth(z), -growth.cost_ms), default=None
    )
    return [replace(growth, fate="grows") if growth is best else growth for growth in judged]


def _sets(
    now: NetworkSpec, open_: Sequence[Growth], z: float, budget: Budget, context: SearchContext
) -> list[float] | None:
    """Of each growth the gain of the best set that holds it and fits; None while the end is far.

    The end is near when no set of more than `LAST` growths fits. A stage may be in a set several times,
    with falling returns.
    """
    found = [0.0] * len(open_)

    def walk(spec: NetworkSpec, first: int, members: tuple[int, ...]) -> bool:
        """Look at every set that begins with `members`; False where one is too large."""
        for i in range(first, len(open_)):
            grown = _further(spec, open_[i], members.count(i), context)
            if grown is None or not budget.fits(context.estimate(grown)):
                continue
            more = (*members, i)
            if len(more) > LAST:
                return False
            gain = sum(_gain(now, open_[n], more.count(n), z) for n in set(more))
            for n in more:
                found[n] = max(found[n], gain)
            if not walk(grown, i, more):
                return False
        return True

    return found if walk(now, 0, ()) else None


def _further(spec: NetworkSpec, growth: Growth, times: int, context: SearchContext) -> NetworkSpec | None:
    """A network after a growth (`growth.steps` steps), or, after `times` of it, one step more."""
    grown: NetworkSpec | None = spec
    for _ in range(1 if times else growth.steps):
        moves = context.space.grow(grown) if grown else []
        grown = next((m.spec for m in moves if (m.stage, m.kind) == (growth.stage, growth.kind)), None)
    return grown


def _gain(now: NetworkSpec, growth: Growth, times: int, z: float) -> float:
    """Lower bound of what a growth brings that is made once and then `times` - 1 steps further.

    Depth has falling returns (`gradient.Gradient`): gains go with the logarithm of the depth.
    """
    steps = growth.steps + times - 1
    if growth.kind != "deeper":
        return growth.sure(z) * steps / growth.steps
    depth = len(now.stages[growth.stage])
    return growth.sure(z) * math.log(1 + steps / depth) / math.log(1 + growth.steps / depth)


def deepen(space: SearchSpace, spec: NetworkSpec, stage: int, times: int) -> NetworkSpec:
    """The network with a stage deeper by `times` blocks, or as deep as the space allows."""
    for _ in range(times):
        deeper = (m.spec for m in space.grow(spec) if (m.stage, m.kind) == (stage, "deeper"))
        spec = next(deeper, spec)
    return spec


def _growth(move: Move, found: StageImportance, before: Estimate, context: SearchContext) -> Growth:
    after = context.estimate(move.spec)
    cost_ms = max(after.latency_ms - before.latency_ms, before.latency_ms * LEAST)
    # Prediction errors of two networks that share all blocks but one are nearly proportional, so
    # their difference has the relative error of the whole.
    half = (after.high_ms - after.low_ms) / 2
    relative = half / NormalDist().inv_cdf((1 + after.coverage) / 2) / after.latency_ms
    # A gain found for another number of steps (a measurement moved the bounds since) is shared out.
    share = move.steps / found.steps
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


def _decision(growth: Growth, best: Growth | None, budget: Budget, unit: str) -> Decision:
    gain = _with_error(growth.gain, growth.gain_se, unit)
    price = f"{gain} for {format_ms(growth.cost_ms)}"
    bound = format_ms(growth.estimate.high_ms)
    measure = "for each millisecond" if growth.ending is None else "with what still fits beside it"
    words = {
        "grows": f"{growth.place} grows by {growth.steps}: {price}",
        "weaker": f"{growth.place}: {price}: less {measure} than {best.place if best else ''}",
        "not significant": f"{growth.place}: {price}: not significant",
        "closed": f"{growth.place}: closed, the network would take up to {bound} of {budget.describe()}",
        "unknown": f"{growth.place}: no importance is known for it",
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
