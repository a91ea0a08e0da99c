"""Options of strategy ``stagewise``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hwnas.options import option
from hwnas.plugins import names
from hwnas.search import options

# Largest part of all training images that growing may take.
MOST_SHARE = 0.3


@dataclass(frozen=True)
class StagewiseOptions(options.SeveralBudgets):
    """Options of `Stagewise`.

    Attributes:
        images: training images of the whole search, final training included; 0 leaves each
            training to the evaluator's default.
        search_share, least_images: part of `images` for growing, judging included, but at least so
            many (and never more than `MOST_SHARE`); the rest trains what is kept.
        start_share: part of the growing for the first, shallow network.
        judge_share: part of the growing after it that goes into judging growths.
        rounds: growths aimed at; each adds about as many milliseconds.
        confidence: one-sided level at which a gain counts as significant.
        patience: how often a network is trained further when nothing is significant, before the
            search ends as converged.
        importance: where gains come from: ``gradient``, ``probe`` (importance of the trained network
            itself) or ``vip`` (compared with a temporary network, deeper in every stage).
        growing_lr: learning rate of the rounds as a part of the recipe's.
        begin: ``smallest`` judges every growth, from the smallest network on; ``uniform`` from the
            largest uniform member within `begin_share` of the (smallest) budget on; ``unjudged`` grows
            that one by size alone (`by_size`). ``auto`` takes the first where depth is all that grows.
            Where widths do too, the smallest network is too thin to be a start, and it takes the second,
            or the third if images are too few for gradients to tell kinds of growth apart.
        begin_share: see `begin`.
        fidelity: ``default``, or ``paper`` for the published controller.
        growth_step, iterations, start: of the published controller: blocks added to a stage, times
            that it may grow, blocks a stage of the first network.
    """

    search_share: float = option(0.05, "Part of images for growing, judging included.", low=0, high=1)
    least_images: int = option(3_000, "Fewest images for growing.", low=0)
    start_share: float = option(0.4, "Part of the growing images for the first network.", above=0, below=1)
    judge_share: float = option(
        0.7, "Part of the remaining growing images that judges growths.", above=0, below=1
    )
    rounds: int = option(5, "Number of growths to aim at.", low=1, high=1_000)
    confidence: float = option(
        0.95, "One-sided level at which a gain counts as significant.", above=0.5, below=1
    )
    patience: int = option(
        2, "How often a network is trained further when no gain is significant.", low=0, high=1_000
    )
    importance: str = option("gradient", "Where gains come from.", choices=names("importances"))
    growing_lr: float = option(
        0.1, "Learning rate of the rounds, as a factor on the recipe's.", above=0, high=1
    )
    begin: Literal["auto", "smallest", "uniform", "unjudged"] = option(
        "auto", "Where growth starts, and whether growths are judged."
    )
    begin_share: float = option(
        0.5, "Part of the smallest budget that a uniform start may use.", above=0, high=1
    )
    fidelity: Literal["default", "paper"] = option("default", "`default`, or `paper` for the published form.")
    growth_step: int = option(2, "Blocks added to a stage; published controller only.", low=1, high=1_000)
    iterations: int = option(5, "Most growths of a stage; published controller only.", low=1, high=1_000)
    start: int = option(
        2, "Blocks per stage of the first network; published controller only.", low=1, high=1_000
    )

    @property
    def growing(self) -> int:
        """Training images for growing."""
        return int(min(max(self.images * self.search_share, self.least_images), self.images * MOST_SHARE))
