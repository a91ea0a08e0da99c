"""How well a network does on a split of a data set."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from hwnas.by_class import ByClass, by_class
from hwnas.train.data import Split
from hwnas.train.options import Score

# Activations of more images leave the last-level cache: 500 at once took twice as long on ResNet-20.
_BATCH = 100


def accuracy(module: nn.Module, split: Split) -> float:
    """Fraction of the images that a network classifies correctly; see `score`."""
    return score(module, split).accuracy


def score(module: nn.Module, split: Split) -> Score:
    """Accuracy and loss in float32, in eval mode; the module is left in the mode it was in."""
    return _scored(module, split)[0]


def judge(module: nn.Module, split: Split, classes: Sequence[str]) -> tuple[Score, ByClass]:
    """As `score`, and the figures of every class."""
    found, named = _scored(module, split)
    return found, by_class(split.labels.numpy(), named.numpy(), classes)


@torch.no_grad()
def _scored(module: nn.Module, split: Split) -> tuple[Score, torch.Tensor]:
    """The score, and the class that the network names for each image."""
    device = next(module.parameters()).device
    training = module.training
    module.eval()
    named, loss = [], 0.0
    try:
        for begin in range(0, len(split), _BATCH):
            part = slice(begin, begin + _BATCH)
            logits = module(split.normalised(part).to(device)).float()
            loss += float(F.cross_entropy(logits, split.labels[part].to(device), reduction="sum"))
            named.append(logits.argmax(1).cpu())
    finally:
        module.train(training)
    told = torch.cat(named)
    correct, count = int((told == split.labels).sum()), len(split)
    guess = (correct + 0.5) / (count + 1)
    return Score(correct / count, (guess * (1 - guess) / count) ** 0.5, loss / count, count), told
