"""DenseNAS under a budget: networks derived from a dense super-network's learned scores.

Descends from DenseNAS (Fang et al. 2020, arXiv 1906.09607). The super-network is trained before the
first proposal (`hwnas.jobs.preparations.densenas`); what it learned comes in as the option ``scores``, and
what is proposed is a function of these, the estimates and the history. Where the published method
derives the most probable network and leaves its latency to chance, here the best network within
each budget is found exactly (`choice.Chooser`); the most probable one is reported beside it,
and trained as well where it fits and uses the budget.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hwnas.errors import BudgetInfeasible, InputError
from hwnas.estimates import Budget
from hwnas.nets.densenas.chains import DenseChain
from hwnas.nets.densenas.graph import DenseSpace
from hwnas.nets.densenas.layers import layer_places
from hwnas.protocols import SearchContext, SearchSpace
from hwnas.records import Proposal, Trial
from hwnas.search import options
from hwnas.search.densenas.choice import Chooser, ChosenNetwork
from hwnas.search.densenas.derive import Scores, Trust
from hwnas.search.densenas.options import DenseNasOptions
from hwnas.search.ranking import candidates, difference
from hwnas.search.strategy import Decision, Strategy
from hwnas.spec import NetworkSpec
from hwnas.units import format_ms

# Derivations for one budget after measurements refused the ones before.
TRIES = 4
# Part of the budget that the upper bound of a measured network uses when nothing larger is looked for.
REFILL = 0.95
# Kinds of candidates for a budget, in the order in which they are trained and preferred.
_KINDS = ("optimum", "most probable", "spare")
# Standard errors by which the most probable network must be more accurate than the best within budget.
SURE = 2.0


def dense_space(space: SearchSpace) -> DenseSpace:
    """The densely connected space behind a search space; InputError where there is none."""
    if not isinstance(space, DenseChain):
        raise InputError(
            f"strategy densenas searches densely connected spaces, and {space.name!r} is not one; use "
            "--space densenas-cifar, densenas-mbv2 or densenas-resnet, or another strategy"
        )
    return space.dense


def read_scores(space: DenseSpace, given: Mapping[str, Any]) -> Scores:
    """Learned scores out of their JSON form.

    Raises:
        InputError: they are of another space.
    """
    scores = Scores(tuple(given["edges"]), tuple(tuple(row) for row in given["layers"]))
    wanted = [len(place.operators) for place in layer_places(space)]
    if len(scores.edges) != len(space.edges) or [len(row) for row in scores.layers] != wanted:
        raise InputError(
            f"the learned scores do not match {space.name}: {len(scores.edges)} edges, {len(scores.layers)} "
            f"layers, where it has {len(space.edges)} and {len(wanted)}"
        )
    return scores


def read_trust(given: Mapping[str, Any]) -> Trust:
    """How reliable learned scores are, out of their JSON form.

    Raises:
        InputError: a factor does not lie between 0 and 1.
    """
    trust = Trust(*given.get("trust", (1.0, 1.0)))
    if not (0 <= trust.edges <= 1 and 0 <= trust.operators <= 1):
        raise InputError(f"trust in learned scores is {given['trust']}; expected a number between 0 and 1")
    return trust


class DenseNas(Strategy[DenseNasOptions]):
    """Derive the best network within the budget from the scores of a dense super-network."""

    name = "densenas"
    Options = DenseNasOptions
    preparation = "hwnas.jobs.preparations.densenas:prepare"

    def __init__(self, context: SearchContext) -> None:
        super().__init__(context)
        self._space = dense_space(context.space)
        given = self._options.scores
        self._learned = None if given is None else read_scores(self._space, given)
        self._trust = Trust() if given is None else read_trust(given)
        self._budgets = options.budgets(context, self._options.targets_ms)

    def propose(self, history: Sequence[Trial], n: int, rng: np.random.Generator) -> list[Proposal]:
        """The next derived network; empty once each budget has its own."""
        chooser = self._chooser()
        for budget in reversed(self._budgets):
            for kind in _KINDS:
                proposal = self._next(history, chooser, budget, kind)
                if proposal is not None:
                    return [proposal]
        return []

    def explain(self, history: Sequence[Trial]) -> list[Decision]:
        """Both derivations in words, before the first trial."""
        if history:
            return []
        chooser, told = self._chooser(), []
        likely = chooser.most_probable()
        if likely is not None:
            told.append(self._about_likely(likely, chooser))
        for budget in reversed(self._budgets):
            told.append(self._about_optimum(chooser.optimum(budget), budget, chooser))
        if likely is not None:
            told += [self._about_drawn(budget, chooser) for budget in reversed(self._budgets)]
        return told

    @classmethod
    def plan(cls, context: SearchContext) -> NetworkSpec | None:
        """The exact optimum of the untrained score."""
        return Chooser(dense_space(context.space), None, context.estimate).optimum(context.budget).spec

    def rank(self, trials: Sequence[Trial]) -> list[Trial]:
        """Largest budget first; within it the newest best network, then the others, spares last.

        After their short trainings candidates differ by chance: the most probable network comes first
        only where it is significantly more accurate.
        """
        ranked: list[Trial] = []
        found = candidates(trials)
        for for_ms in sorted({float(t.notes["for_ms"]) for t in found}, reverse=True):
            own = [t for t in found if t.notes["for_ms"] == for_ms]
            own.sort(key=lambda t: (_KINDS.index(str(t.notes["kind"])), -t.index))
            better = [t for t in own if t.notes["kind"] == "most probable" and _better(t, own[0])]
            ranked += [*better, *(t for t in own if t not in better)]
        return ranked

    def _chooser(self) -> Chooser:
        o = self._options
        published = o.fidelity == "paper"
        prior, trust = (0.0, None) if published else (o.prior, self._trust)
        return Chooser(self._space, self._learned, self._context.estimate, prior, o.least, trust)

    def _next(self, history: Sequence[Trial], chooser: Chooser, budget: Budget, kind: str) -> Proposal | None:
        """What is still to be proposed of one kind for one budget."""
        own = (budget.latency_ms or 0.0, kind)
        mine = [t for t in history if (t.notes.get("for_ms"), t.notes.get("kind")) == own]
        if len(mine) >= TRIES or (
            any(t.evaluation is not None for t in mine) and self._settled(mine, budget)
        ):
            return None
        found = self._derived(chooser, _tightened(budget, mine), kind)
        tried = {t.spec.key for t in history}
        if found is None or found.spec.key in tried:
            return None
        again = "; derived again after the measurement" if mine else ""
        return Proposal(
            spec=found.spec,
            images=self._images(),
            reason=f"{self._words(kind, found, budget)}{again}",
            notes={"for_ms": own[0], "kind": kind},
        )

    def _settled(self, mine: Sequence[Trial], budget: Budget) -> bool:
        """Whether no larger network can fit: the upper bound still uses the budget, or it was refused.

        Where the measurement of a network moved its upper bound down, there is room for a larger one.
        """
        last = mine[-1]
        if mine[0].notes["kind"] != "optimum" or last.evaluation is None or last.measured is None:
            return True
        return budget.latency_ms is None or last.estimate.bound_ms >= REFILL * budget.latency_ms

    def _derived(self, chooser: Chooser, budget: Budget, kind: str) -> ChosenNetwork | None:
        try:
            if kind == "optimum":
                return chooser.optimum(budget)
            if kind == "spare":
                if not self._options.spares:
                    return None
                assert budget.latency_ms is not None
                return chooser.optimum(budget.scaled(options.SPARE))
        except BudgetInfeasible:  # after a measurement: what was predicted to fit does not
            return None
        likely = None if chooser.believed is None else chooser.most_probable()
        fits = likely is not None and budget.fits(likely.estimate)
        return likely if likely and fits and likely.used(budget) >= self._options.least else None

    def _images(self) -> int | None:
        """Images of a candidate's own training: a small part, as the winner is trained out."""
        planned = len(self._budgets) * (1 + self._options.spares)
        return int(self._options.images * self._options.trial_share) // planned or None

    def _words(self, kind: str, found: ChosenNetwork, budget: Budget) -> str:
        if kind == "most probable":
            return f"most probable network, {self._bound(found, budget)}"
        basis = "proxy score" if self._chooser().believed is None else "learned scores"
        what = {"optimum": "best", "spare": f"spare: best within {options.SPARE:.0%}"}[kind]
        return f"{what} under the {basis}, {self._bound(found, budget)}"

    def _bound(self, found: ChosenNetwork, budget: Budget) -> str:
        """Prediction, upper bound and budget as text."""
        cost = found.estimate
        return (
            f"{format_ms(cost.latency_ms)} ({format_ms(cost.low_ms)} to {format_ms(cost.high_ms)}, "
            f"{found.used(budget):.0%} of {budget.describe()})"
        )

    def _about_likely(self, likely: ChosenNetwork, chooser: Chooser) -> Decision:
        budget = self._budgets[-1]
        part = likely.used(budget)
        if chooser.believed is None:
            fate = "its scores are not reliable, so it is not trained"
        elif not budget.fits(likely.estimate):
            fate = "over the budget, so it is not trained"
        elif part < self._options.least:
            fate = f"less than {self._options.least:.0%}, so it is not trained"
        else:
            fate = "trained beside the best within the budget"
        text = f"most probable network {likely.spec.depths_text}, {self._bound(likely, budget)}: {fate}"
        return Decision("derived", text, self._figures(likely, "most probable", budget))

    def _about_drawn(self, budget: Budget, chooser: Chooser) -> Decision:
        """How many of the networks that the learned probabilities stand for would keep the budget."""
        assert budget.latency_ms is not None
        chance = chooser.chance_within(budget.latency_ms)
        text = (
            f"of the networks drawn by the learned probabilities {chance:.1%} are predicted within "
            f"{format_ms(budget.latency_ms)}"
        )
        fields = {"kind": "drawn", "probability_within": chance, "budget_ms": budget.latency_ms}
        return Decision("derived", text, fields)

    def _about_optimum(self, found: ChosenNetwork, budget: Budget, chooser: Chooser) -> Decision:
        text = f"best network within the budget {found.spec.depths_text}, {self._bound(found, budget)}"
        if self._learned is None:
            text += "; nothing was learned, the proxy score alone decides"
        elif chooser.believed is None:
            text += "; the learned scores are not reliable, the proxy score alone decides"
        elif found.weight:
            text += f"; weight of the proxy score {found.weight:g}"
        return Decision("derived", text, self._figures(found, "optimum", budget))

    def _figures(self, found: ChosenNetwork, kind: str, budget: Budget) -> dict[str, Any]:
        return {
            "kind": kind,
            "path": list(found.derived.path),
            "latency_ms": found.estimate.latency_ms,
            "high_ms": found.estimate.high_ms,
            "budget_ms": budget.latency_ms,
            "prior_weight": found.weight,
        }


def _tightened(budget: Budget, mine: Sequence[Trial]) -> Budget:
    """The budget for a new derivation after `mine` were refused when measured.

    The first refusal has taught the cost model. Where that was not enough, the budget is divided by
    how far the measurements lay above the predictions, once for every further refusal.
    """
    refused = [t for t in mine if t.evaluation is None and t.predicted is not None]
    if len(refused) < 2 or budget.latency_ms is None:
        return budget
    excess = max(t.estimate.bound_ms / t.predicted.bound_ms for t in refused if t.predicted is not None)
    latency_ms = budget.latency_ms / max(excess, 1.02) ** (len(refused) - 1)
    return budget.model_copy(update={"latency_ms": latency_ms})


def _better(one: Trial, other: Trial) -> bool:
    gain, se = difference(one, other)
    return gain > SURE * se
