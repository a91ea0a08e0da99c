"""Options of strategy ``families``."""

from __future__ import annotations

from dataclasses import dataclass

from hwnas.options import option
from hwnas.search.auto.options import AutoOptions


@dataclass(frozen=True)
class FamiliesOptions(AutoOptions):
    """Options of `FamilyRace`: those of `Auto`, which searches the winner's family, and of the race before.

    Attributes:
        race_share: part of `images` for comparing families by short trainings.
        race_images: least images of the first training of a contestant; fewer contestants begin where the
            share does not suffice for all.
        entries: most contestants of the first round.
        used: part of the budget that a contestant is to use, where its family reaches it.
    """

    race_share: float = option(0.2, "Part of images for comparing families.", above=0, below=1)
    race_images: int = option(1_500, "Fewest images of a first training.", low=1)
    entries: int = option(27, "Most contestants of the first round.", low=2, high=1_000)
    used: float = option(0.8, "Part of the budget that a contestant is to use.", low=0, below=1)
