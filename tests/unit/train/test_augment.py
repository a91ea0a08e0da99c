"""Every augmentation against what its definition gives by hand."""

from typing import Any, cast

import numpy as np
import pytest
import torch

from hwnas.errors import InputError
from hwnas.options import read
from hwnas.train.augment import AugmentOptions, chosen, crop_flip, cutout, mixup
from hwnas.train.data import Dataset, load
from hwnas.train.options import Recipe


def read_recipe(given: dict[str, object]) -> Recipe:
    return read(Recipe, given, "training option")


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def numbered(count: int, size: int = 6) -> torch.Tensor:
    """Image i has the value 40 i + 6 y + x at row y, column x (size 6); channels are equal."""
    pixels = torch.arange(count)[:, None, None, None] * 40 + torch.arange(size * size).view(size, size)
    return pixels.expand(-1, 3, -1, -1).to(torch.uint8).contiguous(memory_format=torch.channels_last)


def test_nothing_asked_nothing_done() -> None:
    images, at = numbered(4), torch.tensor([2, 0, 2])
    assert (crop_flip(images, at, AugmentOptions(), rng()) == images[at]).all()


def test_every_image_is_one_of_the_shifts_and_mirrors() -> None:
    images = numbered(2)
    padded = np.pad(images.numpy(), ((0, 0), (0, 0), (2, 2), (2, 2)), mode="reflect")
    known = {}
    for i in range(2):
        for y in range(5):
            for x in range(5):
                crop = padded[i, :, y : y + 6, x : x + 6]
                known[crop.tobytes()] = (i, y - 2, x - 2, False)
                known[np.ascontiguousarray(crop[:, :, ::-1]).tobytes()] = (i, y - 2, x - 2, True)
    assert len(known) == 100
    at = torch.arange(4000) % 2
    made = crop_flip(images, at, AugmentOptions(shift=2, flip=True), rng()).contiguous()
    seen = [known[image.numpy().tobytes()] for image in made]
    assert [i for i, *_ in seen] == at.tolist()
    # Each of 25 shifts has probability 1/25: 160 +- 12.4 of 4000; half is mirrored: 2000 +- 31.6.
    shifts = np.unique([(y, x) for _, y, x, _ in seen], axis=0, return_counts=True)[1]
    assert len(shifts) == 25
    assert abs(shifts - 160).max() < 5 * 12.4
    assert abs(sum(flip for *_, flip in seen) - 2000) < 5 * 31.6


def test_result_lies_channels_last() -> None:
    made = crop_flip(numbered(3), torch.tensor([0, 1]), AugmentOptions(shift=1), rng())
    assert made.is_contiguous(memory_format=torch.channels_last)


def test_same_generator_same_images() -> None:
    images, at, options = numbered(3), torch.tensor([0, 1, 2, 0]), AugmentOptions(shift=2, flip=True)
    first, again, other = (crop_flip(images, at, options, rng(seed)) for seed in (0, 0, 1))
    assert (first == again).all()
    assert (first != other).any()


def test_cutout_is_one_square_and_covers_evenly() -> None:
    batch = cutout(torch.ones(20_000, 2, 6, 6), 2, rng())
    assert (batch[:, 0] == batch[:, 1]).all()
    gone = batch[:, 0] == 0
    # The square starts at -1..4 in each direction (side 2): 4 pixels, except that a start of -1
    # leaves 1 of 2 rows. Mean rows covered: (1 + 5 * 2) / 6.
    assert gone.sum(2).max() == 2
    assert gone.sum((1, 2)).float().mean().item() == pytest.approx((11 / 6) ** 2, rel=0.02)
    # Row 0 is covered by starts -1 and 0, row 5 by 4 alone.
    assert gone.any(2).float().mean(0)[[0, 5]].tolist() == pytest.approx([2 / 6, 1 / 6], abs=0.02)


def test_mixup_mixes_images_and_targets_alike() -> None:
    batch = torch.arange(8.0)[:, None, None, None].expand(-1, 1, 2, 2)
    targets = torch.eye(8)
    mixed, soft = mixup(batch, targets, 0.4, rng())
    assert soft.sum(1).tolist() == pytest.approx([1.0] * 8)
    # The value of an image was its class, so that the mixed value is the mean of the target.
    assert mixed[:, 0, 0, 0].tolist() == pytest.approx((soft @ torch.arange(8.0)).tolist(), abs=1e-5)
    assert ((soft > 0).sum(1) <= 2).all()


def test_mixup_weights_are_beta() -> None:
    # Variance of Beta(a, a) is 1 / (4 (2 a + 1)): 1/12 at a = 1, where it is uniform.
    targets = torch.zeros(20_000, 2)
    targets[::2, 0] = 1.0
    _, soft = mixup(torch.zeros(20_000, 1, 1, 1), targets, 1.0, rng())
    mixed = soft[:, 0][(soft[:, 0] > 0) & (soft[:, 0] < 1)]
    assert mixed.var().item() == pytest.approx(1 / 12, rel=0.05)


def test_what_is_left_open_follows_the_data(digits: Dataset) -> None:
    assert chosen(Recipe(), digits) == AugmentOptions(shift=1, flip=False)
    assert chosen(Recipe(), load("digits")) == AugmentOptions(shift=2, flip=False)
    digits_that_mirror = load("digits", input_shape=(1, 16, 16))
    digits_that_mirror.mirrors = True
    assert chosen(Recipe(), digits_that_mirror) == AugmentOptions(shift=1, flip=True)


def test_every_augmentation_can_be_asked_for(digits: Dataset) -> None:
    asked = read_recipe({"flip": True, "shift": 0, "cutout": 3, "mixup": 0.2})
    assert chosen(asked, digits) == AugmentOptions(shift=0, flip=True, cutout=3, mixup=0.2)
    assert not chosen(read_recipe({"flip": "off"}), digits).flip
    with pytest.raises(InputError, match=r"shift 8 is not smaller than the image \(8x8\)"):
        chosen(read_recipe({"shift": 8}), digits)


@pytest.mark.parametrize("name", ["shift", "cutout", "mixup"])
def test_negative_options_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"{name} is -1"):
        cast(Any, AugmentOptions)(**{name: -1})


def test_shift_beyond_the_image() -> None:
    with pytest.raises(InputError, match=r"shift 6 is not smaller than the image \(6x6\)"):
        crop_flip(numbered(1), torch.tensor([0]), AugmentOptions(shift=6), rng())
