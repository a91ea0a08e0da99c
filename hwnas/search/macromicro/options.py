"""Options of strategy ``macromicro``, and the training length that it gives a chain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hwnas.errors import InputError
from hwnas.options import option
from hwnas.search import options
from hwnas.spec import NetworkSpec


@dataclass(frozen=True)
class MacroMicroOptions(options.TrainingOptions):
    """Options of `GlobalWalk`.

    Attributes:
        images: training images of the whole search, final training included; 0 leaves each
            training to the evaluator's default.
        search_share: part of `images` for the walk.
        macro_share: part of the latency budget that the macro phase may use; the rest is for the
            micro phase's operators, and then for width.
        macro_images: part of the walk's images for the macro phase.
        ladder: factor from one depth to the next.
        patience: significant losses that the ladder survives.
        confidence: one-sided level at which a difference counts as significant.
        length_macs, length_width: exponents of the training length (`length`).
        fidelity: ``default``, or ``paper`` for the published controller, whose options follow.
        max_width: widest chain of the published walk; 0 takes the widest that keeps the budget.
        max_depth: deepest chain; 0 takes the space's.
        epoch_images: images of an epoch; 0 shares `images` * `search_share` out over the epochs of
            a usual walk (`global_paper.USUAL_EPOCHS`).
        targets_ms: refused; this search is for one budget.
    """

    search_share: float = option(0.5, "Part of images for the walk.", low=0, high=1)
    macro_share: float = option(0.85, "Part of the budget that the macro phase may use.", above=0, high=1)
    macro_images: float = option(0.6, "Part of the walk's images for the macro phase.", above=0, below=1)
    ladder: float = option(1.3, "Ratio of each depth to the depth before it.", above=1, high=1_000)
    patience: int = option(2, "Significant losses tolerated before the depth ladder ends.", low=0, high=1_000)
    confidence: float = option(
        0.95, "One-sided level at which a difference counts as significant.", above=0.5, below=1
    )
    length_macs: float = option(0.25, "Exponent of MACs in the training length.", low=0, high=10)
    length_width: float = option(0.5, "Exponent of width in the training length.", low=0, high=10)
    fidelity: Literal["default", "paper"] = option("default", "`default`, or `paper` for the published form.")
    max_width: int = option(
        0, "Largest width of the published walk; 0 is the largest within the budget.", low=0, high=1_000_000
    )
    max_depth: int = option(0, "Largest depth; 0 is the space's.", low=0, high=1_000_000)
    epoch_images: int = option(0, "Images per epoch; 0 divides images over the epochs.", low=0)
    targets_ms: tuple[float, ...] = option((), "Not allowed: this strategy searches for one budget.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.targets_ms:
            raise InputError("strategy macromicro searches for one budget at a time; run it once for each")


def length(
    spec: NetworkSpec, reference: NetworkSpec, macs: tuple[float, float], exponents: tuple[float, float]
) -> float:
    """Training length of a chain as a factor on the reference's: architecture-aware approximation.

    (macs / reference macs)^a * (reference width / width)^b. Published are 1 epoch more for a layer and
    2 more for two channels fewer, which is about a = 1, b = 1.5 over the published walks.

    Args:
        spec, reference: chains.
        macs: of the two.
        exponents: a and b.
    """
    width = reference.stem.c_out / spec.stem.c_out
    return float((macs[0] / macs[1]) ** exponents[0] * width ** exponents[1])
