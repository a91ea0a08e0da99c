"""Several processes train as one does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hwnas.errors import InputError
from hwnas.nets import spaces
from hwnas.nets.build import build
from hwnas.train.data import Dataset, load
from hwnas.train.loop import train
from hwnas.train.options import Recipe
from hwnas.train.ranks import Rank

# 12 steps of 20 images, an odd number for one of three ranks; every kind of augmentation.
RECIPE = Recipe(images=240, batch=20, lr=0.05, cutout=2, mixup=0.2, threads=1, checkpoint_s=0.0)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load("digits", input_shape=(1, 8, 8), limit=200)


def weights(
    dataset: Dataset, jobs: int, recipe: Recipe = RECIPE, checkpoint: Path | None = None
) -> torch.Tensor:
    spec = spaces.make("resnet-cifar", input_shape=(1, 8, 8), classes=10).smallest()
    module = build(spec, seed=0)
    train(module, spec, dataset, recipe, jobs=jobs, checkpoint=checkpoint)
    return torch.cat([value.flatten().double() for value in module.state_dict().values()])


def test_parts_are_the_batch_and_losses_average_to_its_mean() -> None:
    ranks = [Rank(at, 3) for at in range(3)]
    # 20 images on three ranks: 6, 7, 7, whose mean losses weigh 6, 7 and 7 twentieths.
    assert [rank.part(20) for rank in ranks] == [slice(0, 6), slice(6, 13), slice(13, 20)]
    assert [rank.weight(20) / 3 for rank in ranks] == pytest.approx([6 / 20, 7 / 20, 7 / 20])


@pytest.mark.filterwarnings("default")  # torch's own
@pytest.mark.slow
def test_two_ranks_are_one_but_for_rounding_and_go_on_from_its_checkpoint(
    digits: Dataset, tmp_path: Path
) -> None:
    # After two steps: another augmentation or batch changes 15,000 of the 78,000 numbers by more than this,
    # rounding none. After twelve, rounding alone has grown to it on some processors.
    short = replace(RECIPE, images=40)
    assert torch.allclose(weights(digits, 1, short), weights(digits, 2, short), rtol=1e-3, atol=1e-4)
    # The checkpoint of one process is the end of the training for two.
    one = weights(digits, 1, checkpoint=tmp_path / "c")
    again = weights(digits, 2, checkpoint=tmp_path / "c")
    assert torch.equal(again, one)


def test_more_ranks_than_images_are_refused(digits: Dataset) -> None:
    with pytest.raises(InputError, match="21 jobs share the 20 images of a step"):
        weights(digits, 21)
