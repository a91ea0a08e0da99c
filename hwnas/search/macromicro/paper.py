"""The published walk of Efficient Global NAS behind the strategy door.

`macromicro.walk` decides; a latency budget is an addition that only refuses: a candidate over it is
told to the walk as worse than any accuracy. Choices are made on the validation split (the published
runs chose on the test set), by the accuracy after a training (published: the best of its epochs).
"""

from __future__ import annotations

from collections.abc import Sequence

from hwnas.nets.macromicro.space import MacroMicro
from hwnas.protocols import SearchContext
from hwnas.records import Proposal, Trial
from hwnas.search.macromicro.controller import REFUSED, ChainCandidate, WalkOptions, advance, found
from hwnas.search.ranking import accuracy, by_accuracy
from hwnas.spec import NetworkSpec

# Epochs of a walk: the ten published ones took 400 to 1042, 715 on average.
USUAL_EPOCHS = 700


class PaperWalk:
    """The published controller as proposals; a function of the history."""

    def __init__(
        self,
        context: SearchContext,
        max_width: int,
        max_depth: int,
        epoch_images: int,
        images: int,
        space: MacroMicro,
    ) -> None:
        """Args: the walk's limits (0: the space's and the budget's); `images` of the whole walk."""
        self._context, self._space = context, space
        self._epoch_images = epoch_images or images // USUAL_EPOCHS
        self._max_width = max_width
        self._max_depth = max_depth or space.depth[1]
        self._shape = (space.input_shape[0], space.classes)

    def _options(self, history: Sequence[Trial]) -> WalkOptions:
        """Limits of the walk; its greatest width was settled with the first trial."""
        width = history[0].spec.stem.c_out // 2 if history else self._max_width or self._widest()
        low, high = self._space.width
        least = max(low, min(WalkOptions.min_width, width))
        return WalkOptions(
            max_width=min(max(width, least), high),
            min_width=least,
            min_depth=self._space.depth[0],
            max_depth=max(self._max_depth, self._space.depth[0]),
        )

    def _widest(self) -> int:
        """The widest shallow chain that keeps the budget."""
        fits = self._context.budget.fits
        low, high = self._space.width
        widths = range(high, low - 1, -WalkOptions.width_resolution)
        shallow = (
            w for w in widths if fits(self._context.estimate(self._space.network(self._space.depth[0], w)))
        )
        return next(shallow, low)

    def propose(self, history: Sequence[Trial]) -> list[Proposal]:
        """The next candidate; empty when the walk has ended."""
        chosen = advance(self._options(history), self._shape, _accuracies(history))
        if chosen is None:
            return []
        images = chosen.epochs * self._epoch_images
        return [
            Proposal(
                spec=self._network(chosen),
                images=images or None,
                reason=f"published walk: {chosen.depth} layers, width {chosen.width}, {chosen.epochs} epochs",
                notes={"epochs": chosen.epochs, "depth": chosen.depth, "width": chosen.width},
            )
        ]

    def rank(self, trials: Sequence[Trial]) -> list[Trial]:
        """The network of the walk, then that of its macro phase, then by accuracy."""
        if not trials:
            return []
        walked = found(self._options(trials), self._shape, _accuracies(trials))
        macro, micro = (self._network(one).key for one in walked)
        return sorted(by_accuracy(trials), key=lambda t: (t.spec.key != micro, t.spec.key != macro))

    def _network(self, chosen: ChainCandidate) -> NetworkSpec:
        width = max(chosen.width, self._space.width[0])
        return self._space.network(chosen.depth, width, chosen.full_conv, chosen.kernel5)


def _accuracies(history: Sequence[Trial]) -> list[float]:
    """Top-1 in percent of each trial, as the walk is told."""
    return [100 * accuracy(t) if t.evaluation is not None else REFUSED for t in history]
