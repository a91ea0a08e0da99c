"""Scores and worst images of a network whose logits are known."""

from __future__ import annotations

import math

import torch
from torch import nn

from hwnas.top_losses import MOST, SIDE
from hwnas.train.data import Split
from hwnas.train.score import judge


class Told(nn.Module):
    """Logits (0, brightness): images are named 1 where they are brighter than the mean."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        bright = images.mean(dim=(1, 2, 3))
        return torch.stack([torch.zeros_like(bright), bright], dim=1)


def split(values: list[int], labels: list[int], side: int = 2) -> Split:
    images = torch.tensor(values, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, side, side)
    return Split(images.contiguous(), torch.tensor(labels), (0.2, 0.2, 0.2), (0.2, 0.2, 0.2))


def test_scores_and_worst_images_by_hand() -> None:
    # Brightness (v / 255 - 0.2) / 0.2: 0 is -1, 51 is 0, 102 is 1, 153 is 2.
    found = judge(Told(), split([0, 153, 102, 153], [0, 1, 0, 0]), ("dark", "light"))
    losses = [math.log(1 + math.exp(-1)), math.log(1 + math.exp(-2))]
    losses += [math.log(1 + math.exp(1)), math.log(1 + math.exp(2))]
    assert found.score.accuracy == 0.5
    assert abs(found.score.loss - sum(losses) / 4) < 1e-6
    assert found.by_class.confusion_matrix == ((1, 2), (0, 1))
    # The brightest "dark" one is the worst, then the less bright one.
    assert [(row.true, row.named) for row in found.top_losses[:2]] == [("dark", "light")] * 2
    assert abs(found.top_losses[0].loss - losses[3]) < 1e-6
    assert abs(found.top_losses[0].probability - 1 / (1 + math.exp(2))) < 1e-6
    assert found.pictures.shape == (4, 2, 2, 3)
    assert found.pictures[:, 0, 0, 0].tolist() == [153, 102, 0, 153]


def test_few_and_small_pictures_are_kept() -> None:
    found = judge(Told(), split([0] * (MOST + 3), [0, 1] * 7 + [0], side=2 * SIDE), ("dark", "light"))
    assert len(found.top_losses) == MOST
    assert found.pictures.shape == (MOST, SIDE, SIDE, 3)
