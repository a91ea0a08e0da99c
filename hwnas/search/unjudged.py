"""Growing without judging, where images are too few to tell kinds of growth apart.

Deeper or wider, a larger kernel or more expansion: where a space offers several kinds of growth, each
takes its own images to judge, and with few of them the gains are noise. Believing that noise is worse
than believing nothing, so growth then begins at the end of the ladder that everybody knows: the largest
uniformly scaled member within the budget, and what is left of the budget is filled by the untrained score
(`fill`). No images are spent on gains that would say nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from hwnas.protocols import SearchContext, SearchSpace
from hwnas.records import Budget, Proposal, Trial
from hwnas.search import options
from hwnas.search.fill import filled
from hwnas.search.log import Decision, depths
from hwnas.search.operators import kinds
from hwnas.search.winner import smallest_latency
from hwnas.spec import NetworkSpec

# Images for growing that each kind of growth takes in each round. With 2,048 that judge one kind, gains
# stand out by 3 to 5 standard errors (docs/search.md); an eighth is enough, as rounds are taken together.
EVIDENCE = 256


def needed(space: SearchSpace, rounds: int) -> int:
    """Images for growing below which its gains are noise: those of every kind in every round."""
    return EVIDENCE * rounds * kinds(space)


class Unjudged:
    """Proposes, for each budget in turn, the largest uniform member and the same filled up.

    Args:
        context: space, estimates and budget of the search.
        targets_ms: smaller budgets, in milliseconds.
        growing: training images for growing.
        needed: how many judging would take.
    """

    def __init__(
        self, context: SearchContext, targets_ms: Sequence[float], growing: int, needed: int
    ) -> None:
        self._context, self._growing, self._needed = context, growing, needed
        self._budgets = options.budgets(context, targets_ms)

    def propose(self, history: Sequence[Trial]) -> list[Proposal]:
        """The next network that was not looked at; each is trained for a tenth of the growing."""
        tried = {trial.spec.key: trial for trial in history}
        images = max(self._growing // (10 * len(self._budgets)), 1)
        for budget in self._budgets:
            begin = self._largest(budget, tried)
            if begin is None:
                continue
            if begin.key not in tried:
                reason = f"the largest uniform member, {depths(begin)}: growths cannot be judged"
                return [Proposal(spec=begin, images=images, reason=reason)]
            full = filled(begin, self._context.space, self._context.estimate, budget)
            if full.key not in tried:
                parent = tried[begin.key].index
                reason = f"{depths(begin)} filled up to {depths(full)}"
                return [Proposal(spec=full, parent=parent, images=images, reason=reason)]
        return []

    def explain(self, history: Sequence[Trial]) -> list[Decision]:
        """The rule at the beginning, what is left of the budget at the end."""
        if not history:
            many = kinds(self._context.space)
            text = (
                f"growing is not judged: {many} kinds of growth take {self._needed:,} images for growing, "
                f"here are {self._growing:,}; the largest uniform member is filled up"
            )
            return [Decision("choice", text, {"needed": self._needed, "growing": self._growing})]
        if self.propose(history):
            return []
        now = history[-1].spec
        return [Decision("stop", f"{depths(now)}: nothing more fits", {"depths": list(now.depths)})]

    def _largest(self, budget: Budget, tried: dict[str, Trial]) -> NetworkSpec | None:
        """The largest uniform member that fits and was not refused."""
        estimate = self._context.estimate
        members = [*self._context.space.uniform(), smallest_latency(self._context)[0]]
        fitting = [spec for spec in members if budget.fits(estimate(spec)) and _open(spec, tried)]
        return max(fitting, key=lambda spec: estimate(spec).latency_ms, default=None)


def _open(spec: NetworkSpec, tried: dict[str, Trial]) -> bool:
    """Whether a network is new, or was trained."""
    return spec.key not in tried or tried[spec.key].evaluation is not None
