"""Options of `Fit`."""

from __future__ import annotations

from dataclasses import dataclass

from hwnas.options import option
from hwnas.plugins import names
from hwnas.search import options


@dataclass(frozen=True)
class FitOptions(options.SeveralBudgets):
    """Options of `Fit`.

    Attributes:
        images: training images of the whole search, fine-tuning included.
        importance: where it comes from how much a changed piece is missed.
        judged: validation images for each changed piece.
        rate: learning rate of the fine-tuning, as a part of the recipe's.
        distill: whether the model as it was teaches its variants.
        frozen_below: with fewer images in all, batch norm keeps its statistics in fine-tuning.
        first: part of `images` for the model itself, where its head is new.
        looks: variants for each budget that are looked at whole before one is fine-tuned.
        depth: weight of lost depth beside what is missed (`worth`).
        repeat: what one more copy of a piece is taken to bring, as a part of what the piece is missed.
    """

    importance: str = option("missed", "How it is found what a piece is worth.", choices=names("removals"))
    judged: int = option(512, "Validation images for each changed piece.", low=2, high=1_000_000)
    rate: float = option(0.2, "Learning rate of fine-tuning, as a part of the recipe's.", above=0, high=1)
    distill: bool = option(True, "Whether the model as it was teaches its variants.")
    frozen_below: int = option(
        2_000, "With fewer images in all, batch norm keeps its statistics in fine-tuning.", low=0
    )
    first: float = option(0.3, "Part of the images for the model itself, if its head is new.", low=0, high=1)
    looks: int = option(
        8, "Variants for each budget that are looked at whole before one is fine-tuned.", low=1, high=1_000
    )
    depth: float = option(
        1.0,
        "Weight of lost depth, in mean rises of the loss where a piece is dropped.",
        low=0,
        high=1_000,
    )
    repeat: float = option(
        0.1, "Worth of one more copy of a piece, as a part of what the piece is missed.", low=0, high=1
    )
