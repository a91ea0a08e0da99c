"""How much a piece of a trained model is missed where it is dropped or narrower.

One piece is changed, what stays is fitted to what it gave (`nets.model.refit`), batch norm finds the new
statistics, and the rise of the loss is taken on images that the model was not trained on.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hwnas.nets.build import inherit, refitter
from hwnas.nets.norms import BATCH, recalibrate
from hwnas.protocols import Autocast, Question
from hwnas.records import StageImportance
from hwnas.search.importance.halves import halves, importance


@torch.no_grad()
def losses(module: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of every image, (n,), in eval mode."""
    parts = [
        F.cross_entropy(module(part).float(), at, reduction="none")
        for part, at in zip(torch.split(images, BATCH), torch.split(labels, BATCH))
    ]
    return torch.cat(parts)


@dataclass(frozen=True)
class Missed:
    """Rise of the loss where one piece is changed: half of the images for batch norm, half for the loss.

    Attributes:
        images: for each changed network.
        autocast: context of the forward pass, for half precision.
    """

    images: int = 512
    autocast: Autocast = nullcontext

    def __call__(self, question: Question) -> tuple[StageImportance, ...]:
        """One value for every change; see `hwnas.protocols.Importance`."""
        images, labels = question.images, question.labels
        first, held = halves(question, self.images)
        seen = images[first]
        with self.autocast():
            before = losses(question.module.eval(), images[held], labels[held])
            refit = refitter(question.module, question.spec, seen)
            found = []
            for move in question.moves:
                changed = inherit(question.module, question.spec, move.spec, seed=0)
                refit(changed, move.spec)
                recalibrate(changed, seen)
                rise = losses(changed, images[held], labels[held]) - before
                # Diverged statistics say that it cannot be missed more; the value must stay a number.
                rise = torch.nan_to_num(rise, nan=1e3, posinf=1e3, neginf=-1e3)
                found.append(importance(move, rise))
        return tuple(found)
