"""Options of strategy ``stagewise``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hwnas.search import options

# Largest part of all training images that growing may take.
MOST_SHARE = 0.3


@dataclass(frozen=True)
class StagewiseOptions:
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
        targets_ms: smaller budgets, in milliseconds, to be filled on the way.
        fidelity: ``default``, or ``paper`` for the published controller.
        growth_step, iterations, start: of the published controller: blocks added to a stage, times
            that it may grow, blocks a stage of the first network.
    """

    images: int = 0
    search_share: float = 0.05
    least_images: int = 3_000
    start_share: float = 0.4
    judge_share: float = 0.7
    rounds: int = 5
    confidence: float = 0.95
    patience: int = 2
    importance: Literal["gradient", "probe", "vip"] = "gradient"
    growing_lr: float = 0.1
    begin: Literal["auto", "smallest", "uniform", "unjudged"] = "auto"
    begin_share: float = 0.5
    targets_ms: tuple[float, ...] = ()
    fidelity: Literal["default", "paper"] = "default"
    growth_step: int = 2
    iterations: int = 5
    start: int = 2

    def __post_init__(self) -> None:
        options.choice("fidelity", self.fidelity, ("default", "paper"))
        options.choice("importance", self.importance, ("probe", "gradient", "vip"))
        options.choice("begin", self.begin, ("auto", "smallest", "uniform", "unjudged"))

    @property
    def growing(self) -> int:
        """Training images for growing."""
        return int(min(max(self.images * self.search_share, self.least_images), self.images * MOST_SHARE))
