"""Growing by size, if images are too few to compare kinds of growth by training.

Deeper or wider, a larger kernel or more expansion: where a space offers several kinds of growth, judging
them takes more images than where depth is all that grows, and with few the gains are noise. Then a fixed rule
is better than noise. The rule is size: the largest uniformly scaled member within a part of the budget grows,
step by step, by what adds most to log(parameters) + log(MACs) for its milliseconds. Both counts are hard to
beat among scores that need no training (White et al. 2022, "A deeper look at zero-cost proxies for
lightweight NAS"); that they come from a network of usual proportions, and are paid for in milliseconds, keeps
them from running into one corner of the space.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log

from hwnas.estimates import Budget
from hwnas.nets.count import count
from hwnas.protocols import SearchContext, SearchSpace
from hwnas.records import Notes, Proposal, Trial
from hwnas.search import options
from hwnas.search.importance import packing
from hwnas.search.solve.fine import refined
from hwnas.search.strategy import Decision
from hwnas.spec import NetworkSpec

# Images for growing that each backward pass takes in each round; less than half of them judge. From there on
# two seeds grew the same way in `resnet-cifar-wide` (docs/evidence/search.md).
EVIDENCE = 512
# Proposals for one place after measurements refused the ones before.
TRIES = 6


def needed(space: SearchSpace, rounds: int) -> int:
    """Images for growing below which its gains are noise: those of every pass in every round."""
    spec = space.smallest()
    return EVIDENCE * rounds * len(packing.groups(spec, space.grow(spec)))


def has_kinds(space: SearchSpace) -> bool:
    """Whether more than depth grows."""
    return any(move.kind != "deeper" for move in space.grow(space.smallest()))


def size(spec: NetworkSpec) -> float:
    """log(parameters) + log(MACs)."""
    counts = count(spec)
    return log(counts.params) + log(counts.macs)


def largest_uniform(context: SearchContext, budget: Budget) -> NetworkSpec:
    """The largest uniformly scaled member within a budget, or the smallest network."""
    estimate = context.estimate
    fitting = [spec for spec in context.space.uniform() if budget.fits(estimate(spec))]
    return max(fitting, key=lambda spec: estimate(spec).latency_ms, default=context.space.smallest())


class BySize:
    """Proposes, for each budget in turn, a network that fills most of it, then one that fills it.

    Args:
        context: space, estimates and budget of the search.
        targets_ms: smaller budgets, in milliseconds.
        share: part of a budget within which the uniform member lies.
        growing: training images for growing.
        least: how many judging would take.
    """

    def __init__(
        self, context: SearchContext, targets_ms: Sequence[float], share: float, growing: int, least: int
    ) -> None:
        self._context, self._share = context, share
        self._growing, self._least = growing, least
        self._budgets = options.budgets(context, targets_ms)

    def propose(self, history: Sequence[Trial]) -> list[Proposal]:
        """The next network that was not looked at; each is trained for a tenth of the growing."""
        tried = {trial.spec.key for trial in history}
        for n, budget in enumerate(self._budgets):
            begin = largest_uniform(self._context, budget.scaled(self._share))
            share = f"{self._share:.0%} of the budget"
            reason = f"{begin.depths_text}, the largest uniform network within {share}, grown"
            spares = [trial for trial in history if trial.notes.get("spare") == n]
            if _wanted(spares):
                spec = self._filled(begin, budget.scaled(options.SPARE))
                if spec.key not in tried:
                    return [self._proposal(spec, f"{reason} to {options.SPARE:.0%}", None, {"spare": n})]
            spare = next((trial for trial in spares if trial.evaluation is not None), None)
            if _wanted([trial for trial in history if trial.notes.get("full") == n]):
                spec = self._filled(spare.spec if spare is not None else begin, budget)
                if spec.key not in tried:
                    parent = spare.index if spare is not None else None
                    return [self._proposal(spec, reason, parent, {"full": n})]
        return []

    def explain(self, history: Sequence[Trial]) -> list[Decision]:
        """The rule before the first trial, the end after the last."""
        if not history:
            text = (
                f"growths are chosen by parameters and MACs: judging them by training needs {self._least:,} "
                "images for growing, and only "
                f"{self._growing:,} are available"
            )
            return [Decision("choice", text, {"needed": self._least, "growing": self._growing})]
        if self.propose(history):
            return []
        now = history[-1].spec
        return [
            Decision(
                "stop", f"{now.depths_text}: no further growth fits the budget", {"depths": list(now.depths)}
            )
        ]

    def _filled(self, spec: NetworkSpec, budget: Budget) -> NetworkSpec:
        return refined(spec, self._context.space, self._context.estimate, budget, score=size)

    def _proposal(self, spec: NetworkSpec, reason: str, parent: int | None, notes: Notes) -> Proposal:
        images = max(self._growing // (10 * len(self._budgets)), 1)
        return Proposal(spec=spec, parent=parent, images=images, reason=reason, notes=notes)


def _wanted(trials: Sequence[Trial]) -> bool:
    """Whether one is to be proposed (again): none was trained, and only a few were refused."""
    return len(trials) < TRIES and all(trial.evaluation is None for trial in trials)
