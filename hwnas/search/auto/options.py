"""Options of strategy ``auto``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hwnas.errors import InputError
from hwnas.options import option
from hwnas.search.stagewise.options import StagewiseOptions


@dataclass(frozen=True)
class AutoOptions(StagewiseOptions):
    """Options of `Auto`: those of `Stagewise`, and the parts of the latency budget.

    Attributes:
        macro_share: for depth and width.
        vital_share: for these and the vital blocks' operators; the rest is for the other blocks.
        score: ``gains`` of growths, ``proxy`` for the untrained score, or ``auto`` by number of images.
    """

    macro_share: float = option(0.6, "Part of the budget for depth and width.", above=0, high=1)
    vital_share: float = option(0.8, "For these and the vital blocks' operators.", above=0, high=1)
    score: Literal["auto", "gains", "proxy"] = option(
        "auto", "What decides: the measured gains of growths, or the untrained score."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fidelity != "default" or self.importance == "vip":
            raise InputError(
                "strategy auto has no published form, and vip does not judge operators; use --fidelity paper "
                "and --importance vip with --strategy stagewise"
            )
        if self.macro_share > self.vital_share:
            raise InputError(
                f"macro_share {self.macro_share} and vital_share {self.vital_share} must be in ascending "
                "order and between 0 and 1"
            )
