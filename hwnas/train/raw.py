"""What a source of images gives: pictures and labels in one to three parts, and what was left out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from hwnas.arrays import Int64s, Uint8s
from hwnas.train.mapped import MappedImages, Pixels

# The picture at a place, (H, W, C), upright, as large as the source has it.
Originals = Callable[[int], Uint8s]


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Images uint8 (n, C, H, W), in memory or in a file, and their labels int64 (n,).

    `originals` gives the pictures that the images were cropped and resized from; None where the source has
    them in this size only.
    """

    images: Pixels
    labels: Int64s
    originals: Originals | None = None


def chosen_of(images: Pixels, places: torch.Tensor) -> Pixels:
    """Images at some places. Images that were not decoded are one empty picture, and stay so."""
    if isinstance(images, MappedImages):
        return images.chosen(places)
    return images[: len(places)] if images.stride(0) == 0 else images[places]


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
