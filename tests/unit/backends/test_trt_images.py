import numpy as np
import pytest

from hwnas.backends.images import centred, prepare, taps
from hwnas.errors import InputError

ZERO, ONE = np.zeros(3, np.float32), np.ones(3, np.float32)


def pictures(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize(("source", "out"), [((20, 30), (8, 8)), ((8, 8), (32, 20)), ((13, 7), (13, 7))])
def test_resizing_is_torchs_bilinear_with_antialias(source: tuple[int, int], out: tuple[int, int]) -> None:
    torch = pytest.importorskip("torch")
    images = pictures(2, *source, 3)
    planes = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    expected = torch.nn.functional.interpolate(planes, out, mode="bilinear", antialias=True).round().numpy()
    off = np.abs(prepare(images, out, ZERO, ONE) * 255 - expected)
    assert off.max() < 1.001  # a level, where the sum falls on a half
    assert (off > 0.001).mean() < 0.01


def test_the_middle_square() -> None:
    assert centred(pictures(1, 6, 10, 3), (8, 8)).shape == (1, 6, 6, 3)
    tall = pictures(1, 5, 2, 1)
    assert np.array_equal(centred(tall, (3, 3)), tall[:, 1:3])


def test_the_middle_in_other_proportions() -> None:
    """Of 6x10 pixels 5x10 are twice as wide as high; of 5x2 pixels 1x2, the third row, are."""
    wide, tall = pictures(1, 6, 10, 3), pictures(1, 5, 2, 1)
    assert np.array_equal(centred(wide, (8, 16)), wide[:, 0:5])
    assert np.array_equal(centred(tall, (4, 8)), tall[:, 2:3])


def test_equal_sizes_only_normalise() -> None:
    images = pictures(1, 2, 2, 3)
    mean = np.array([0.5, 0.25, 0.0], np.float32)
    std = np.array([0.5, 0.25, 2.0], np.float32)
    expected = (images.astype(np.float32) / np.float32(255) - mean) / std
    assert np.array_equal(prepare(images, (2, 2), mean, std), expected.transpose(0, 3, 1, 2))


def test_channels_are_swapped_before_they_are_normalised() -> None:
    images = pictures(1, 4, 4, 3)
    mean = np.array([0.5, 0.25, 0.0], np.float32)
    swapped = prepare(images, (4, 4), mean, ONE, swap_channels=True)
    assert np.array_equal(swapped, prepare(images[..., ::-1].copy(), (4, 4), mean, ONE))


@pytest.mark.parametrize(("source", "out"), [(1, 1), (7, 3), (3, 7), (224, 32), (5, 1), (1, 9)])
def test_taps_sum_to_one_and_stay_inside(source: int, out: int) -> None:
    axis = taps(source, out)
    assert np.allclose(axis.weight.sum(axis=1), 1, atol=1e-6)
    at = axis.first[:, None] + np.arange(axis.weight.shape[1])
    assert axis.first.min() >= 0
    assert (axis.weight[at >= source] == 0).all()


def test_wrong_images_are_refused_in_words() -> None:
    with pytest.raises(InputError, match="expected uint8"):
        prepare(np.zeros((1, 3, 4, 4), np.float32), (4, 4), ZERO, ONE)
    with pytest.raises(InputError, match="one value for each channel"):
        prepare(pictures(1, 4, 4, 1), (4, 4), ZERO, ONE)
    with pytest.raises(InputError, match="at least 1"):
        taps(4, 0)
