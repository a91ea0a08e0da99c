"""Strategy ``macromicro``: Efficient Global NAS (arXiv 2502.03553), under a latency budget.

``fidelity="paper"`` is the published controller (`macromicro.walk`): depth, then width, then
operators, then kernels; training length by architecture. The default keeps its order, macro before
micro, and closes the gaps of the original:

- **Macro.** For every depth of a geometric ladder the widest chain that keeps `macro_share` of the
  latency budget. So depths are compared at equal latency, and width is not a second walk that is
  confounded with longer training. The ladder ends at the third significant loss.
- **Training length** follows the architecture (`length`): more for more MACs and for narrower chains.
- **Micro.** The macro network trained on is the baseline, as published; each choice (full
  convolutions, or kernels 5, in one stage) starts from the same weights with as many images, and is
  kept only if its gain is significant.
- **The network found is the one trained**: what the choices leave of the budget goes into width, and
  that network, not the macro one, gets the final training. Published training dropped the width that
  the micro phase had found.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from hwnas.errors import InputError
from hwnas.estimates import Estimate
from hwnas.nets.macromicro.space import FULL, Chain, MacroMicro
from hwnas.protocols import SearchContext
from hwnas.records import Proposal, Trial
from hwnas.search.macromicro.options import MacroMicroOptions, length
from hwnas.search.macromicro.paper import PaperWalk
from hwnas.search.ranking import COLLAPSE, accuracy, by_accuracy, candidates, difference
from hwnas.search.strategy import Decision, Strategy
from hwnas.spec import NetworkSpec

# Choices of the micro phase, in the published order.
CHOICES = ("full_conv", "kernel5")
STAGES = 3
# Times that a depth may be refused by measurement before it is passed over.
TRIES = 2


class GlobalWalk(Strategy[MacroMicroOptions]):
    """Depth and width of a plain chain first (macro), then its operators (micro)."""

    name = "macromicro"
    Options = MacroMicroOptions

    def __init__(self, context: SearchContext) -> None:
        if not isinstance(context.space, MacroMicro):
            raise InputError(
                "strategy macromicro searches chains of two operators and cannot search the space "
                f"{context.space.name}; use --space macromicro"
            )
        self._space: MacroMicro = context.space
        super().__init__(context)
        o = self._options
        paper = PaperWalk(
            context, o.max_width, o.max_depth, o.epoch_images, int(o.images * o.search_share), self._space
        )
        self._paper = paper if o.fidelity == "paper" else None
        self._z = NormalDist().inv_cdf(o.confidence)

    def propose(self, history: Sequence[Trial], n: int, rng: np.random.Generator) -> list[Proposal]:
        """The next network of the walk; empty at its end."""
        if self._paper is not None:
            return self._paper.propose(history)
        # Phases in order: depth and width (macro), operators (micro), then the rest of the budget as width.
        found = self._macro(history) or self._micro(history) or self._fill(history)
        return [found] if found is not None else []

    def rank(self, trials: Sequence[Trial]) -> list[Trial]:
        """The network that the walk ended with first, then by accuracy.

        The last widening keeps what was learned, and a few images after it accuracies compare badly;
        one that has collapsed comes after the others.
        """
        if self._paper is not None:
            return self._paper.rank(trials)
        best = max(map(accuracy, candidates(trials)), default=0.0)

        def place(trial: Trial) -> int:
            if trial.notes.get("phase") == "fill":
                return 0 if best - accuracy(trial) <= COLLAPSE else 3
            return 1 if trial is self._incumbent(trials) else 2

        return sorted(by_accuracy(trials), key=place)

    def explain(self, history: Sequence[Trial]) -> list[Decision]:
        """What the newest trial decided, in words; see `Strategy.explain`."""
        if self._paper is not None or not history or history[-1].evaluation is None:
            return []
        now, before = history[-1], history[:-1]
        if now.notes.get("phase") != "micro" or "choice" not in now.notes:
            return []
        base = self._incumbent(before)
        if base is None:
            return []
        gain, se = difference(now, base)
        kept = gain > self._z * se
        what = f"{now.notes['choice']} in stage {int(now.notes['stage']) + 1}"
        verdict = "kept" if kept else "not significant"
        fields = {"stage": now.notes["stage"], "choice": now.notes["choice"], "gain": gain, "gain_se": se}
        text = f"{what}: {100 * gain:+.2f} % +- {100 * se:.2f} %: {verdict}"
        return [Decision("growth" if kept else "refusal", text, fields)]

    # -- macro -------------------------------------------------------------------------------

    def _depths(self) -> list[int]:
        """Depths to try, shallowest first."""
        low, high = self._space.depth
        high = min(high, self._options.max_depth or high)
        found, depth = [], float(low)
        while round(depth) <= high:
            found.append(round(depth))
            depth = max(depth * self._options.ladder, depth + 1)
        return found

    def frontier(self) -> list[NetworkSpec]:
        """For each depth the widest chain within the macro phase's share; the smallest if there is none."""
        for share in (self._options.macro_share, 1.0):
            specs = [
                self._widest(self._space.network(d, self._space.width[0]), share) for d in self._depths()
            ]
            fitting = [spec for spec in specs if spec is not None]
            if fitting:
                return fitting
        return [self._space.smallest()]

    def _widest(self, spec: NetworkSpec, share: float = 1.0) -> NetworkSpec | None:
        """The widest chain of these layers within a share of the budget; None if the narrowest is over."""
        chain = self._space.chain(spec)
        low, high = self._space.width[0] - 1, self._space.width[1]
        while low < high:  # the widest that fits is in low..high; low fits (or is none)
            middle = (low + high + 1) // 2
            fits = self._fits(self._space.express(Chain(middle, chain.layers)), share)
            low, high = (middle, high) if fits else (low, middle - 1)
        if low < self._space.width[0]:
            return None
        return self._space.express(Chain(low, chain.layers))

    def _fits(self, spec: NetworkSpec, share: float = 1.0) -> bool:
        return self._context.budget.scaled(share).fits(self._estimate(spec))

    def _estimate(self, spec: NetworkSpec) -> Estimate:
        return self._context.estimate(spec)

    def _macro(self, history: Sequence[Trial]) -> Proposal | None:
        """The next depth of the ladder; None once it has ended."""
        frontier = self.frontier()
        done = [int(t.notes["depth"]) for t in candidates(history) if t.notes.get("phase") == "macro"]
        tried = [int(t.notes["depth"]) for t in history if t.notes.get("phase") == "macro"]
        # A measurement that refused a chain taught the cost model: the depth is tried again, narrower.
        over = {depth for depth in tried if tried.count(depth) > TRIES}
        ahead = [spec for spec in frontier if len(spec.blocks) - 2 not in over.union(done)]
        if not ahead or self._lost(history) or any(t.notes.get("phase") != "macro" for t in history):
            return None
        spec, at = ahead[0], len(ahead[0].blocks) - 2
        return Proposal(
            spec=spec,
            images=self._macro_images(spec, frontier),
            reason=f"the widest chain of {at} layers at equal latency",
            notes={"phase": "macro", "depth": at},
        )

    def _macro_images(self, spec: NetworkSpec, frontier: Sequence[NetworkSpec]) -> int | None:
        """Its part of the macro phase's images, by `length`."""
        o = self._options
        if not o.images:
            return None
        total = o.images * o.search_share * o.macro_images
        share = self._length(spec, frontier[0]) / sum(self._length(one, frontier[0]) for one in frontier)
        return max(1, min(int(total * share), int(total / 2)))

    def _length(self, spec: NetworkSpec, reference: NetworkSpec) -> float:
        macs = (float(self._estimate(spec).macs), float(self._estimate(reference).macs))
        return length(spec, reference, macs, (self._options.length_macs, self._options.length_width))

    def _lost(self, history: Sequence[Trial]) -> bool:
        """Whether the ladder has met its last significant loss since the best network."""
        best, losses = None, 0
        for trial in candidates(history):
            if trial.notes.get("phase") != "macro":
                continue
            if best is None or accuracy(trial) > accuracy(best):
                best, losses = trial, 0
                continue
            gain, se = difference(trial, best)
            losses += gain < -self._z * se
        return losses > self._options.patience

    # -- micro -------------------------------------------------------------------------------

    def _micro(self, history: Sequence[Trial]) -> Proposal | None:
        """The baseline, then each choice in each stage; None once all were tried."""
        macro = _best(history, "macro")
        if macro is None or any(t.notes.get("phase") == "fill" for t in history):
            return None
        mine = [t for t in history if t.notes.get("phase") == "micro"]
        images = int(self._options.images * self._options.search_share * (1 - self._options.macro_images))
        each = images // (len(CHOICES) * STAGES + 2) or None
        if not mine:
            return Proposal(
                spec=macro.spec,
                parent=macro.index,
                images=each,
                reason="baseline of the micro phase: the macro network trained on",
                notes={"phase": "micro"},
            )
        tried = {(t.notes.get("choice"), t.notes.get("stage")) for t in mine}
        incumbent = self._incumbent(history)
        if incumbent is None:
            return None
        for choice in CHOICES:
            for stage in range(STAGES):
                if (choice, stage) in tried:
                    continue
                spec = self._chosen(incumbent.spec, choice, stage)
                if spec is not None:
                    return Proposal(
                        spec=spec,
                        parent=macro.index,
                        images=each,
                        reason=f"{choice} in stage {stage + 1}, from the macro network's weights",
                        notes={"phase": "micro", "choice": choice, "stage": stage},
                    )
        return None

    def _chosen(self, spec: NetworkSpec, choice: str, stage: int) -> NetworkSpec | None:
        """A network with a choice made in one stage, narrowed to keep the budget; None where that fails."""
        chain = self._space.chain(spec)
        layers = tuple(
            (kind, kernel)
            if chain.stage_of(i) != stage
            else (FULL, kernel)
            if choice == "full_conv"
            else (kind, 5)
            for i, (kind, kernel) in enumerate(chain.layers)
        )
        if layers == chain.layers:
            return None
        same = self._space.express(Chain(chain.width, layers))
        if self._fits(same):
            return same
        widest = self._widest(same)
        # The baseline's weights are cropped by a narrower chain; below half of it nothing is left of them.
        return widest if widest is not None and 2 * widest.stem.c_out >= spec.stem.c_out else None

    def _incumbent(self, history: Sequence[Trial]) -> Trial | None:
        """The micro phase's network so far: the baseline, or the last choice that was significant."""
        now: Trial | None = None
        for trial in candidates(history):
            if trial.notes.get("phase") != "micro":
                continue
            if now is None:
                now = trial
                continue
            gain, se = difference(trial, now)
            now = trial if gain > self._z * se else now
        return now or _best(history, "macro")

    def _fill(self, history: Sequence[Trial]) -> Proposal | None:
        """The found network as wide as the budget allows; None if it is already, or has been tried."""
        now = self._incumbent(history)
        if now is None:
            return None
        tried = [t for t in history if t.notes.get("phase") == "fill"]
        if any(t.evaluation is not None for t in tried) or len(tried) > self._options.patience:
            return None
        wider = self._widest(now.spec)
        if wider is None or wider.stem.c_out <= now.spec.stem.c_out:
            return None
        images = int(self._options.images * self._options.search_share * (1 - self._options.macro_images))
        return Proposal(
            spec=wider,
            parent=now.index,
            images=images // (len(CHOICES) * STAGES + 2) or None,
            reason="the found network as wide as the budget allows",
            notes={"phase": "fill"},
        )


def _best(history: Sequence[Trial], phase: str) -> Trial | None:
    """The most accurate network of a phase."""
    return next((t for t in by_accuracy(history) if t.notes.get("phase") == phase), None)
