"""Strategy ``fit``: a trained model made to fit a budget, its weights kept.

1. The model as it is: its accuracy on the data, and how much each form of each piece is missed. Where the
   data has other classes, its new head is trained first.
2. For each budget the best variant by these scores, exactly (`choice`), the evenly thinned model, and
   the best variants by scores that are shaken: what a piece is missed says nothing of which others are
   gone. Each is measured whole; where one is over, the next ones are chosen for less, and the best one again.
3. That of the smallest validation loss wins, untrained, its layers fitted to what they gave in the model
   (`nets.model.refit`) and with new statistics of batch norm: what orders variants so orders them after
   fine-tuning (EagleEye, Li et al. 2020, arXiv 2007.02491; docs/evidence/own-model.md). It is fine-tuned on
   the images that are left, taught by the model as it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np

from hwnas.errors import InputError
from hwnas.estimates import Budget
from hwnas.protocols import Move, SearchContext
from hwnas.records import Proposal, Trial
from hwnas.search import options
from hwnas.search.fit.choice import choose, told
from hwnas.search.fit.options import FitOptions
from hwnas.search.fit.worth import scores
from hwnas.search.ranking import candidates
from hwnas.search.strategy import Decision, Judging, Strategy
from hwnas.traced import DROP, KEEP, REPEAT, VariantSpec
from hwnas.units import format_ms

# Variants for one budget that may turn out to be over it when they are measured; how often that may be the
# exact choice, before others are looked at.
TRIES, NEARER, EXACTLY = 6, 0.98, 3
EXACT, EVEN, SHAKY = "best variant", "evenly thinned", "best by shaken scores"
# Deviation of the logarithm of shaken scores, and how often a variant that is known is shaken again.
SHAKEN, AGAIN = 1.0, 8


class Fit(Strategy[FitOptions]):
    """Choose what to drop, narrow and repeat."""

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
            proposal = self._next(history, budget, rng)
            if proposal is not None:
                return [proposal]
        return []

    def _next(self, history: Sequence[Trial], budget: Budget, rng: np.random.Generator) -> Proposal | None:
        """The next variant for a budget; None where it has enough of them."""
        mine = [t for t in history if t.notes.get("budget_ms") == budget.latency_ms]
        done = sum(trial.state == "done" for trial in mine)
        if done >= self._options.looks or len(mine) - done >= TRIES:
            return None
        aim = budget.scaled(NEARER ** (len(mine) - done))
        known = {trial.spec.key for trial in history[1:]}
        over = {trial.spec.key for trial in mine if trial.state == "over_budget"}
        how = look = self._look(mine)
        spec = self._variant(history, aim, rng, how)
        # The exact choice once more for less, where predictions say again that it fits.
        for step in range(1, EXACTLY):
            if how != EXACT or spec is None or spec.key not in over:
                break
            spec = self._variant(history, aim.scaled(NEARER**step), rng, how)
        # What is known already has nothing to show.
        for _ in range(AGAIN):
            if spec is not None and spec.key not in known:
                break
            how = SHAKY
            spec = self._variant(history, aim, rng, how)
        if spec is None or spec.key in known:
            return None
        return Proposal(
            spec=spec,
            parent=0,
            images=0,
            inherited_lr=self._options.rate,
            frozen_norms=self._options.images < self._options.frozen_below,
            teacher=0 if self._options.distill else None,
            reason=f"{how} for {format_ms(budget.latency_ms or 0.0)}: {told(spec)}",
            notes={"budget_ms": budget.latency_ms or 0.0, "look": look},
        )

    @staticmethod
    def _look(mine: Sequence[Trial]) -> str:
        """What is looked at next: the exact choice until one is within the budget, then others."""
        looks = [(str(trial.notes.get("look")), trial.state == "done") for trial in mine]
        exact = [done for look, done in looks if look == EXACT]
        if not any(exact) and len(exact) < EXACTLY:
            return EXACT
        return SHAKY if any(look == EVEN for look, _ in looks) else EVEN

    def _variant(
        self, history: Sequence[Trial], budget: Budget, rng: np.random.Generator, how: str
    ) -> VariantSpec | None:
        """A variant within a budget; None where there is none."""
        if how == EVEN:
            even = [s for s in self._space.uniform() if budget.fits(self._context.estimate(s))]
            return cast(VariantSpec, even[-1]) if even else None
        missed = self._missed(history)
        depth = self._options.depth
        if how == SHAKY:
            missed = {
                at: max(value, 0.0) * float(np.exp(rng.normal(0.0, SHAKEN))) for at, value in missed.items()
            }
            depth *= float(np.exp(rng.normal(0.0, SHAKEN)))
        given = scores(self._space, missed, depth=depth, repeat=self._options.repeat)
        found = choose(self._space, given, self._context.estimate, budget)
        return None if found is None else found.spec

    def _missed(self, history: Sequence[Trial]) -> dict[tuple[str, str], float]:
        """How much every edit of a piece is missed alone, by piece and edit."""
        places = list(self._space.places)
        judged = history[0].outcome.importance
        if not judged:
            raise InputError(
                f"{self._space.name} is no better than guessing on these images, so that nothing can be said "
                "of its pieces; train it first, give its weights with --weights, or say with --normalise "
                "which pixels it was trained on"
            )
        return {(places[one.stage], one.kind): one.value for one in judged}

    def rank(self, trials: Sequence[Trial]) -> list[Trial]:
        """By validation loss: untrained variants are nearer to each other in accuracy than in loss."""
        return sorted(candidates(trials), key=lambda t: (t.outcome.loss, t.estimate.latency_ms, t.index))

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
