"""Strategy ``auto``: the recommended search, composed of what the published ones do best.

1. **Macro.** Depth and width by stage-wise growth, where the gain pays for its milliseconds, within
   `macro_share` of the budget.
2. **Vital.** Kernels, expansions and gates of the vital blocks (those that no path avoids), within
   `vital_share`, by an exact choice: of all combinations of what is significant, the one of largest
   gain in what is left of the budget.
3. **Others.** The same for the remaining blocks, in all of the budget.
4. **Fill.** Growth of any kind in the milliseconds left over.

Weights are inherited throughout, gains come from one importance, latency is measured in the loop.
A space without operators to choose between is searched by stage-wise growth alone, which this then is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import combinations
from statistics import NormalDist
from typing import Any

import numpy as np

from hwnas.errors import InputError
from hwnas.protocols import Move, SearchContext
from hwnas.records import Proposal, StageImportance, Trial
from hwnas.search import operators, options
from hwnas.search.budgeted_path import Edge, best_path
from hwnas.search.log import Decision
from hwnas.search.operators import View
from hwnas.search.stagewise import Stagewise, StagewiseOptions
from hwnas.spec import NetworkSpec
from hwnas.units import format_ms

MACRO, VITAL, OTHERS, FILL = range(4)
NAMES = ("depth and width", "operators of vital blocks", "operators of the other blocks", "anything")
# Times that an exact choice is made; and budgets, each nearer, that it is made for.
CHOICES, REPAIRS = 2, 12
Moves = Callable[[NetworkSpec], list[Move]]


@dataclass(frozen=True)
class AutoOptions(StagewiseOptions):
    """Options of `Auto`: those of `Stagewise`, and the parts of the latency budget.

    Attributes:
        macro_share: for depth and width.
        vital_share: for these and the vital blocks' operators; the rest is for the other blocks.
    """

    macro_share: float = 0.6
    vital_share: float = 0.8

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fidelity != "default" or self.importance == "vip":
            raise InputError(
                "strategy auto is published nowhere, and vip says nothing of operators: "
                "--fidelity paper and --importance vip are for --strategy stagewise"
            )
        if not 0 < self.macro_share <= self.vital_share <= 1:
            raise InputError(
                f"macro_share {self.macro_share} and vital_share {self.vital_share} must ascend within 0 to 1"
            )


class Auto:
    """Macro, vital, others, fill; see the module. Proposals are a function of the history."""

    name = "auto"
    Options = AutoOptions

    def __init__(self, context: SearchContext) -> None:
        self._options = options.read(AutoOptions, context.options, self.name)
        self._context = context
        self._last = Stagewise(replace(context, options=self._for_growth(1.0, 0)))
        self._phases: list[Stagewise | _Choice] = [self._last]
        self._asking = 0  # set by every proposal, read while it is evaluated
        if operators.has_operators(context.space):
            self._phases = self._composed()

    def propose(self, history: Sequence[Trial], n: int, rng: np.random.Generator) -> list[Proposal]:
        """The next network of the present phase, or of the next one that has something to propose."""
        for phase in range(self._phase(history), len(self._phases)):
            found = self._phases[phase].propose(history, n, rng) or self._look(history, phase)
            if found:
                self._asking = phase
                return [one.model_copy(update={"notes": {**one.notes, "phase": phase}}) for one in found]
        return []

    def growths(self, spec: NetworkSpec) -> list[Move]:
        """The growths that the phase of the newest proposal would judge next, or else the phase after it.

        Judging costs images for each kind of growth, so that it is not asked for all phases at once.
        """
        found = (self._phases[phase].growths(spec) for phase in range(self._asking, len(self._phases)))
        return next((moves for moves in found if moves), [])

    def _look(self, history: Sequence[Trial], phase: int) -> list[Proposal]:
        """Train on, and ask for the gains of a phase that begins without knowing any."""
        now = next((t for t in reversed(history) if t.state == "done" and t.role == "candidate"), None)
        if now is None or now.evaluation is None or phase == self._phase(history):
            return []
        asked = {(move.stage, move.kind) for move in self._phases[phase].growths(now.spec)}
        if not asked or asked & {(one.stage, one.kind) for one in now.evaluation.importance}:
            return []
        total = self._options.growing
        return [
            Proposal(
                spec=now.spec,
                parent=now.index,
                images=max(total // (4 * self._options.rounds), 1) if total else None,
                reason=f"train on, and ask what {NAMES[phase]} would gain",
                notes={"look": 1},
            )
        ]

    def asks_importance(self) -> tuple[str, int]:
        """Which importance trained networks are to be asked for, and images for judging one of them."""
        return self._last.asks_importance()

    def explain(self, history: Sequence[Trial]) -> list[Decision]:
        """What was decided after the newest trial; the end of a phase is no end of the search."""
        made: list[Decision] = []
        for phase in range(self._phase(history), len(self._phases)):
            decisions = self._phases[phase].explain(history)
            going_on = self._phases[phase].propose(history, 1, np.random.default_rng(0))
            going_on = going_on or self._look(history, phase)
            last = phase == len(self._phases) - 1
            made += [one for one in decisions if one.kind != "stop" or (last and not going_on)]
            if going_on:
                return made
        return made

    def rank(self, trials: Sequence[Trial]) -> list[Trial]:
        """The newest network first; see `Stagewise.rank`."""
        return self._last.rank(trials)

    def _phase(self, history: Sequence[Trial]) -> int:
        return max((int(t.notes.get("phase", 0)) for t in history), default=0)

    def _composed(self) -> list[Stagewise | _Choice]:
        """The four phases over the same space, each with its moves, budget and part of the images."""
        o, space = self._options, self._context.space

        def vital(spec: NetworkSpec) -> list[Move]:
            return operators.operators(space, spec, "vital")

        def other(spec: NetworkSpec) -> list[Move]:
            return operators.operators(space, spec, "other")

        rounds = o.rounds
        macro = View(space, lambda spec: operators.shapes(space, spec))
        self._last = self._grower(View(space, space.grow), 1.0, 1.0, rounds + 3)
        return [
            self._grower(macro, o.macro_share, 0.6, rounds),
            _Choice(self._within(o.vital_share), VITAL, View(space, vital).grow, o),
            _Choice(self._context, OTHERS, View(space, other).grow, o),
            self._last,
        ]

    def _grower(self, space: View, share: float, images: float, rounds: int) -> Stagewise:
        given = self._for_growth(images, rounds)
        targets = [ms * share for ms in given.get("targets_ms", ())]
        given = {**given, **({"targets_ms": tuple(targets)} if targets else {})}
        return Stagewise(replace(self._within(share), space=space, options=given))

    def _within(self, share: float) -> SearchContext:
        """The context with a part of the latency budget."""
        budget = self._context.budget
        if budget.latency_ms is None or share == 1.0:
            return self._context
        smaller = budget.model_copy(update={"latency_ms": budget.latency_ms * share})
        return replace(self._context, budget=smaller)

    def _for_growth(self, part: float, rounds: int) -> dict[str, Any]:
        """Options of a grower that takes a part of the images for growing."""
        known = {field.name for field in fields(StagewiseOptions)}
        given = {name: value for name, value in self._context.options.items() if name in known}
        if part == 1.0 and not rounds:
            return given
        images: Mapping[str, Any] = {
            "search_share": self._options.search_share * part,
            "least_images": int(self._options.least_images * part),
            "rounds": rounds,
        }
        return {**given, **images}


class _Choice:
    """A phase that chooses exactly among the significant growths of one part of the blocks."""

    def __init__(self, context: SearchContext, phase: int, moves: Moves, chosen: AutoOptions) -> None:
        self._context, self._phase, self._moves, self._options = context, phase, moves, chosen
        self._z = NormalDist().inv_cdf(chosen.confidence)

    def growths(self, spec: NetworkSpec) -> list[Move]:
        """The growths that fit the budget one by one."""
        fits, estimate = self._context.budget.fits, self._context.estimate
        return [move for move in self._moves(spec) if fits(estimate(move.spec))]

    def propose(self, history: Sequence[Trial], n: int, rng: np.random.Generator) -> list[Proposal]:
        """The network of the best choice; empty where nothing significant fits, or often enough made."""
        found = self._found(history)
        if found is None:
            return []
        parent, spec, taken, gain = found
        total = self._options.growing
        images = max((total - options.spent(history)) // 3, total // (8 * self._options.rounds), 1)
        words = _words(taken)
        return [
            Proposal(
                spec=spec,
                parent=parent.index,
                images=images if total else None,
                reason=f"best choice in what is left of the budget: {words}",
                notes={"choice": words, "gain": gain},
            )
        ]

    def explain(self, history: Sequence[Trial]) -> list[Decision]:
        """The choice in words and figures."""
        found = self._found(history)
        if found is None:
            return []
        parent, spec, taken, gain = found
        cost_ms = self._context.estimate(spec).latency_ms - self._context.estimate(parent.spec).latency_ms
        text = f"{_words(taken)}: together {100 * gain:+.2f} % for {format_ms(max(cost_ms, 0.0))}"
        given = {"gain": gain, "cost_ms": cost_ms, "moves": [[one.stage, one.kind] for one in taken]}
        return [Decision("growth", text, given)]

    def _found(
        self, history: Sequence[Trial]
    ) -> tuple[Trial, NetworkSpec, list[StageImportance], float] | None:
        now = next((t for t in reversed(history) if t.state == "done" and t.role == "candidate"), None)
        made = sum(int(t.notes.get("phase", 0)) == self._phase and "choice" in t.notes for t in history)
        if now is None or now.evaluation is None or made >= CHOICES:
            return None
        open_ = {(move.stage, move.kind) for move in self.growths(now.spec)}
        gains = [
            one
            for one in now.evaluation.importance
            if (one.stage, one.kind) in open_ and one.value > self._z * one.se
        ]
        chosen = self._exact(now.spec, gains)
        return None if chosen is None else (now, *chosen)

    def _exact(
        self, spec: NetworkSpec, gains: Sequence[StageImportance]
    ) -> tuple[NetworkSpec, list[StageImportance], float] | None:
        """The combination of largest gain that fits, by `best_path` over the stages.

        Costs of stages are added up; the whole network is checked, and the choice made anew for a
        nearer budget where it is over.
        """
        budget_ms = self._context.budget.latency_ms
        if not gains or budget_ms is None:
            return None
        base = self._context.estimate(spec)
        edges, meant = [], []
        for stage in range(len(spec.stages)):
            mine = [one for one in gains if one.stage == stage]
            for size in range(len(mine) + 1):
                for combination in combinations(mine, size):
                    cost_ms = self._context.estimate(self._applied(spec, combination)).high_ms - base.high_ms
                    gain = sum(one.value for one in combination)
                    edges.append(Edge(stage, stage + 1, max(cost_ms, 0.0), gain))
                    meant.append(combination)
        left_ms = budget_ms - base.high_ms
        for _ in range(REPAIRS):
            if left_ms < 0:
                return None
            best = best_path(edges, 0, len(spec.stages), left_ms)
            taken = [one for edge in best.edges for one in meant[edge]]
            grown = self._applied(spec, taken)
            found = self._context.estimate(grown)
            if not taken:
                return None
            if self._context.budget.fits(found):
                return grown, taken, best.score
            left_ms = min(left_ms, best.cost) - max(found.high_ms - budget_ms, 0.01 * budget_ms)
        return None

    def _applied(self, spec: NetworkSpec, taken: Sequence[StageImportance]) -> NetworkSpec:
        """The network after several moves, in different stages or of different kinds."""
        for one in taken:
            again = (m.spec for m in self._moves(spec) if (m.stage, m.kind) == (one.stage, one.kind))
            spec = next(again, spec)
        return spec


def _words(taken: Sequence[StageImportance]) -> str:
    return ", ".join(f"stage {one.stage + 1} {one.kind}" for one in taken)
