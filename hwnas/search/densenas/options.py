"""Options of the strategy `densenas`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from hwnas.errors import InputError
from hwnas.search import options


@dataclass(frozen=True)
class DenseNasOptions:
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
        prior: weight of the untrained score to begin with (`dense_choice.Chooser`).
        epochs: of the super-network, a pass over weights and one over the architecture each.
        warmup: part of the epochs that train weights only.
        fidelity: ``default``, or ``paper`` for the published loss ``CE + lam log_tau(cost)`` and no
            prior; the derived network that overruns a budget is still replaced by the best within.
        lam, tau: of the published loss.
        cost: what the super-network's loss holds: ``latency``, as predicted, or ``macs``, for which the
            target is the limit on MACs (``--max-macs``). What is derived keeps the latency either way.
        score: ``learned`` by a super-network; ``proxy`` leaves it out, and the untrained score alone
            decides; ``auto`` trains one where its share of the images is at least `options.LEARNABLE`.
        scores: what was learned: ``edges`` and ``layers`` of `dense_derive.Scores`, ``trust`` of
            `dense_derive.Trust` (1 and 1 where left out).
        targets_ms: smaller budgets, in milliseconds.
    """

    images: int = 0
    share: float = 0.25
    trial_share: float = 0.08
    spares: int = 1
    least: float = 0.9
    prior: float = 0.02
    epochs: int = 8
    warmup: float = 0.35
    fidelity: Literal["default", "paper"] = "default"
    lam: float = 0.15
    tau: float = 15.0
    cost: Literal["latency", "macs"] = "latency"
    score: Literal["auto", "learned", "proxy"] = "auto"
    scores: Mapping[str, Any] | None = None
    targets_ms: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        options.choice("fidelity", self.fidelity, ("default", "paper"))
        options.choice("cost", self.cost, ("latency", "macs"))
        options.choice("score", self.score, ("auto", "learned", "proxy"))
        if not (0 < self.share < 1 and 0 < self.trial_share <= 0.5 and 0 < self.warmup < 1):
            raise InputError("share, trial_share (at most 0.5) and warmup of densenas lie between 0 and 1")
        if not (0 <= self.least <= 1 and self.prior >= 0 and self.spares in (0, 1) and self.epochs >= 2):
            raise InputError(
                "densenas takes least from 0 to 1, prior of at least 0, spares 0 or 1, epochs of at least 2"
            )

    def learns(self, images: int) -> bool:
        """Whether a search of so many training images trains a super-network."""
        if self.score != "auto" or self.fidelity == "paper":
            return self.score != "proxy"
        return self.share * images >= options.LEARNABLE
