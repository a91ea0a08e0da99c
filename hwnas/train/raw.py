"""What a source of images gives: pictures and labels in one to three parts, and what was left out."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hwnas.arrays import Int64s


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Images uint8 (n, C, H, W) and their labels int64 (n,)."""

    images: torch.Tensor
    labels: Int64s


@dataclass(frozen=True)
class LeftOut:
    """One image that is not used, and why."""

    what: str
    reason: str


@dataclass(frozen=True, eq=False)
class Raw:
    """What a source holds.

    `train` is for training, and for validation and test where the source has none of its own. `where` is
    for messages; `left_out` names images that cannot be used, `notes` says what else was not read.
    """

    where: str
    classes: tuple[str, ...]
    train: LabelledImages
    val: LabelledImages | None = None
    test: LabelledImages | None = None
    mirrors: bool = True
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()
