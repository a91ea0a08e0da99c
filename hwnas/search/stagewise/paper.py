"""The controller of StageWise NAS as published (Jordao et al. 2020; its public code).

::

    net <- train b;  S <- stage scores of net
    repeat `iterations` times:
        tmp <- train b + g in every stage, from scratch;  S_tmp <- its stage scores
        b_k <- b_k + g  for every stage k with S_tmp[k] > S[k]        (strict, no margin)
        net <- train b from scratch;  S <- stage scores of net

Models trained: 1 + 2 x iterations. There is no latency in it: here the budget ends it, as a grown
network over the budget is refused. The temporary network is an instrument and may exceed it.
"""

from __future__ import annotations

from collections.abc import Sequence

from hwnas.protocols import SearchContext
from hwnas.records import Proposal, Trial
from hwnas.search.moves import further
from hwnas.search.strategy import Decision
from hwnas.spec import NetworkSpec


class Published:
    """The published walk; its place in it follows from the number of trials."""

    def __init__(self, context: SearchContext, growth_step: int, iterations: int, start: int) -> None:
        self._context = context
        self._growth_step = growth_step
        self._iterations = iterations
        self._start = start

    @property
    def models(self) -> int:
        """Networks that a whole run trains."""
        return 1 + 2 * self._iterations

    def propose(self, history: Sequence[Trial], images: int) -> list[Proposal]:
        """The next network, from scratch; empty after the last iteration or a refusal.

        Args:
            history: the trials so far.
            images: training images of the whole search, spread evenly; 0 for the evaluator's default.
        """
        if len(history) >= self.models or any(trial.evaluation is None for trial in history):
            return []
        share = images // self.models or None
        if not history:
            spec = self._first()
            return [
                Proposal(spec=spec, images=share, reason=f"start of the published walk: {spec.depths_text}")
            ]
        iteration = (len(history) + 1) // 2
        now = history[-1] if len(history) % 2 else history[-2]
        if len(history) % 2:
            spec = self._deepen(now.spec, range(len(now.spec.stages)))
            reason = f"iteration {iteration}: temporary network, {self._growth_step} deeper in every stage"
            return [Proposal(spec=spec, images=share, reason=reason, role="probe")]
        grown = self._grown(history)
        spec = self._deepen(now.spec, grown)
        stages = ", ".join(str(stage + 1) for stage in grown) or "none"
        return [Proposal(spec=spec, images=share, reason=f"iteration {iteration}: stages grown: {stages}")]

    def explain(self, history: Sequence[Trial]) -> list[Decision]:
        """The comparison of stage scores after a temporary network."""
        if not history or len(history) % 2 or history[-1].evaluation is None:
            return []
        grown = self._grown(history)
        made = []
        for stage, before, after in self._scores(history):
            grows = stage in grown
            fields = {"stage": stage, "kind": "deeper", "before": before, "after": after}
            words = f"stage {stage + 1}: score {after:.4f} of the temporary network against {before:.4f}: "
            words += f"grows by {self._growth_step}" if grows else "does not grow"
            made.append(Decision("growth" if grows else "refusal", words, fields))
        if not grown:
            made.append(Decision("refusal", "converged: no stage grows; the walk trains the same again"))
        return made

    def _scores(self, history: Sequence[Trial]) -> list[tuple[int, float, float]]:
        """Each stage with its score in the network and in its temporary one."""
        sides = []
        for trial in history[-2:]:
            sides.append({one.stage: one.value for one in trial.outcome.importance})
        return [(stage, sides[0][stage], sides[1][stage]) for stage in sides[0] if stage in sides[1]]

    def _grown(self, history: Sequence[Trial]) -> list[int]:
        # A stage grows if its score is strictly higher, without a margin, as published.
        return [stage for stage, before, after in self._scores(history) if after > before]

    def _first(self) -> NetworkSpec:
        """Every stage `start` blocks deep."""
        spec = self._context.space.smallest()
        for stage in range(len(spec.stages)):
            spec = further(self._context.space, spec, stage, self._start - len(spec.stages[stage]))
        return spec

    def _deepen(self, spec: NetworkSpec, stages: Sequence[int]) -> NetworkSpec:
        for stage in stages:
            spec = further(self._context.space, spec, stage, self._growth_step)
        return spec
