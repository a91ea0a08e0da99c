"""Which growth pays: gain for each millisecond, with the uncertainty of both, in figures and words.

A growth has to pass three questions. Does the network after it keep the budget at the upper bound
of its predicted latency? Is its gain above zero by more than its standard error explains? And is
its gain per millisecond, taken at the cautious ends of both, the best of all? The answers are kept
with the figures that led to them, since a refusal is a result too.
"""

from __future__ import annotations

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
# Importance by stage and kind of growth.
Gains = Mapping[tuple[int, str], StageImportance]


@dataclass(frozen=True)
class Growth:
    """A possible growth and what became of it.

    Attributes:
        stage, kind: where, and how (`protocols.Move.kind`).
        step: how many times the move is applied.
        spec: the network that it leads to.
        gain, gain_se: importance of one step with its standard error.
        cost_ms, cost_se_ms: added latency of one step, in milliseconds, with its standard error.
        estimate: prediction for `spec`.
        fate: what was decided.
    """

    stage: int
    kind: str
    step: int
    spec: NetworkSpec
    gain: float
    gain_se: float
    cost_ms: float
    cost_se_ms: float
    estimate: Estimate
    fate: Fate = "weaker"

    def cautious(self, z: float) -> float:
        """Gain per millisecond at the lower bound of the gain and the upper bound of the cost."""
        return (self.gain - z * self.gain_se) / (self.cost_ms + z * self.cost_se_ms)

    @property
    def place(self) -> str:
        """Where, as people count: ``stage 3`` or ``stage 3 wider``."""
        return f"stage {self.stage + 1}" + ("" if self.kind == "deeper" else f" {self.kind}")


def weigh(
    now: NetworkSpec,
    gains: Gains,
    step: int,
    confidence: float,
    budget: Budget,
    context: SearchContext,
) -> list[Growth]:
    """Every growth of a network, judged; at most one has the fate ``grows``.

    Args:
        now: the network that may grow.
        gains: importance of each growth. A growth without one is ``unknown`` and never taken.
        step: how many steps to take at once where they fit; fewer where they do not.
        confidence: one-sided level at which a gain counts as real.
        budget: the limits to keep.
        context: space and estimates.
    """
    z = NormalDist().inv_cdf(confidence)
    before = context.estimate(now)
    judged = []
    for move in context.space.grow(now):
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
    if not open_:
        return judged
    best = max(open_, key=lambda growth: (growth.cautious(z), -growth.stage))
    grown = replace(_repeat(best, step, budget, context), fate="grows")
    return [grown if growth is best else growth for growth in judged]


def deepen(space: SearchSpace, spec: NetworkSpec, stage: int, times: int) -> NetworkSpec:
    """The network with a stage deeper by `times` blocks, or as deep as the space allows."""
    for _ in range(times):
        deeper = (m.spec for m in space.grow(spec) if (m.stage, m.kind) == (stage, "deeper"))
        spec = next(deeper, spec)
    return spec


def _growth(move: Move, found: StageImportance, before: Estimate, context: SearchContext) -> Growth:
    after = context.estimate(move.spec)
    # A growth that is predicted to cost nothing would be infinitely good: the floor is a thousandth.
    cost_ms = max(after.latency_ms - before.latency_ms, before.latency_ms * 1e-3)
    # Prediction errors of two networks that share all blocks but one are nearly proportional, so
    # their difference has the relative error of the whole.
    half = (after.high_ms - after.low_ms) / 2
    relative = half / NormalDist().inv_cdf((1 + after.coverage) / 2) / after.latency_ms
    return Growth(
        stage=move.stage,
        kind=move.kind,
        step=1,
        spec=move.spec,
        gain=found.value,
        gain_se=found.se,
        cost_ms=cost_ms,
        cost_se_ms=relative * cost_ms,
        estimate=after,
    )


def _repeat(growth: Growth, step: int, budget: Budget, context: SearchContext) -> Growth:
    """The growth applied up to `step` times, as far as it fits."""
    for times in range(2, step + 1):
        moves = context.space.grow(growth.spec)
        again = [m for m in moves if (m.stage, m.kind) == (growth.stage, growth.kind)]
        if not again or not budget.fits(context.estimate(again[0].spec)):
            break
        spec = again[0].spec
        growth = replace(growth, step=times, spec=spec, estimate=context.estimate(spec))
    return growth


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


def _decision(growth: Growth, best: Growth | None, budget: Budget, unit: str) -> Decision:
    scale, digits = (100.0, 2) if unit == "%" else (1.0, 4)
    gain = f"{scale * growth.gain:+.{digits}f} {unit} +- {scale * growth.gain_se:.{digits}f} {unit}"
    price = f"{gain} for {format_ms(growth.cost_ms)}"
    bound = format_ms(growth.estimate.high_ms)
    words = {
        "grows": f"{growth.place} grows by {growth.step}: {price} each",
        "weaker": f"{growth.place}: {price}: less for each millisecond than {best.place if best else ''}",
        "not significant": f"{growth.place}: {price}: not significant",
        "closed": f"{growth.place}: closed, the network would take up to {bound} of {budget.describe()}",
        "unknown": f"{growth.place}: no importance is known for it",
    }
    fields = {
        "stage": growth.stage,
        "kind": growth.kind,
        "step": growth.step,
        "fate": growth.fate,
        "gain": growth.gain,
        "gain_se": growth.gain_se,
        "cost_ms": growth.cost_ms,
        "cost_se_ms": growth.cost_se_ms,
        "high_ms": growth.estimate.high_ms,
        "depths": list(growth.spec.depths),
    }
    return Decision("growth" if growth.fate == "grows" else "refusal", words[growth.fate], fields)
