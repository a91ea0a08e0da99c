"""What a training makes small: the cross-entropy, and the distance to a teacher."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hwnas.train.options import Recipe
from hwnas.train.precision import Compute


@dataclass(frozen=True)
class Teacher:
    """A trained network to learn from, and its multiply-accumulates for one image."""

    module: nn.Module
    macs: int


@dataclass(frozen=True, eq=False)
class Loss:
    """The loss of a training.

    Attributes:
        options: smoothing of labels, share and temperature of the teacher.
        class_weights: (classes,); None weighs all alike.
        teacher: with it, the loss is partly the distance to its predictions (`options.distill`).
        compute: how the teacher computes.
    """

    options: Recipe
    class_weights: Tensor | None
    teacher: Teacher | None
    compute: Compute

    def of(self, images: Tensor, logits: Tensor, targets: Tensor) -> Tensor:
        """Of the logits (batch, classes) for images; targets are labels or probabilities."""
        loss = self.entropy(logits, targets)
        if self.teacher is None:
            return loss
        return torch.lerp(loss, self._distance(images, logits), self.options.distill)

    def entropy(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy; the mean over the images, so that the parts of a batch add up."""
        smoothing, weights = self.options.label_smoothing, self.class_weights
        if weights is None:
            return F.cross_entropy(logits, targets, label_smoothing=smoothing)
        each = F.cross_entropy(logits, targets, label_smoothing=smoothing, reduction="none")
        return (each * (weights[targets] if targets.ndim == 1 else targets @ weights)).mean()

    def _distance(self, images: Tensor, logits: Tensor) -> Tensor:
        """Kullback-Leibler divergence from the teacher, softened (Hinton et al. 2015, section 2)."""
        assert self.teacher is not None
        warm = self.options.temperature
        with torch.no_grad(), self.compute.autocast():
            taught = self.teacher.module(images).float()
        student, goal = F.log_softmax(logits / warm, 1), F.log_softmax(taught / warm, 1)
        return F.kl_div(student, goal, reduction="batchmean", log_target=True) * warm * warm
