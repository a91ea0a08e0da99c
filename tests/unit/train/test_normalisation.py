"""The scale of pixels that a trained model was trained on is found by its loss."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from hwnas.errors import InputError
from hwnas.train import normalisation
from hwnas.train.data import Dataset, Split


def dataset(channels: int = 3) -> Dataset:
    """Dark squares below 100 of 255, light ones above."""
    rng = np.random.default_rng(0)
    labels = torch.from_numpy(np.arange(64) % 2)
    noise = torch.from_numpy(rng.integers(0, 90, (64, channels, 4, 4)).astype(np.uint8))
    images = noise + (labels * 110).byte()[:, None, None, None]
    split = Split(
        images.contiguous(memory_format=torch.channels_last), labels, (0.8,) * channels, (0.1,) * channels
    )
    return Dataset("squares", "squares", ("dark", "light"), split, split, split, False, "f")


class Brightness(nn.Module):
    """Light where the mean of what it sees is above a threshold, which is right on one scale alone."""

    def __init__(self, threshold: float, sharp: float) -> None:
        super().__init__()
        self.threshold, self.sharp = threshold, sharp
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        over = self.sharp * (x.mean((1, 2, 3)) - self.threshold)
        return torch.stack([-over, over], 1)


@pytest.mark.parametrize(
    ("name", "threshold", "sharp"),
    [  # 100 of 255 on each scale
        ("unit", 100 / 255, 30.0),
        ("symmetric", (100 / 255 - 0.5) / 0.5, 15.0),
        ("bytes", 100.0, 0.1),
        ("data", (100 / 255 - 0.8) / 0.1, 3.0),
    ],
)
def test_the_scale_that_a_model_was_trained_on_is_found(name: str, threshold: float, sharp: float) -> None:
    found = normalisation.losses(normalisation.of_module(Brightness(threshold, sharp)), dataset(1))
    assert found[name] < 0.2
    assert normalisation.suited(found, 2) == name


def test_a_model_that_knows_nothing_gets_the_data_s_own_scale() -> None:
    """ln(2) on every scale, or a little below it by chance on another."""
    assert normalisation.suited({"data": 0.6931, "unit": 0.6931}, 2) == "data"
    assert normalisation.suited({"data": 0.700, "unit": 0.699}, 2) == "data"
    assert normalisation.suited({"data": 1.5, "unit": 0.75}, 2) == "data", "worse than guessing"
    assert normalisation.suited({"data": 0.30, "unit": 0.28}, 2) == "data", "no more than noise"
    assert normalisation.suited({"data": math.nan, "unit": 0.28}, 2) == "unit"
    assert normalisation.suited({"data": math.nan, "unit": math.inf}, 2) == "data"


def test_all_three_splits_come_on_the_scale_and_it_is_recorded() -> None:
    given = dataset()
    normalisation.use(given, normalisation.named(given, "symmetric"))
    assert given.mean == given.std == (0.5, 0.5, 0.5)
    for split in (given.train, given.val, given.test()):
        seen = split.normalised(slice(0, 2))
        assert torch.equal(seen, (split.images[:2].float() - 127.5) / 127.5)


def test_imagenet_s_scale_is_of_three_channels() -> None:
    assert "imagenet" in normalisation.scales(dataset())
    with pytest.raises(InputError, match=r"--normalise imagenet is for images of 3 channels.*has 1"):
        normalisation.named(dataset(1), "imagenet")
