"""What a changed piece gives instead, by hand on a model of two residual blocks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hwnas.nets.build import build
from hwnas.nets.model.bases import OwnModel
from hwnas.nets.model.space import ModelSpace
from hwnas.protocols import Move, Question
from hwnas.search.importance.judge import make


class Scaled(nn.Module):
    """x + a x, a number alone."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 1, bias=False)
        with torch.no_grad():
            self.conv.weight.copy_(scale * torch.eye(2)[:, :, None, None])

    def forward(self, x: Tensor) -> Tensor:
        branch: Tensor = self.conv(x)
        return x + branch


def judged(name: str) -> tuple[float, float, Tensor, Tensor]:
    """Values of dropping the blocks of scale 0.5 and 0, and the images and labels."""
    stem, head = nn.Conv2d(2, 2, 1, bias=False), nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        stem.weight.copy_(torch.eye(2)[:, :, None, None])
        head.weight.copy_(torch.eye(2))
    module = nn.Sequential(stem, Scaled(0.5), Scaled(0.0), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
    own = ModelSpace(OwnModel(module.eval(), "own", "module", (2, 4, 4), classes=2))
    images = torch.tensor([[1.0, -1.0], [0.5, 2.0]]).view(2, 2, 1, 1).repeat(4, 1, 4, 4)
    labels = torch.tensor([0, 1] * 4)
    moves = [Move(at, "drop", own.variant({str(at): "drop"})) for at in (1, 2)]
    question = Question(
        build(own.variant(), seed=0), own.variant(), moves, images, labels, np.random.default_rng(0)
    )
    found = make(name, images=8, group="removals")(question)
    assert [(one.stage, one.kind) for one in found] == [(1, "drop"), (2, "drop")]
    return found[0].value, found[1].value, images, labels


def test_activation_is_the_part_of_the_output_that_changes() -> None:
    """x instead of 1.5 x: (0.5 / 1.5)^2; and nothing where the block adds nothing."""
    first, second, _, _ = judged("activation")
    assert first == pytest.approx(1 / 9)
    assert second == 0.0


def test_taylor_is_the_gradient_times_the_change() -> None:
    """The scores are 1.5 x; the gradient of one image's loss is softmax - onehot; the change is -0.5 x."""
    first, second, images, labels = judged("taylor")
    x = images.mean((2, 3))
    slope = torch.softmax(1.5 * x, 1) - F.one_hot(labels, 2)
    each = (slope * 0.5 * x).sum(1).abs()
    assert float(each.min()) <= first <= float(each.max())
    assert first > 0
    assert second == 0.0
