"""The images of each step of a training, a function of (options, step): nothing is carried along."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hwnas.train import augment, plan
from hwnas.train.data import Dataset, normalise
from hwnas.train.mapped import taken
from hwnas.train.options import Recipe


class Batches:
    """Augmented, normalised batches of the training split, on one device.

    Attributes:
        augment: what is done to images.
        class_weights: (classes,) float32 of the loss where classes are balanced, else None.
    """

    def __init__(self, dataset: Dataset, options: Recipe, steps: int, device: torch.device) -> None:
        """Images that fit into memory move to the device."""
        self._options, self._steps = options, steps
        self._mean, self._std, self._classes = dataset.mean, dataset.std, len(dataset.classes)
        self.augment = augment.chosen(options, dataset)
        kept = dataset.train.pixels
        self._images = kept.to(device) if isinstance(kept, Tensor) else kept
        self._labels = dataset.train.labels.to(device)
        balanced = options.class_weights == "balanced"
        self.class_weights = plan.balanced(self._labels, self._classes) if balanced else None

    def at(self, step: int) -> tuple[Tensor, Tensor]:
        """Images (batch, channels, height, width) and their targets: labels (batch,), or probabilities
        (batch, classes) where images are mixed.
        """
        options = self._options
        rng = np.random.default_rng([options.seed, 2, step])
        at = plan.batch_at(options.images, len(self._labels), step, self._steps, options.seed)
        at = plan.repeated(at, options.repeats).to(self._labels.device)
        pixels = augment.crop_flip(*taken(self._images, at), self.augment, rng)
        images, targets = normalise(pixels, self._mean, self._std), self._labels[at]
        if self.augment.cutout:
            images = augment.cutout(images, self.augment.cutout, rng)
        if self.augment.mixup:
            hot = F.one_hot(targets, self._classes).float()
            return augment.mixup(images, hot, self.augment.mixup, rng)
        return images, targets
