"""Strategy ``families``: families compete by short trainings; the winner's family is searched.

1. **Race** (`race`). Uniform members of each family at the budget are trained shortly, by successive halving.
2. **Search.** The winner's family is searched by `auto`, where that has something to decide: operators to
   choose, or enough images to tell growths apart.

The winner of the race stays a candidate to the end: what the search finds has to be more accurate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace

import numpy as np

from hwnas.errors import InputError
from hwnas.nets.families import Families
from hwnas.protocols import Move, SearchContext, SearchSpace
from hwnas.records import Proposal, Trial
from hwnas.search.auto import operators
from hwnas.search.auto.options import AutoOptions
from hwnas.search.auto.strategy import Auto
from hwnas.search.families.options import FamiliesOptions
from hwnas.search.families.race import Race
from hwnas.search.options import spent
from hwnas.search.ranking import by_accuracy
from hwnas.search.strategy import Decision, Judging, Strategy


class FamilyRace(Strategy[FamiliesOptions]):
    """Families of networks compete by short trainings; the winner's family is searched by `auto`."""

    name = "families"
    Options = FamiliesOptions

    def __init__(self, context: SearchContext) -> None:
        super().__init__(context)
        if not isinstance(context.space, Families):
            raise InputError(
                f"strategy families compares the families of the space auto, not {context.space.name}; use "
                "--space auto, or --strategy auto for one family"
            )
        self._families: Families = context.space
        self._race = Race(context, context.space, self._options)

    def propose(self, history: Sequence[Trial], n: int, rng: np.random.Generator) -> list[Proposal]:
        """The next training of the race; after it, what the search of the winner's family proposes."""
        found = self._race.propose(history)
        if found is not None:
            return [found]
        inner, after = self._inner(history), _after(history)
        if inner is None:
            return []
        if inner.untrained and any(trial.evaluation is not None for trial in after):
            return []  # what the race left is the spare
        return [self._compared(one, history) for one in inner.propose(after, n, rng)]

    def sees(self, history: Sequence[Trial]) -> int:
        """In the race the rounds that are over: contestants of one round do not depend on each other."""
        return self._race.sees(history)

    def _compared(self, proposal: Proposal, history: Sequence[Trial]) -> Proposal:
        """A network from new weights gets as many images as the winner of the race had, to be compared."""
        winner = self._race.winner(history)
        if proposal.parent is not None or proposal.images is None or winner is None:
            return proposal
        had = sum(t.outcome.images for t in _raced(history) if t.spec.key == winner.spec.key)
        return proposal.model_copy(update={"images": max(proposal.images, had)})

    def explain(self, history: Sequence[Trial]) -> list[Decision]:
        """The course of the race; then what the search of the winner's family tells."""
        told = self._race.explain(history)
        if self._race.propose(history) is not None:
            return told
        inner = self._inner(history)
        return told + (inner.explain(_after(history)) if inner is not None else [])

    def rank(self, trials: Sequence[Trial]) -> list[Trial]:
        """By accuracy: the winner of the race wins where the search found nothing better.

        Of the race only the last training of each network counts, and the rounds in descending order: a
        contestant that went out was compared when it did.
        """
        raced = [trial for trial in by_accuracy(trials) if "round" in trial.notes]
        last = max((int(trial.notes["round"]) for trial in raced), default=0)
        final = [t for t in trials if t.notes.get("round", last) == last]
        out = sorted((t for t in raced if int(t.notes["round"]) < last), key=lambda t: -int(t.notes["round"]))
        return [*by_accuracy(final), *out]

    def asks_importance(self) -> Judging | None:
        """As `Auto` does in the first family with operators; None where no family's growths are judged."""
        spaces = (one.space for one in self._families.families if operators.has_operators(one.space))
        contexts = (self._context_of(space, self._left) for space in spaces)
        judging = (one for one in contexts if not Auto.too_few_images(one))
        return next((Auto(one, compared=False).asks_importance() for one in judging), None)

    def growths(self, proposal: Proposal) -> list[Move]:
        """None in the race; then as the search of the family asks."""
        if "entry" in proposal.notes:
            return []
        inner = self._search(self._families.family_of(proposal.spec).space, self._left)
        return inner.growths(proposal)

    @property
    def _left(self) -> int:
        """Images that the race leaves at least."""
        return self._options.images - self._race.images

    # -- the search of one family ------------------------------------------------------------

    def _inner(self, history: Sequence[Trial]) -> Auto | None:
        """The search of the winner's family; None where it has nothing to decide.

        Where depth and width are all that is open, growing step by step was not seen to beat the uniform
        members that have run already (docs/evidence/search.md).
        """
        winner = self._race.winner(history)
        if winner is None:
            return None
        family = self._families.family_of(winner.spec)
        if not operators.has_operators(family.space):
            return None
        return self._search(family.space, self._options.images - spent(_raced(history)))

    def _search(self, space: SearchSpace, images: int) -> Auto:
        return Auto(self._context_of(space, images), compared=False)

    def _context_of(self, space: SearchSpace, images: int) -> SearchContext:
        known = {field.name for field in fields(AutoOptions)}
        given = {name: value for name, value in self._context.options.items() if name in known}
        return replace(self._context, space=space, options={**given, "images": images})


def _raced(history: Sequence[Trial]) -> list[Trial]:
    return [trial for trial in history if "entry" in trial.notes]


def _after(history: Sequence[Trial]) -> list[Trial]:
    """The trials after the race."""
    return [trial for trial in history if "entry" not in trial.notes]
