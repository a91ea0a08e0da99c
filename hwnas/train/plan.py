"""What a step of a training does, as functions of the options and the step alone."""

from __future__ import annotations

import math
from dataclasses import asdict
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hwnas.errors import InputError
from hwnas.spec import NetworkSpec
from hwnas.train.data import Dataset
from hwnas.train.options import Recipe

# Steps that a training should have, and the batch that learning rates are given for.
ENOUGH_STEPS, USUAL_BATCH, SMALLEST_BATCH = 150, 128, 8
# Multiple of the loss of guessing above which a learning rate is too high, once so many images were seen, and
# before: the loss of few images is noise. In trainings of 250 to 1,000 images in steps of 8 it was above that
# of guessing after 30 steps in 31 of 48, and to begin those again made 27 of the 31 worse, by up to 42 points
# (docs/evidence/training.md).
TOLD, PATIENT, HOPELESS = 2_000, 1.02, 2.0


def batch_of(options: Recipe, available: int) -> int:
    """Images per step, of a data set that has `available`; see `Recipe.batch`."""
    if options.batch is not None:
        return min(options.batch, available)
    fitting = 1 << (max(options.images // ENOUGH_STEPS, 1).bit_length() - 1)  # a power of two
    return min(max(fitting, SMALLEST_BATCH), USUAL_BATCH, available)


def steps_of(options: Recipe, available: int) -> int:
    """Number of steps: the images in equal batches as near to `batch_of` as they come."""
    return max(1, round(options.images / batch_of(options, available)))


def peak(options: Recipe, available: int) -> float:
    """Peak learning rate at the batch that is used; see `Recipe.lr`."""
    return options.lr * math.sqrt(batch_of(options, available) / USUAL_BATCH)


def course(options: Recipe, step: int, steps: int) -> float:
    """Learning rate of a step, from 0 to `steps` - 1, as a fraction of its peak.

    ``onecycle`` rises linearly from a tenth of the peak (Smith and Topin 2017); both schedules fall
    along half a cosine (Loshchilov and Hutter 2017) to `final_lr` of the peak.
    """
    at = (step + 0.5) / steps
    rise = 0.0 if options.schedule == "cosine" else options.warmup
    if at < rise:
        return 0.1 + 0.9 * at / rise
    if options.schedule == "linear":
        return options.final_lr + (1.0 - options.final_lr) * (1.0 - at) / (1.0 - rise)
    fall = 0.5 * (1.0 + math.cos(math.pi * (at - rise) / (1.0 - rise))) if rise < 1.0 else 1.0
    return options.final_lr + (1.0 - options.final_lr) * fall


def tested_at(options: Recipe, steps: int, stride: int) -> int:
    """The step, a multiple of `stride`, after which the rate is tested: once it has been at its peak."""
    rise = 0.1 if options.schedule == "cosine" else options.warmup
    return stride * max(3, math.ceil(rise * steps / stride))


def too_high(options: Recipe, steps: int, step: int, loss: float, guessing: float) -> bool:
    """Whether the loss after so many of the steps says that the learning rate is too high.

    Args:
        options: of the training.
        steps: of the training.
        step: how many are done.
        loss: after them, smoothed.
        guessing: loss of a network that answers every class alike.
    """
    seen = options.images * step / steps
    return not loss <= (PATIENT if seen >= TOLD else HOPELESS) * guessing


def batch_at(images: int, available: int, step: int, steps: int, seed: int) -> Tensor:
    """Which images per step sees: its share of an endless row of shuffled passes over the data.

    Shares differ by at most one image, and together they are exactly `images`.
    """
    first, last = images * step // steps, images * (step + 1) // steps
    parts = []
    while first < last:
        turn, begin = divmod(first, available)
        end = min(available, begin + last - first)
        parts.append(_pass(available, seed, turn)[begin:end])
        first += end - begin
    return torch.from_numpy(np.concatenate(parts))


def repeated(at: Tensor, times: int) -> Tensor:
    """The first of these places, each so many times, and as many in all (Hoffer et al. 2020)."""
    return at if times == 1 else at.repeat_interleave(times)[: len(at)]


def balanced(labels: Tensor, classes: int) -> Tensor:
    """Weight of an image by its class: the inverse of the class's size, with a mean of 1 over the images."""
    counts = torch.bincount(labels, minlength=classes)
    return len(labels) / (classes * counts.clamp(min=1).float())


@lru_cache(maxsize=2)
def _pass(available: int, seed: int, turn: int) -> Any:
    return np.random.default_rng([seed, 1, turn]).permutation(available)


def deciding(options: Recipe) -> dict[str, Any]:
    """The options that decide a training's result, as JSON types (device and threads apart)."""
    apart = ("threads", "checkpoint_s", "device", "precision", "flip", "shift", "cutout", "mixup")
    return {name: value for name, value in asdict(options).items() if name not in apart}


def check_fit(spec: NetworkSpec, dataset: Dataset) -> None:
    """InputError where a network and a data set do not fit together."""
    if spec.input_shape != dataset.input_shape or spec.classes != len(dataset.classes):
        shapes = ["x".join(map(str, shape)) for shape in (spec.input_shape, dataset.input_shape)]
        raise InputError(
            f"the network takes {shapes[0]} and gives {spec.classes} classes, but {dataset.name} has images "
            f"of {shapes[1]} in {len(dataset.classes)} classes"
        )
