"""Successive halving over families: uniform members at the budget, trained shortly; the best third goes on.

A round gets as many images as any other, so that a contestant of the next one trains three times as long
(Jamieson & Talwalkar 2016, arXiv 1502.07943). It continues from its weights: what the winner was trained with
is not lost. How far the order of one round held in the next is told as a rank correlation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from hwnas.cost.score import kendall_tau
from hwnas.estimates import Budget
from hwnas.nets.families import Families, Family
from hwnas.protocols import SearchContext
from hwnas.records import Proposal, Trial
from hwnas.search import options
from hwnas.search.families.options import FamiliesOptions
from hwnas.search.ranking import accuracy, by_accuracy
from hwnas.search.strategy import Decision
from hwnas.spec import NetworkSpec

# The part of a round's contestants that goes on is one of so many.
KEPT = 3
# Blocks a stage of contestants, in the order in which they are tried where the images do not suffice.
DEPTHS = (2, 1, 3)
# Networks of one contestant that may be refused by their measurement before it is left out.
REFUSALS = 3


@dataclass(frozen=True)
class Contestant:
    """A contestant: a family at a depth. Its width follows from the budget."""

    family: Family
    depth: int

    @property
    def name(self) -> str:
        """For people, and in the notes of trials."""
        return f"{self.family.label}, {self.depth} a stage"


class Race:
    """The rounds, as far as a history tells."""

    def __init__(self, context: SearchContext, space: Families, chosen: FamiliesOptions) -> None:
        self._context, self._space, self._options = context, space, chosen
        by_label = {family.label: family for family in space.families}
        self._scaled = cache(lambda label, depth, width: by_label[label].scaled(width, depth))
        self._entries = [Contestant(family, depth) for depth in DEPTHS for family in space.families]
        self.images = int(chosen.images * chosen.race_share)
        self._smaller = options.budgets(context, chosen.targets_ms)[:-1]
        most = min(chosen.entries, len(self._entries))
        self.sizes = _sizes(most, self.images, chosen.race_images)

    def propose(self, history: Sequence[Trial]) -> Proposal | None:
        """The next training of the race; None once it is decided."""
        for number in range(len(self.sizes)):
            made = [trial for trial in history if trial.notes.get("round") == number]
            found = self._first(made) if number == 0 else self._again(history, made, number)
            if found is not None:
                return found
        for budget in reversed(self._smaller):
            found = self._narrower(history, budget)
            if found is not None:
                return found
        return None

    def sees(self, history: Sequence[Trial]) -> int:
        """How many of the first trials decide what is trained next: those of the rounds before this one.

        At the end of a round its results count as well; one that failed in the first round is replaced then.
        """
        if not history:
            return 0
        if "round" not in history[-1].notes:  # the race is over
            return len(history)
        number = int(history[-1].notes["round"])
        made = [trial for trial in history if trial.notes.get("round") == number]
        before = history[: history.index(made[0])]
        # Whether a trial was refused is known before it is trained; nothing else of these is looked at.
        running = sum(trial.state != "over_budget" for trial in made)
        if number == 0:
            more = running < self.sizes[0] and self._contestant(made, self._options.used) is not None
        else:
            ended = by_accuracy([trial for trial in before if trial.notes.get("round") == number - 1])
            more = len(made) < len(ended[: self.sizes[number]])
        return len(before) if more else len(history)

    def winner(self, history: Sequence[Trial]) -> Trial | None:
        """The best of the last round that was trained."""
        return next(iter(self._order(history)), None)

    def explain(self, history: Sequence[Trial]) -> list[Decision]:
        """What the round that has just ended decided."""
        if not history:
            text = (
                f"{self.sizes[0]} families compete within the budget in {len(self.sizes)} "
                f"round{'s' if len(self.sizes) > 1 else ''} of "
                f"{self.images // len(self.sizes):,} training images"
            )
            return [Decision("choice", text, {"rounds": self.sizes, "images": self.images})]
        number = history[-1].notes.get("round")
        upcoming = self.propose(history)
        if number is None or (upcoming is not None and upcoming.notes.get("round") == number):
            return []
        return [self._decided(history, int(number))]

    # -- the rounds --------------------------------------------------------------------------

    def _first(self, made: Sequence[Trial]) -> Proposal | None:
        """The next contestant of the first round, at the largest width that fits."""
        running = sum(trial.evaluation is not None or trial.state == "pending" for trial in made)
        if running >= self.sizes[0]:
            return None
        found = self._contestant(made, self._options.used)
        if found is None and not running:  # a budget that no family fills
            found = self._contestant(made, 0.0) or self._least(made)
        return found

    def _contestant(self, made: Sequence[Trial], used: float) -> Proposal | None:
        """The next one that uses at least a part of the budget."""
        specs = {trial.spec.key for trial in made}
        for entry in self._entries:
            mine = [trial for trial in made if trial.notes.get("entry") == entry.name]
            if any(trial.state != "over_budget" for trial in mine) or len(mine) > REFUSALS:
                continue
            spec = self._widest(entry, self._context.budget, {trial.spec.key for trial in mine}, used)
            if spec is not None and spec.key not in specs:
                return self._proposal(entry.name, spec, 0)
        return None

    def _least(self, made: Sequence[Trial]) -> Proposal | None:
        """The smallest member of all, once."""
        spec = self._space.smallest()
        done = any(trial.spec.key == spec.key for trial in made)
        return None if done else self._proposal("the smallest network", spec, 0)

    def _widest(
        self, entry: Contestant, budget: Budget, refused: set[str], used: float = 0.0
    ) -> NetworkSpec | None:
        """The widest member that fits; None where it uses too little of the budget, or none fits."""
        estimate = self._context.estimate
        for width in reversed(range(len(entry.family.widths))):
            spec = self._scaled(entry.family.label, entry.depth, width)
            found = estimate(spec)
            if spec.key in refused or not budget.fits(found):
                continue
            enough = budget.latency_ms is None or found.bound_ms >= used * budget.latency_ms
            return spec if enough else None
        return None

    def _again(self, history: Sequence[Trial], made: Sequence[Trial], number: int) -> Proposal | None:
        """The next contestant of a later round: the best of the one before, best first."""
        before = by_accuracy([t for t in history if t.notes.get("round") == number - 1])
        tried = {trial.parent for trial in made}
        for trial in before[: self.sizes[number]]:
            if trial.index not in tried:
                return self._proposal(str(trial.notes["entry"]), trial.spec, number, trial.index)
        return None

    def _narrower(self, history: Sequence[Trial], budget: Budget) -> Proposal | None:
        """Of several budgets a smaller one: the best contestants' families at the widths that it allows.

        None once one of them was trained; they get the images of the last round.
        """
        made = [trial for trial in history if trial.notes.get("budget_ms") == budget.latency_ms]
        if any(trial.evaluation is not None for trial in made):
            return None
        best = [str(trial.notes["entry"]) for trial in self._order(history)]
        entries = sorted(self._entries, key=lambda e: best.index(e.name) if e.name in best else len(best))
        for entry in entries:
            refused = {trial.spec.key for trial in made if trial.notes["entry"] == entry.name}
            spec = self._widest(entry, budget, refused) if len(refused) <= REFUSALS else None
            if spec is not None:
                found = self._proposal(entry.name, spec, len(self.sizes) - 1)
                notes = {"entry": entry.name, "budget_ms": budget.latency_ms or 0.0}
                return found.model_copy(update={"notes": notes})
        return None

    def _order(self, history: Sequence[Trial]) -> list[Trial]:
        """Trained contestants, those of the last round first, best first."""
        raced = by_accuracy([trial for trial in history if "round" in trial.notes])
        return sorted(raced, key=lambda trial: -int(trial.notes["round"]))

    def _proposal(self, entry: str, spec: NetworkSpec, number: int, parent: int | None = None) -> Proposal:
        images = self.images // len(self.sizes) // self.sizes[number]
        return Proposal(
            spec=spec,
            parent=parent,
            images=images or None,
            reason=f"round {number + 1} of {len(self.sizes)}: {entry}, {spec.stem.c_out} channels",
            notes={"round": number, "entry": entry},
        )

    def _decided(self, history: Sequence[Trial], number: int) -> Decision:
        """The order of a round, and how far that of the round before held in it."""
        order = by_accuracy([t for t in history if t.notes.get("round") == number])
        words = ", ".join(f"{trial.notes['entry']} {accuracy(trial):.1%}" for trial in order[:3])
        given: dict[str, Any] = {
            "round": number,
            "order": [[str(t.notes["entry"]), accuracy(t)] for t in order],
        }
        text = f"round {number + 1} of {len(self.sizes)}: {words or 'nothing could be trained'}"
        by_index = {trial.index: trial for trial in history}
        pairs = [(by_index[t.parent], t) for t in order if t.parent is not None]
        if len(pairs) > 1:
            before, now = (np.array([accuracy(pair[at]) for pair in pairs]) for at in (0, 1))
            tau = kendall_tau(before, now)
            given["kendall_tau"] = tau
            text += f"; the order of these {len(pairs)} in the round before agrees with Kendall tau {tau:.2f}"
        return Decision("choice", text, given)


def _sizes(most: int, images: int, least: int) -> list[int]:
    """Contestants of each round: as many as `least` images each allow at first; then a third goes on."""
    for first in range(most, 2, -1):
        sizes = list(_shrinking(first))
        if images // len(sizes) // first >= least:
            return sizes
    return [2]


def _shrinking(number: int) -> Iterator[int]:
    while number > 1:
        yield number
        number = -(-number // KEPT)
