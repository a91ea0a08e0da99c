"""Uniform scaling: every stage alike, as the usual families of networks are made. The first baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hwnas.options import option
from hwnas.records import Proposal, Trial
from hwnas.search import options
from hwnas.search.strategy import Decision, Strategy
from hwnas.spec import NetworkSpec


@dataclass(frozen=True)
class UniformOptions(options.TrainingOptions):
    """Options of `Uniform`.

    Attributes:
        images: training images of the whole search, final training included; 0 leaves each
            training to the evaluator's default.
        search_share: part of `images` that is spread evenly over the members looked at.
        largest: train only the largest member that fits: the baseline at its cheapest.
    """

    search_share: float = option(
        0.3, "Part of images that is divided over the networks tried.", low=0, high=1
    )
    largest: bool = option(False, "Train only the largest member that fits.")


class Uniform(Strategy[UniformOptions]):
    """Uniformly scaled members in ascending order, from scratch, until one is over the budget.

    The first member over the budget is proposed too, so that its refusal is on record.
    """

    name = "uniform"
    Options = UniformOptions

    def propose(self, history: Sequence[Trial], n: int, rng: np.random.Generator) -> list[Proposal]:
        """The next `n` members in order; see `Strategy.propose`."""
        members = self._context.space.uniform()
        seen = {trial.spec.key: trial for trial in history}
        if self._options.largest:
            done = any(trial.state == "done" for trial in history)
            fitting = [spec for spec in members if self._fits(spec) and spec.key not in seen]
            return [] if done else [self._proposal(spec, members, 1) for spec in fitting[-1:]]
        if any(trial.state == "over_budget" for trial in history):
            return []
        sharing = sum(spec.key in seen or self._fits(spec) for spec in members)
        ahead = [spec for spec in members if spec.key not in seen]
        return [self._proposal(spec, members, sharing) for spec in ahead[:n]]

    def explain(self, history: Sequence[Trial]) -> list[Decision]:
        """Why it ends: members come in few sizes, and the next one is over the budget."""
        over = next((trial for trial in history if trial.state == "over_budget"), None)
        if over is None or self._options.largest:
            return []
        text = f"the next uniformly scaled network, {over.spec.depths_text}, is {over.error}"
        return [Decision("stop", text, {"depths": list(over.spec.depths)})]

    def sees(self, history: Sequence[Trial]) -> int:
        """No result, unless the one that succeeds ends the search."""
        return len(history) if self._options.largest else 0

    def _fits(self, spec: NetworkSpec) -> bool:
        return self._context.budget.fits(self._context.estimate(spec))

    def _proposal(self, spec: NetworkSpec, members: Sequence[NetworkSpec], sharing: int) -> Proposal:
        images = int(self._options.images * self._options.search_share) // max(sharing, 1)
        reason = f"uniform member {members.index(spec) + 1} of {len(members)}, depths {spec.depths_text}"
        return Proposal(spec=spec, images=images or None, reason=reason)
