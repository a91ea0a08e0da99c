"""How well a network does on a split of a data set."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from hwnas.train.data import Split
from hwnas.train.options import Score

# Activations of more images leave the last-level cache: 500 at once took twice as long on ResNet-20.
_BATCH = 100


def accuracy(module: nn.Module, split: Split) -> float:
    """Fraction of the images that a network classifies correctly; see `score`."""
    return score(module, split).accuracy


@torch.no_grad()
def score(module: nn.Module, split: Split) -> Score:
    """Accuracy and loss in float32, in eval mode; the module is left in the mode it was in."""
    device = next(module.parameters()).device
    training = module.training
    module.eval()
    correct, loss = 0, 0.0
    try:
        for begin in range(0, len(split), _BATCH):
            part = slice(begin, begin + _BATCH)
            labels = split.labels[part].to(device)
            logits = module(split.normalised(part).to(device)).float()
            correct += int((logits.argmax(1) == labels).sum())
            loss += float(F.cross_entropy(logits, labels, reduction="sum"))
    finally:
        module.train(training)
    count = len(split)
    guess = (correct + 0.5) / (count + 1)
    return Score(correct / count, (guess * (1 - guess) / count) ** 0.5, loss / count, count)
