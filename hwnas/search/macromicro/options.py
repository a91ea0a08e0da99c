"""Options of strategy ``macromicro``, and the training length that it gives a chain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hwnas.errors import InputError
from hwnas.search import options
from hwnas.spec import NetworkSpec


@dataclass(frozen=True)
class MacroMicroOptions:
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

    images: int = 0
    search_share: float = 0.5
    macro_share: float = 0.85
    macro_images: float = 0.6
    ladder: float = 1.3
    patience: int = 2
    confidence: float = 0.95
    length_macs: float = 0.25
    length_width: float = 0.5
    fidelity: Literal["default", "paper"] = "default"
    max_width: int = 0
    max_depth: int = 0
    epoch_images: int = 0
    targets_ms: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        options.choice("fidelity", self.fidelity, ("default", "paper"))
        if self.ladder <= 1.0:
            raise InputError(f"option ladder is {self.ladder}; depths only grow if it is above 1")
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
