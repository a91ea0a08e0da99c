"""Options of the strategy `densenas`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from hwnas.options import option
from hwnas.search import options


@dataclass(frozen=True)
class DenseNasOptions(options.SeveralBudgets):
    """Options of `DenseNas`.

    Attributes:
        images: training images of the candidates and the final training together; 0 leaves each
            training to the evaluator's default.
        share: part of all images of a search that the super-network takes.
        trial_share: part of `images` for the candidates' own trainings, spread evenly; the winner of
            each budget gets the rest.
        spares: 1 trains, for each budget, a candidate of 95 % of it as well, which wins where the
            first breaks its promise when measured; 0 leaves it out.
        least: part of a budget that a derived network is to use where the space allows.
        prior: weight of the untrained score to begin with (`choice.Chooser`).
        epochs: of the super-network, a pass over weights and one over the architecture each.
        warmup: part of the epochs that train weights only.
        fidelity: ``default``, or ``paper`` for the published loss ``CE + lam log_tau(cost)`` and no
            prior; the derived network that overruns a budget is still replaced by the best within.
        lam, tau: of the published loss.
        cost: what the super-network's loss holds: ``latency``, as predicted, or ``macs``, for which the
            target is the limit on MACs (``--max-macs``). What is derived keeps the latency either way.
        score: ``learned`` by a super-network; ``proxy`` leaves it out, and the untrained score alone
            decides; ``auto`` trains one where its share of the images is at least `options.LEARNABLE`.
        scores: what was learned: ``edges`` and ``layers`` of `derive.Scores`, ``trust`` of
            `derive.Trust` (1 and 1 where left out).
    """

    share: float = option(0.25, "Part of all images that the super-network takes.", above=0, below=1)
    trial_share: float = option(0.08, "Part of images for the candidates' own trainings.", above=0, high=0.5)
    spares: int = option(1, "1 trains a candidate of 95 % of each budget as well.", low=0, high=1)
    least: float = option(0.9, "Least part of a budget that a derived network must use.", low=0, high=1)
    prior: float = option(0.02, "Initial weight of the untrained score.", low=0)
    epochs: int = option(8, "Epochs of the super-network.", low=2, high=10_000)
    warmup: float = option(0.35, "Part of the epochs that train weights only.", above=0, below=1)
    fidelity: Literal["default", "paper"] = option("default", "`default`, or `paper` for the published form.")
    lam: float = option(0.15, "Weight of the cost in the published loss.", low=0)
    tau: float = option(15.0, "Base of the logarithm in the published loss.", above=1)
    cost: Literal["latency", "macs"] = option("latency", "Cost in the super-network's loss.")
    score: Literal["auto", "learned", "proxy"] = option(
        "auto", "Whether a super-network is trained for the scores."
    )
    scores: Mapping[str, Any] | None = option(None, "Learned scores; set by the search.")

    def learns(self, images: int) -> bool:
        """Whether a search of so many training images trains a super-network."""
        if self.score != "auto" or self.fidelity == "paper":
            return self.score != "proxy"
        return self.share * images >= options.LEARNABLE
