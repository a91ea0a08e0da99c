"""Augmentation of a whole batch at once, on tensors in memory; every image draws its own.

All randomness comes from the numpy generator that is passed in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from hwnas.arrays import Int64s
from hwnas.errors import InputError
from hwnas.options import Checked, option

if TYPE_CHECKING:
    from hwnas.train.data import Dataset
    from hwnas.train.options import Recipe


@dataclass(frozen=True)
class AugmentOptions(Checked):
    """What is done to training images; zero and False switch a part off.

    Attributes:
        shift: largest shift in pixels each way (the usual padded random crop; the rim is reflected).
        flip: mirror half of the images left to right.
        cutout: side in pixels of a square that is set to the mean colour (DeVries and Taylor 2017).
        mixup: alpha of the Beta distribution that mixes pairs of images (Zhang et al. 2018).
    """

    WHAT = "augmentation"

    shift: int = option(0, "Random shift: largest distance in pixels.", low=0, high=4_096)
    flip: bool = option(False, "Mirror half of the images left to right.")
    cutout: int = option(0, "Cutout: side in pixels of a square set to the mean colour.", low=0, high=4_096)
    mixup: float = option(0.0, "Mixup: alpha of the Beta distribution; 0 turns it off.", low=0)


def chosen(recipe: Recipe, dataset: Dataset) -> AugmentOptions:
    """What a recipe asks for; where it leaves that open, what suits the data set.

    That is shifts by a sixteenth of the side, rounded up, and flips where mirrors keep their class.
    """
    _, height, width = dataset.input_shape
    side = min(height, width)
    shift = -(-side // 16) if recipe.shift is None else recipe.shift
    if shift >= side:
        raise InputError(f"augmentation shift {shift} is not smaller than the image ({height}x{width})")
    flip = dataset.mirrors if recipe.flip is None else recipe.flip
    return AugmentOptions(shift=shift, flip=flip, cutout=recipe.cutout, mixup=recipe.mixup)


def crop_flip(images: Tensor, at: Tensor, options: AugmentOptions, rng: np.random.Generator) -> Tensor:
    """Gather images from their data set, each shifted and perhaps mirrored.

    One gather of pixels does all of it: no padded copy of the data set, no loop over images.

    Args:
        images: uint8 (n, C, H, W), stored channels last.
        at: int64 (batch,), which images.
        options: `shift` and `flip` are used.
        rng: decides.

    Returns:
        uint8 (batch, C, H, W), stored channels last.
    """
    _, channels, height, width = images.shape
    batch = len(at)
    if options.shift >= min(height, width):
        raise InputError(
            f"augmentation shift {options.shift} is not smaller than the image ({height}x{width})"
        )
    shift = rng.integers(-options.shift, options.shift + 1, size=(2, batch, 1))
    rows = _reflect(np.arange(height) + shift[0], height)
    columns = _reflect(np.arange(width) + shift[1], width)
    if options.flip:
        mirrored = rng.random((batch, 1)) < 0.5
        columns = np.where(mirrored, columns[:, ::-1], columns)
    pixel = torch.from_numpy(rows[:, :, None] * width + columns[:, None, :]).to(at.device)
    pixel += at[:, None, None] * (height * width)
    # Channels last makes each pixel one row of a matrix; selecting rows is what memory does fastest.
    flat = images.permute(0, 2, 3, 1).reshape(-1, channels)
    picked = flat.index_select(0, pixel.flatten()).view(batch, height, width, channels)
    return picked.permute(0, 3, 1, 2)


def _reflect(at: Int64s, size: int) -> Int64s:
    """Places outside 0..size-1 mirrored at the first or the last one, without repeating it."""
    inside: Int64s = (size - 1) - np.abs((size - 1) - np.abs(at))
    return inside


def cutout(batch: Tensor, side: int, rng: np.random.Generator) -> Tensor:
    """Set one square an image to zero, in place; `batch` is normalised, so zero is the mean colour.

    Centres are uniform over the pixels, so that a square may stick out, as in the paper.
    """
    count, _, height, width = batch.shape
    inside = []
    for size in (height, width):
        start = rng.integers(0, size, size=(count, 1)) - side // 2
        place = np.arange(size)
        inside.append((start <= place) & (place < start + side))
    rows, columns = (torch.from_numpy(part).to(batch.device) for part in inside)
    return batch.masked_fill_(rows[:, None, :, None] & columns[:, None, None, :], 0.0)


def mixup(batch: Tensor, targets: Tensor, alpha: float, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Mix every image and its target with those of another image of the batch.

    Args:
        batch: normalised images (n, C, H, W).
        targets: class probabilities (n, classes).
        alpha: both parameters of the Beta distribution of the weight.
        rng: decides.
    """
    weight = torch.from_numpy(rng.beta(alpha, alpha, len(batch)).astype(np.float32)).to(batch.device)
    other = torch.from_numpy(rng.permutation(len(batch))).to(batch.device)
    mixed = torch.lerp(batch[other], batch, weight[:, None, None, None])
    return mixed, torch.lerp(targets[other], targets, weight[:, None])
