"""How well a network does on a split of a data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from hwnas import top_losses
from hwnas.arrays import Uint8s
from hwnas.backends import images as prepared
from hwnas.by_class import ByClass, by_class
from hwnas.top_losses import TopLoss
from hwnas.train.data import Split
from hwnas.train.options import Score

# Activations of more images leave the last-level cache: 500 at once took twice as long on ResNet-20.
_BATCH = 100


def accuracy(module: nn.Module, split: Split) -> float:
    """Fraction of the images that a network classifies correctly; see `score`."""
    return score(module, split).accuracy


def score(module: nn.Module, split: Split) -> Score:
    """Accuracy and loss in float32, in eval mode; the module is left in the mode it was in."""
    return _score(_logits(module, split), split)


@dataclass(frozen=True)
class Judged:
    """How well a network does on a split, in detail.

    Attributes:
        score: accuracy and loss.
        by_class: figures of every class.
        top_losses: the images that it is most wrong about, the worst first.
        pictures: these images, uint8 (n, H, W, C), made smaller where they are large.
    """

    score: Score
    by_class: ByClass
    top_losses: tuple[TopLoss, ...]
    pictures: Uint8s


def judge(module: nn.Module, split: Split, classes: Sequence[str]) -> Judged:
    """As `score`, with the figures of every class and the worst images."""
    logits = _logits(module, split)
    named, labels = logits.argmax(1), split.labels
    loss = F.cross_entropy(logits, labels, reduction="none")
    worst = loss.argsort(descending=True, stable=True)[: top_losses.MOST]
    own = (-loss[worst]).exp()
    rows = tuple(
        TopLoss(
            true=classes[int(labels[at])],
            named=classes[int(named[at])],
            probability=float(p),
            loss=float(loss[at]),
        )
        for at, p in zip(worst.tolist(), own)
    )
    figures = by_class(labels.numpy(), named.numpy(), classes, logits.numpy())
    return Judged(_score(logits, split), figures, rows, _small(split.pixels[worst]))


def _small(images: torch.Tensor) -> Uint8s:
    """Images (n, C, H, W) as pictures (n, H, W, C) of at most `top_losses.SIDE` pixels a side."""
    pictures: Uint8s = images.permute(0, 2, 3, 1).numpy()
    _, height, width, _ = pictures.shape
    factor = top_losses.SIDE / max(height, width)
    if factor >= 1:
        return pictures
    size = (max(1, round(height * factor)), max(1, round(width * factor)))
    return np.rint(prepared.resize(pictures, size)).clip(0, 255).astype(np.uint8)


@torch.no_grad()
def _logits(module: nn.Module, split: Split) -> torch.Tensor:
    """Logits (n, classes) in float32 on the CPU."""
    device = next(module.parameters()).device
    training = module.training
    module.eval()
    try:
        return torch.cat(
            [
                module(split.normalised(slice(begin, begin + _BATCH)).to(device)).float().cpu()
                for begin in range(0, len(split), _BATCH)
            ]
        )
    finally:
        module.train(training)


def _score(logits: torch.Tensor, split: Split) -> Score:
    loss = float(F.cross_entropy(logits, split.labels, reduction="sum"))
    correct, count = int((logits.argmax(1) == split.labels).sum()), len(split)
    guess = (correct + 0.5) / (count + 1)
    return Score(correct / count, (guess * (1 - guess) / count) ** 0.5, loss / count, count)
