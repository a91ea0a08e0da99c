"""Strategy ``hournas``: vital blocks first, then the others in a space cut down to what is affordable.

Descends from HourNAS (Yang et al. 2021, arXiv 2005.14446). Of it only the abstract, one architecture
and its figures are public; this is a design consistent with them, not the authors' method. What a
super-network learned (`hwnas.jobs.preparations.hournas`) comes in as the option ``scores``:

1. vital blocks (`hwnas.nets.hournas.slots`): the path of widths and an operator for each, all others left
   out;
2. the other places: a score for each operator, learned on networks drawn from space proposals.

From these the best network within the budget is derived exactly (`SlotChooser`), checked whole, and
made again for a nearer budget where the check or a measurement refuses it. Without learned scores
(``score=proxy``) the untrained entropy of the blocks takes their place; for tests and for planning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from hwnas.estimates import Budget
from hwnas.nets.hournas.slots import chain_of, network
from hwnas.options import option
from hwnas.protocols import SearchContext
from hwnas.records import Proposal, Trial
from hwnas.search import options
from hwnas.search.hournas.choice import SlotChooser, SlotScores, proxy_scores, proxy_vital
from hwnas.search.ranking import accuracy, candidates
from hwnas.search.strategy import Decision, Strategy
from hwnas.search.winner import refuse_infeasible
from hwnas.spec import NetworkSpec
from hwnas.units import format_ms

# Derivations for one budget after measurements refused the ones before, each for this part of it.
TRIES, NEARER = 6, 0.97
# Weights of the untrained scores beside the learned ones, in turn.
LEANINGS = (0.0, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)


@dataclass(frozen=True)
class HourNasOptions(options.SeveralBudgets):
    """Options of `HourNas`.

    Attributes:
        images: training images of the candidates and the final training together; 0 leaves each
            training to the evaluator's default.
        share: part of all images of a search that the super-network takes.
        vital_images: part of these for the first stage.
        vital_share: part of the latency budget that stem, head and vital blocks may use.
        trial_share: part of `images` for each candidate's own training; the winner gets the rest.
        spares: 1 trains a candidate of 95 % of the budget as well, which wins where the first breaks
            its promise when measured; 0 leaves it out.
        proposals: number of space proposals.
        least: lower end of their window, as a part of the budget, and what a derived network is to use of
            it, where the space reaches it.
        networks, judged: how many networks the scores are fitted to, and validation images for each.
        joint: search all places at once, without a first stage: what vital-first is compared with.
        score: ``learned`` by a super-network; ``proxy`` leaves it out, and the untrained score alone
            decides; ``auto`` trains one where its share of the images is at least `options.LEARNABLE`.
        scores: what was learned; see `choice.SlotScores`.
    """

    share: float = option(0.25, "Part of all images that the super-network takes.", above=0, below=1)
    vital_images: float = option(0.3, "Part of these for the first stage.", above=0, below=1)
    vital_share: float = option(
        0.5, "Part of the budget that stem, head and vital blocks may use.", above=0, below=1
    )
    trial_share: float = option(0.04, "Part of images for each candidate's own training.", above=0, below=1)
    spares: int = option(1, "1 trains a candidate of 95 % of the budget as well.", low=0, high=1)
    proposals: int = option(4, "Number of space proposals.", low=1, high=10_000)
    least: float = option(
        0.85, "Lower bound of a proposal's latency, as a part of the budget.", low=0, below=1
    )
    networks: int = option(64, "Networks that the scores are fitted to.", low=8, high=1_000_000)
    judged: int = option(256, "Validation images for each.", low=8)
    joint: bool = option(False, "Search all places at once, without a first stage.")
    score: Literal["auto", "learned", "proxy"] = option(
        "auto", "Whether a super-network is trained for the scores."
    )
    scores: Mapping[str, Any] | None = option(None, "Learned scores; set by the search.")

    def learns(self, images: int) -> bool:
        """Whether a search of so many training images trains a super-network."""
        if self.score != "auto":
            return self.score == "learned"
        return self.share * images >= options.LEARNABLE


class HourNas(Strategy[HourNasOptions]):
    """Choose required (vital) blocks first, then the others, by scores of shared weights."""

    name = "hournas"
    Options = HourNasOptions
    preparation = "hwnas.jobs.preparations.hournas:prepare"

    def __init__(self, context: SearchContext) -> None:
        super().__init__(context)
        o = self._options
        self._space = chain_of(context.space)
        # Settled once, before anything is measured: a measurement must not change what is vital, or a
        # resumed search, whose cost model knows it from the first, would end as another one.
        self._scores = self._untrained() if o.scores is None else SlotScores.read(self._space, o.scores)
        self._budgets = options.budgets(context, o.targets_ms)

    def _untrained(self) -> SlotScores:
        """Scores by the entropy of the blocks, where none were learned."""
        o, context = self._options, self._context
        if o.joint:
            return proxy_scores(self._space, None)
        return proxy_scores(
            self._space, proxy_vital(self._space, context.estimate, context.budget, o.vital_share)
        )

    def propose(self, history: Sequence[Trial], n: int, rng: np.random.Generator) -> list[Proposal]:
        """The next derived network; empty once each budget has its own."""
        for budget in reversed(self._budgets):
            for kind, part in (("optimum", 1.0), ("spare", options.SPARE))[: 1 + self._options.spares]:
                proposal = self._next(history, budget, kind, part)
                if proposal is not None:
                    return [proposal]
        return []

    def explain(self, history: Sequence[Trial]) -> list[Decision]:
        """The vital blocks, and what was left for the others, before the first trial."""
        if history:
            return []
        fills = self._scores.vital_fills
        level = [self._space.levels[i] for i in self._scores.path]
        words = []
        for stage, fill in enumerate(fills):
            one = level[stage]
            if fill is not None and len(one.operators) > 1:
                op = one.operators[fill]
                words.append(
                    f"width {one.width}, {op.kernel}x{op.kernel}, expansion {op.expand}"
                    + (", SE" if op.se else "")
                )
            else:
                words.append(f"width {one.width}")
        if not self._scores.open_slots:
            text = "every block is required (vital): no block is left for the second stage"
        elif self._options.joint:
            text = "joint search of all blocks: no separate stage for the required (vital) blocks"
        else:
            text = f"required (vital) blocks: {'; '.join(words)}"
        return [Decision("growth", text, {"path": list(self._scores.path), "vital": list(fills)})]

    @classmethod
    def plan(cls, context: SearchContext) -> NetworkSpec | None:
        """Vital blocks first, then the others: the first proposal without a super-network."""
        untrained = replace(context, options={"score": "proxy"})
        refuse_infeasible(untrained, [untrained.budget])
        return HourNas(untrained).propose([], 1, np.random.default_rng(0))[0].spec

    def rank(self, trials: Sequence[Trial]) -> list[Trial]:
        """Largest budget first; spares last within one; then by accuracy."""

        def place(trial: Trial) -> tuple[float, bool, float]:
            kind = trial.notes.get("kind") == "spare"
            return (-float(trial.notes.get("budget_ms", 0.0)), kind, -accuracy(trial))

        return sorted(candidates(trials), key=place)

    def _next(self, history: Sequence[Trial], budget: Budget, kind: str, part: float) -> Proposal | None:
        """The derivation of a kind for a budget; None if done, failed too often, or tried before."""
        assert budget.latency_ms is not None
        mine = [
            t for t in history if (t.notes.get("kind"), t.notes.get("budget_ms")) == (kind, budget.latency_ms)
        ]
        if any(t.evaluation is not None for t in mine) or len(mine) > TRIES:
            return None
        aim = budget.scaled(part * NEARER ** len(mine))
        spec = self._derived(aim, budget)
        if spec is None or spec.key in {t.spec.key for t in history}:
            return None
        images = int(self._options.images * self._options.trial_share)
        of = "learned" if self._options.scores is not None else "untrained"
        return Proposal(
            spec=spec,
            images=images or None,
            reason=f"{kind} of the {of} scores for {format_ms(budget.latency_ms)}: {spec.depths_text}",
            notes={"kind": kind, "budget_ms": budget.latency_ms},
        )

    def _derived(self, aim: Budget, budget: Budget) -> NetworkSpec | None:
        """The best network for a budget; the smallest member where the vital blocks alone are over.

        A super-network that was trained shortly finds that blocks harm. Where its best network leaves
        more than 1 - `least` of the budget, the untrained scores gain weight until it does not.
        """
        assert aim.latency_ms is not None
        estimate, found = self._context.estimate, None
        for weight in LEANINGS:
            scores = self._scores.leaning(weight) if weight else self._scores
            fills = SlotChooser(self._space, scores, estimate).best(aim)
            if fills is None:
                smallest = self._space.smallest()
                return smallest if budget.fits(estimate(smallest)) else None
            found = network(self._space, scores.path, fills)
            if estimate(found).bound_ms >= self._options.least * aim.latency_ms:
                break
        return found
