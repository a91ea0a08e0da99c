"""Strategy ``fit``: a trained model made to fit a budget, its weights kept.

1. The model as it is: its accuracy on the data, and how much each form of each piece is missed. Where the
   data has other classes, its new head is trained first.
2. For each budget the best variant by these scores, exactly (`choice`). It is measured whole before anything
   is trained; where it is over, the next one is chosen with what was learned.
3. The winner of each budget is fine-tuned on the images that are left, taught by the model as it was.

Variants enter the comparison untrained, with the weights that they kept.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hwnas.errors import InputError
from hwnas.protocols import Move, SearchContext
from hwnas.records import Budget, Proposal, Trial
from hwnas.search import options
from hwnas.search.fit.choice import choose, told
from hwnas.search.fit.options import FitOptions
from hwnas.search.fit.worth import scores
from hwnas.search.ranking import candidates
from hwnas.search.strategy import Decision, Judging, Strategy
from hwnas.traced import DROP, KEEP, REPEAT
from hwnas.units import format_ms

# Variants for one budget that may turn out to be over it when they are measured.
TRIES, NEARER = 6, 0.98


class Fit(Strategy[FitOptions]):
    """Choose what to drop, narrow and ."""

    name = "fit"
    Options = FitOptions
    continues = True

    def __init__(self, context: SearchContext) -> None:
        from hwnas.nets.model.space import ModelSpace  # imports torch; lists of strategies do not

        super().__init__(context)
        if not isinstance(context.space, ModelSpace):
            raise InputError(
                "strategy fit changes a model of your own: name it with --model, for example --model "
                "torchvision:resnet18"
            )
        self._space = context.space
        self._budgets = options.budgets(context, self._options.targets_ms)

    def propose(self, history: Sequence[Trial], n: int, rng: np.random.Generator) -> list[Proposal]:
        """The model itself, then a variant for each budget; see `Strategy.propose`."""
        if not history:
            images = round(self._options.first * self._options.images) if self._space.new_head else 0
            reason = "the model as it is" + (", its new head trained" if images else "")
            return [Proposal(spec=self._space.variant(), images=images, role="probe", reason=reason)]
        for budget in self._budgets:
            proposal = self._next(history, budget)
            if proposal is not None:
                return [proposal]
        return []

    def _next(self, history: Sequence[Trial], budget: Budget) -> Proposal | None:
        """The variant for a budget; None where it has one, or as many as it may have."""
        mine = [t for t in history if t.notes.get("budget_ms") == budget.latency_ms]
        if len(mine) >= TRIES or any(trial.state == "done" for trial in mine):
            return None
        aim = budget.scaled(NEARER ** len(mine))
        found = choose(self._space, self._scores(history), self._context.estimate, aim)
        if found is None or any(t.spec.key == found.spec.key for t in history[1:]):
            return None
        return Proposal(
            spec=found.spec,
            parent=0,
            images=0,
            inherited_lr=self._options.rate,
            frozen_norms=self._options.images < self._options.frozen_below,
            teacher=0 if self._options.distill else None,
            reason=f"best variant for {format_ms(budget.latency_ms or 0.0)}: {told(found.spec)}",
            notes={"budget_ms": budget.latency_ms or 0.0, "score": found.score},
        )

    def _scores(self, history: Sequence[Trial]) -> dict[tuple[str, str], float]:
        """What every edit adds (less than nothing for what is missed), by piece and edit."""
        places = list(self._space.places)
        judged = history[0].outcome.importance
        if not judged:
            raise InputError(
                f"{self._space.name} is no better than guessing on these images, so that nothing can be said "
                "of its pieces; train it first, or give its weights with --weights"
            )
        missed = {(places[one.stage], one.kind): one.value for one in judged}
        return scores(self._space, missed, depth=self._options.depth, repeat=self._options.repeat)

    def rank(self, trials: Sequence[Trial]) -> list[Trial]:
        """By score: untrained variants are far below what they become, so their accuracies say little."""
        return sorted(
            candidates(trials),
            key=lambda t: (-float(t.notes.get("score", 0.0)), t.estimate.latency_ms, t.index),
        )

    def explain(self, history: Sequence[Trial]) -> list[Decision]:
        """What is missed most and least, once it is known."""
        if len(history) != 1 or history[0].evaluation is None or not history[0].outcome.importance:
            return []
        places = list(self._space.places)
        drops = sorted(
            ((one.value, places[one.stage]) for one in history[0].outcome.importance if one.kind == DROP),
        )
        if not drops:
            return []
        (least, cheap), (most, dear) = drops[0], drops[-1]
        text = (
            f"of {len(drops)} pieces that can be dropped, {cheap} is missed least ({least:+.3f}) and "
            f"{dear} most ({most:+.3f})"
        )
        return [Decision("choice", text, {"missed": {name: value for value, name in drops}})]

    def asks_importance(self) -> Judging | None:
        """Each changed piece is judged once, on validation images."""
        return Judging(self._options.importance, self._options.judged, group="removals", held_out=True)

    def growths(self, proposal: Proposal) -> list[Move]:
        """Every single change of the model itself that is not a repetition."""
        if proposal.parent is not None:
            return []
        return [
            Move(at, form.edit, self._space.variant({name: form.edit}))
            for at, (name, forms) in enumerate(self._space.places.items())
            for form in forms
            if form.edit != KEEP and not form.edit.startswith(REPEAT)
        ]
