"""Strategy ``auto``: the recommended search, composed of what the published ones do best.

1. **Macro.** Depth and width by stage-wise growth, where the gain pays for its milliseconds, within
   `macro_share` of the budget.
2. **Vital.** Kernels, expansions and gates of the vital blocks (those that no path avoids), within
   `vital_share`, by an exact choice: of all combinations of what is significant, the one of largest
   gain in what is left of the budget.
3. **Others.** The same for the remaining blocks, in all of the budget.
4. **Fill.** Growth of any kind in the milliseconds left over; what no significant gain asks for, or no such
   growth fits, is filled by the untrained score, at last in single blocks (`solve.fine`).

Judging kinds of growth apart takes images. Where growing has fewer than `by_size.EVIDENCE` for each
pass in each round, gains would be noise, and the same composition is made by the untrained score instead,
whose exact choice takes none: vital blocks first, then the others (`hournas` with ``score=proxy``).

Weights are inherited throughout, gains come from one importance, latency is measured in the loop.
A space without operators to choose between is searched by stage-wise growth alone, which this then is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from statistics import NormalDist
from typing import Any

import numpy as np

from hwnas.estimates import Budget
from hwnas.nets.hournas.slots import placed
from hwnas.protocols import Move, SearchContext
from hwnas.records import Proposal, Trial
from hwnas.search.auto import operators
from hwnas.search.auto.exact_choice import ExactChoice
from hwnas.search.auto.operators import View
from hwnas.search.auto.options import AutoOptions
from hwnas.search.hournas.strategy import HourNas
from hwnas.search.moves import remembered
from hwnas.search.ranking import accuracy, ancestry, candidates, difference, newest
from hwnas.search.solve import fine
from hwnas.search.stagewise.by_size import largest_uniform, needed
from hwnas.search.stagewise.options import StagewiseOptions
from hwnas.search.stagewise.strategy import Stagewise
from hwnas.search.strategy import Decision, Judging, Strategy
from hwnas.spec import NetworkSpec

MACRO, VITAL, OTHERS, FILL, UNTRAINED = range(5)
NAMES = ("depth and width", "operators of vital blocks", "operators of the other blocks", "anything")


# In the notes of the uniform member that is trained to be compared.
UNIFORM = "uniform"
# Part of the budget that the next one is for, where one was measured over it.
SMALLER = 0.96


def _own(history: Sequence[Trial]) -> list[Trial]:
    """The trials of the search itself."""
    return [trial for trial in history if UNIFORM not in trial.notes]


class Auto(Strategy[AutoOptions]):
    """Recommended. Depth and width first, then kernels and expansions, by gain per millisecond."""

    name = "auto"
    Options = AutoOptions

    def __init__(self, context: SearchContext, *, compared: bool = True) -> None:
        """Compose the phases.

        Args:
            context: of the search.
            compared: whether the largest uniform member is trained at the end, too, as a candidate; not where
                uniform members are candidates already.
        """
        super().__init__(context)
        self._compared = compared
        self._z = NormalDist().inv_cdf(self._options.confidence)
        self._last = Stagewise(replace(context, options=self._for_growth(1.0, 0)))
        self._phases: list[Stagewise | ExactChoice] = [self._last]
        if operators.has_operators(context.space):
            self._phases = self._composed()
        self._needed = needed(context.space, self._options.rounds + 3)
        self._untrained = self._by_untrained_score()

    @classmethod
    def too_few_images(cls, context: SearchContext) -> bool:
        """Whether an untrained score decides in a search, as images are too few to estimate gains."""
        o, space = cls.read_options(context.options), context.space
        if not operators.has_operators(space) or not placed(space) or o.score == "gains":
            return False
        return o.score != "auto" or 0 < o.growing < needed(space, o.rounds + 3)

    def _by_untrained_score(self) -> HourNas | None:
        """The search by the untrained score, where that decides."""
        if not self.too_few_images(self._context):
            return None
        given = {name: v for name, v in self._context.options.items() if name in ("images", "targets_ms")}
        return HourNas(replace(self._context, options={**given, "score": "proxy"}))

    @property
    def untrained(self) -> bool:
        """Whether the untrained score decides, and not gains of growths."""
        return self._untrained is not None

    def propose(self, history: Sequence[Trial], n: int, rng: np.random.Generator) -> list[Proposal]:
        """The next network of the search; at its end the largest uniform member, to be compared."""
        return self._searched(_own(history), n, rng) or self._uniform(history)

    def _searched(self, history: Sequence[Trial], n: int, rng: np.random.Generator) -> list[Proposal]:
        """The next network of the present phase, or of the next one that has something to propose."""
        if self._untrained is not None:
            return self._untrained.propose(history, n, rng)
        for phase in range(self._phase(history), len(self._phases)):
            found = self._phases[phase].propose(history, n, rng) or self._look(history, phase)
            if found:
                return [one.model_copy(update={"notes": {**one.notes, "phase": phase}}) for one in found]
        return self._filled(history)

    def growths(self, proposal: Proposal) -> list[Move]:
        """The growths that the phase of a proposal would judge next, or else the phase after it.

        Judging costs images for each kind of growth, so that it is not asked for all phases at once.
        """
        if self._untrained is not None or UNIFORM in proposal.notes:
            return []
        asking = range(int(proposal.notes.get("phase", MACRO)), len(self._phases))
        found = (self._phases[phase].fitting(proposal.spec) for phase in asking)
        return next((moves for moves in found if moves), [])

    def _filled(self, history: Sequence[Trial]) -> list[Proposal]:
        """A proposal that fills the rest of the budget by the untrained score, in fine steps."""
        if len(self._phases) == 1:  # which fills by itself
            return []
        found = fine.last_steps(history, self._context, self._context.budget, note=("phase", UNTRAINED))
        if found is None:
            return []
        parent, spec = found
        used = self._context.estimate(parent.spec).bound_ms / (self._context.budget.latency_ms or math.inf)
        total = self._options.growing
        return [
            Proposal(
                spec=spec,
                parent=parent.index,
                images=max(total // (4 * self._options.rounds), 1) if total else None,
                reason=(
                    f"no significant gain fits, {1 - used:.0%} of the budget left: "
                    "filled by the untrained score"
                ),
                notes={"phase": UNTRAINED},
            )
        ]

    def _look(self, history: Sequence[Trial], phase: int) -> list[Proposal]:
        """Train further and estimate the gains of a phase that begins without any."""
        now = newest(history)
        if now is None or now.evaluation is None or phase == self._phase(history):
            return []
        asked = {(move.stage, move.kind) for move in self._phases[phase].fitting(now.spec)}
        if not asked or asked & {(one.stage, one.kind) for one in now.evaluation.importance}:
            return []
        total = self._options.growing
        return [
            Proposal(
                spec=now.spec,
                parent=now.index,
                images=max(total // (4 * self._options.rounds), 1) if total else None,
                reason=f"train further and estimate the gains of {NAMES[phase]}",
                notes={"look": 1},
            )
        ]

    def asks_importance(self) -> Judging | None:
        """As the last phase does, which judges everything; None where the untrained score decides."""
        return None if self._untrained is not None else self._last.asks_importance()

    def explain(self, history: Sequence[Trial]) -> list[Decision]:
        """What was decided after the newest trial; the end of a phase is no end of the search."""
        if history and UNIFORM in history[-1].notes:
            return [] if self._uniform(history) else self._verdict(history)
        told = self._told(history)
        return [one for one in told if one.kind != "stop"] if self._uniform(history) else told

    def _told(self, history: Sequence[Trial]) -> list[Decision]:
        made: list[Decision] = []
        if self._untrained is not None:
            why = (
                f"estimating gains needs {self._needed:,} images for growing, and "
                f"{self._options.growing:,} are available"
            )
            rule = Decision("choice", f"the untrained score decides: {why}", {"needed": self._needed})
            return [] if history else [rule, *self._untrained.explain(history)]
        for phase in range(self._phase(history), len(self._phases)):
            decisions = self._phases[phase].explain(history)
            going_on = self._phases[phase].propose(history, 1, np.random.default_rng(0))
            last = phase == len(self._phases) - 1
            going_on = going_on or self._look(history, phase) or (self._filled(history) if last else [])
            made += [one for one in decisions if one.kind != "stop" or (last and not going_on)]
            if going_on:
                return made
        if self._phase(history) == UNTRAINED:
            now = history[-1].spec
            text = f"{now.depths_text}: filled by the untrained score"
            made.append(Decision("stop", text, {"depths": list(now.depths)}))
        return made

    @classmethod
    def plan(cls, context: SearchContext) -> NetworkSpec | None:
        """By the untrained score, as `HourNas` does."""
        return HourNas.plan(context)

    def rank(self, trials: Sequence[Trial]) -> list[Trial]:
        """The newest network first (see `Stagewise.rank`), and uniform members where they are as good."""
        found = (self._untrained or self._last).rank(_own(trials))
        uniform = [trial for trial in candidates(trials) if UNIFORM in trial.notes]
        better = [one for one in uniform if found and self._beats(one, found[0])]
        return [*better, *found, *(one for one in uniform if one not in better)]

    # -- the uniform member ------------------------------------------------------------------

    def _uniform(self, history: Sequence[Trial]) -> list[Proposal]:
        """The largest uniform member, from new weights, with the images that the search's network has seen.

        Only when the search proposes nothing more, and once, unless it was measured over the budget: then a
        smaller one. What a search found has to be better than what takes none (docs/evidence/frontier.md).
        Where growth decided, with the rest of the budget filled in single blocks. Not where operators were
        grown: weights that grew at a gentle rate say less of what a long training will give than new ones do.
        Nor at chance level, at which two accuracies say nothing of the networks.
        """
        own = _own(history)
        now = newest(own)
        before = [trial for trial in history if UNIFORM in trial.notes]
        if not self._compared or now is None or any(trial.evaluation is not None for trial in before):
            return []
        if self._untrained is None and (len(self._phases) > 1 or self._guesses(now)):
            return []
        if self._searched(own, 1, np.random.default_rng(0)):
            return []
        seen = sum(trial.outcome.images for trial in ancestry(own, now))
        tried = {trial.spec.key for trial in history}
        for step in range(len(before), fine.TRIES):
            text, spec = self._largest(self._context.budget.scaled(SMALLER**step))
            if not self._context.budget.fits(self._context.estimate(spec)):
                return []
            if spec.key not in tried:
                reason = f"{text}, {spec.depths_text}, to be compared"
                return [Proposal(spec=spec, images=seen or None, reason=reason, notes={UNIFORM: 1})]
            if not before:  # it is what was found
                return []
        return []

    def _guesses(self, trial: Trial) -> bool:
        """Whether a network is not significantly better than guessing."""
        above = accuracy(trial) - 1.0 / trial.spec.classes
        return above <= self._z * trial.outcome.accuracy_se

    def _largest(self, budget: Budget) -> tuple[str, NetworkSpec]:
        """The largest uniform member within a budget, filled where growth decided; in words, and itself."""
        spec = largest_uniform(self._context, budget)
        if self._untrained is not None or budget.latency_ms is None:
            return "the largest uniform member", spec
        filled = fine.refined(spec, self._context.space, self._context.estimate, budget)
        changed = ", filled in single blocks" if filled.key != spec.key else ""
        return f"the largest uniform member{changed}", filled

    def _beats(self, uniform: Trial, found: Trial) -> bool:
        """Whether the uniform member takes the place of what was found.

        Growth has to be better. What the untrained score derived was trained shortly, as the uniform member
        was; there only a difference that is no chance counts against it.
        """
        ahead, se = difference(uniform, found)
        return ahead > self._z * se if self._untrained is not None else ahead >= 0

    def _verdict(self, history: Sequence[Trial]) -> list[Decision]:
        """How the uniform member compares with what the search found."""
        told = [one for one in self._told(_own(history)) if one.kind == "stop"]
        found, other = self.rank(_own(history)), history[-1]
        if other.evaluation is None or not found:
            return told
        ours, theirs = accuracy(found[0]), accuracy(other)
        taken = self._beats(other, found[0])
        which = f"{other.spec.depths_text} is taken" if taken else f"{found[0].spec.depths_text} stays"
        text = f"the largest uniform member reaches {theirs:.2%}, what was found {ours:.2%}: {which}"
        return [Decision("choice", text, {"uniform": theirs, "found": ours}), *told]

    def _phase(self, history: Sequence[Trial]) -> int:
        return max((int(t.notes.get("phase", 0)) for t in history), default=0)

    def _composed(self) -> list[Stagewise | ExactChoice]:
        """The four phases over the same space, each with its moves, budget and part of the images."""
        o, space = self._options, self._context.space

        @remembered
        def vital(spec: NetworkSpec) -> list[Move]:
            return operators.operators(space, spec, "vital")

        @remembered
        def other(spec: NetworkSpec) -> list[Move]:
            return operators.operators(space, spec, "other")

        rounds = o.rounds
        every = View(space, space.grow)
        macro = View(space, lambda spec: operators.shapes(every, spec))
        self._last = self._grower(every, 1.0, 1.0, rounds + 3)
        return [
            self._grower(macro, o.macro_share, 0.6, rounds),
            ExactChoice(self._within(o.vital_share), VITAL, vital, o),
            ExactChoice(self._context, OTHERS, other, o),
            self._last,
        ]

    def _grower(self, space: View, share: float, images: float, rounds: int) -> Stagewise:
        given = self._for_growth(images, rounds)
        targets = [ms * share for ms in given.get("targets_ms", ())]
        given = {**given, **({"targets_ms": tuple(targets)} if targets else {})}
        return Stagewise(replace(self._within(share), space=space, options=given), fills=False)

    def _within(self, share: float) -> SearchContext:
        """The context with a part of the latency budget."""
        return replace(self._context, budget=self._context.budget.scaled(share))

    def _for_growth(self, part: float, rounds: int) -> dict[str, Any]:
        """Options of a grower that takes a part of the images for growing."""
        known = {field.name for field in fields(StagewiseOptions)}
        given = {name: value for name, value in self._context.options.items() if name in known}
        if operators.has_operators(self._context.space):
            given["begin"] = "smallest"  # the parts judge, or none does
        if part == 1.0 and not rounds:
            return given
        images: Mapping[str, Any] = {
            "search_share": self._options.search_share * part,
            "least_images": int(self._options.least_images * part),
            "rounds": rounds,
        }
        return {**given, **images}
