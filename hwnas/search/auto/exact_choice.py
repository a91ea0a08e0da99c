"""Exact choices among significant gains: of all combinations within the budget the best."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from statistics import NormalDist

import numpy as np

from hwnas.protocols import Move, SearchContext
from hwnas.records import Proposal, StageImportance, Trial
from hwnas.search import options
from hwnas.search.auto.options import AutoOptions
from hwnas.search.moves import Moves
from hwnas.search.ranking import newest
from hwnas.search.solve.path import Edge, best_path
from hwnas.search.strategy import Decision
from hwnas.spec import NetworkSpec
from hwnas.units import format_ms

# Times that an exact choice is made; and budgets, each nearer, that it is made for.
CHOICES, REPAIRS = 2, 12


class ExactChoice:
    """A phase that chooses exactly among the significant growths of one part of the blocks."""

    def __init__(self, context: SearchContext, phase: int, moves: Moves, chosen: AutoOptions) -> None:
        self._context, self._phase, self._moves, self._options = context, phase, moves, chosen
        self._z = NormalDist().inv_cdf(chosen.confidence)

    def fitting(self, spec: NetworkSpec) -> list[Move]:
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
                reason=f"best set of changes within the rest of the budget: {words}",
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
        now = newest(history)
        made = sum(int(t.notes.get("phase", 0)) == self._phase and "choice" in t.notes for t in history)
        if now is None or now.evaluation is None or made >= CHOICES:
            return None
        open_ = {(move.stage, move.kind) for move in self.fitting(now.spec)}
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

        Costs of stages are added up; the whole network is checked, and the choice made again for a
        nearer budget where it is over.
        """
        budget_ms = self._context.budget.latency_ms
        if not gains or budget_ms is None:
            return None
        base = self._context.estimate(spec)
        # Step 1: for each stage every combination of its gains as parallel edges.
        edges, meant = [], []
        for stage in range(len(spec.stages)):
            mine = [one for one in gains if one.stage == stage]
            for size in range(len(mine) + 1):
                for combination in combinations(mine, size):
                    cost_ms = (
                        self._context.estimate(self._applied(spec, combination)).bound_ms - base.bound_ms
                    )
                    gain = sum(one.value for one in combination)
                    edges.append(Edge(stage, stage + 1, max(cost_ms, 0.0), gain))
                    meant.append(combination)
        # Step 2: the best path under the budget; again for a smaller one if the whole network is over it.
        left_ms = budget_ms - base.bound_ms
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
            left_ms = min(left_ms, best.cost) - max(found.bound_ms - budget_ms, 0.01 * budget_ms)
        return None

    def _applied(self, spec: NetworkSpec, taken: Sequence[StageImportance]) -> NetworkSpec:
        """The network after several moves, in different stages or of different kinds."""
        for one in taken:
            again = (m.spec for m in self._moves(spec) if (m.stage, m.kind) == (one.stage, one.kind))
            spec = next(again, spec)
        return spec


def _words(taken: Sequence[StageImportance]) -> str:
    return ", ".join(f"stage {one.stage + 1} {one.kind}" for one in taken)
