"""Random members within the budget: the baseline that every search has to beat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hwnas.estimates import Budget
from hwnas.options import option
from hwnas.records import Proposal, Trial
from hwnas.search import options
from hwnas.search.baselines.samples import SampleOptions
from hwnas.search.strategy import Strategy
from hwnas.spec import NetworkSpec


@dataclass(frozen=True)
class RandomOptions(SampleOptions):
    """Options of `Random`.

    Attributes:
        draws: how often to draw for one sample before giving up.
        least: smallest part of the latency budget that a sample should use. Small members fill
            most of a space; a search that knows its budget does not waste training on them.
    """

    draws: int = option(2000, "Most attempts to draw one sample that fits.", low=1, high=1_000_000)
    least: float = option(0.0, "Smallest part of the budget that a sample should use.", low=0, high=1)


class Random(Strategy[RandomOptions]):
    """Uniform draws from the space, rejected until they fit and are new; every draw is bounded."""

    name = "random"
    Options = RandomOptions

    def propose(self, history: Sequence[Trial], n: int, rng: np.random.Generator) -> list[Proposal]:
        """Up to `n` new members within the budget; see `Strategy.propose`."""
        asked = self._options
        missing = min(n, asked.samples - len(history))
        seen = {trial.spec.key for trial in history}
        budgets = options.budgets(self._context, asked.targets_ms)
        proposals: list[Proposal] = []
        for at in range(len(history), len(history) + missing):
            drawn = self._draw(seen, budgets[at % len(budgets)], rng)
            if drawn is None:
                break
            spec, draws = drawn
            seen.add(spec.key)
            reason = f"random member, {draws} draw{'s' * (draws > 1)}"
            proposals.append(Proposal(spec=spec, images=asked.sample_images, reason=reason))
        return proposals

    def sees(self, history: Sequence[Trial]) -> int:
        """No result: draws are blind."""
        return 0

    def _draw(
        self, seen: set[str], budget: Budget, rng: np.random.Generator
    ) -> tuple[NetworkSpec, int] | None:
        """A new member that fits, and how many draws it took; the smallest when no draw fits."""
        for draw in range(1, self._options.draws + 1):
            spec = self._context.space.sample(rng)
            if spec.key not in seen and self._fits(spec, budget):
                return spec, draw
        smallest = self._context.space.smallest()
        return None if smallest.key in seen else (smallest, self._options.draws)

    def _fits(self, spec: NetworkSpec, budget: Budget) -> bool:
        estimate = self._context.estimate(spec)
        used = 1.0 if budget.latency_ms is None else estimate.latency_ms / budget.latency_ms
        return budget.fits(estimate) and used >= self._options.least
