"""Labelled images in memory, always in three splits: train, validation, test.

``load("digits")``, ``load("parquet:data/", input_shape=(3, 32, 32))``: every source ends as uint8
tensors of one shape. Choices look at validation only; the test split is behind `Dataset.test`,
which counts how often it is read.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from hwnas.errors import DataFormatError, InputError
from hwnas.plugins import unknown
from hwnas.train.sources import Ints, Raw, Shape, read

SCHEMES = ("digits", "folder", "parquet", "npz", "cifar10")
# Shares of the whole: test where the source has none of its own, validation of what then remains.
TEST_SHARE = 0.2
VAL_SHARE = 0.1
# The test split is the same for every seed: else one seed would train on another's test images.
_TEST_SEED = 20_010_109


@dataclass(frozen=True, eq=False)
class Split:
    """Some of the images of a data set.

    Attributes:
        images: uint8 (n, channels, height, width), stored channels last.
        labels: int64 (n,), from 0.
        mean, std: of the training split, by channel, on the scale where 255 is 1.
    """

    images: torch.Tensor
    labels: torch.Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def normalised(self, at: slice | torch.Tensor = slice(None)) -> torch.Tensor:
        """Images `at` these places as a network takes them: float32, (value / 255 - mean) / std."""
        return normalise(self.images[at], self.mean, self.std)


def normalise(images: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """Bring uint8 (n, C, H, W) to zero mean and unit spread by channel, float32."""
    centre = torch.tensor(mean, device=images.device)[:, None, None] * 255.0
    spread = torch.tensor(std, device=images.device)[:, None, None] * 255.0
    return images.float().sub_(centre).div_(spread)


@dataclass(eq=False)
class Dataset:
    """A data set in memory.

    Attributes:
        name: for people ("digits", the folder's name).
        uri: what was loaded.
        classes: class names; a label is a place in this tuple.
        train, val: what training and choices may look at.
        mirrors: whether an image may be flipped left to right without changing its class.
        fingerprint: hash over every image and label of the three splits.
        test_reads: how often the test split was asked for in this process.
    """

    name: str
    uri: str
    classes: tuple[str, ...]
    train: Split
    val: Split
    _test: Split
    mirrors: bool
    fingerprint: str
    test_reads: int = field(default=0, init=False)

    def test(self) -> Split:
        """The test split. Read it once, when no choice is left to make."""
        self.test_reads += 1
        return self._test

    @property
    def input_shape(self) -> Shape:
        """Channels, height and width of an image."""
        _, channels, height, width = self.train.images.shape
        return (channels, height, width)

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean of the training images by channel, on the scale where 255 is 1."""
        return self.train.mean

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation of the training images by channel, on the scale where 255 is 1."""
        return self.train.std

    def describe(self) -> str:
        """One line for people: name, classes, sizes of the splits, shape."""
        c, h, w = self.input_shape
        sizes = f"{len(self.train)} train, {len(self.val)} validation, {len(self._test)} test"
        return f"{self.name}: {len(self.classes)} classes, {sizes} images of {c}x{h}x{w}"


def load(uri: str, *, input_shape: Shape | None = None, seed: int = 0, limit: int | None = None) -> Dataset:
    """Load a data set and split it.

    Sources: ``digits`` (embedded), ``folder:PATH`` (a folder a class), ``parquet:PATH`` (file or
    folder, image-bytes and label columns), ``npz:PATH``, ``cifar10:PATH`` (binary version) and
    ``module:function`` (your own; `sources.arrays` says what it returns).

    A source's own test images are the test split; otherwise a fifth, drawn the same way for every
    seed. A tenth of the rest is validation, drawn by `seed`. Both keep the proportions of classes.

    Args:
        uri: see above.
        input_shape: channels (1 or 3), height and width (equal) of the network's input; images are
            resized to it. None follows the data: its own size, at most 224 pixels; 3x32x32 for
            ``digits``, whose 8x8 pixels would not survive the strides of a network.
        seed: decides the validation split and which images a `limit` keeps.
        limit: keep at most so many images for train and validation together. The test split stays
            whole, so that its figures compare.

    Raises:
        InputError: unknown source, missing path, impossible shape or limit.
        DataFormatError: the files do not hold what they should.
    """
    if input_shape is not None:
        _check_shape(input_shape)
    scheme, where = parse(uri)
    raw = read(scheme, where, input_shape)
    _check_labels(raw)
    return _split(raw, Path(where).name or scheme, uri, seed=seed, limit=limit)


def parse(uri: str) -> tuple[str, str]:
    """Scheme and place of a data URI; ``module`` for ``module:function``. InputError otherwise."""
    scheme, colon, where = uri.partition(":")
    if scheme == "digits" and not where:
        return "digits", ""
    if scheme in SCHEMES and where and scheme != "digits":
        return scheme, where
    if scheme in SCHEMES:
        raise InputError(
            "the data set 'digits' is embedded and takes no path; write digits"
            if scheme == "digits"
            else f"data {uri!r} names no path; write {scheme}:PATH"
        )
    if colon and re.fullmatch(r"[^\W\d][\w.]*:[^\W\d]\w*", uri):
        return "module", uri
    message = unknown("data source", scheme, (*SCHEMES, "module:function"))
    if Path(uri).exists():
        message += f"; say what the path holds, for example folder:{uri} or parquet:{uri}"
    raise InputError(message)


def _check_shape(shape: Shape) -> None:
    channels, height, width = shape
    if channels not in (1, 3) or height != width or height < 1:
        raise InputError(
            f"images cannot be brought to {channels}x{height}x{width}: they have 1 (grey) or 3 (colour) "
            "channels, and height and width of a network's input are equal"
        )


def _check_labels(raw: Raw) -> None:
    """Refuse labels without a class and classes without images."""
    count = len(raw.classes)
    if count < 2:
        raise DataFormatError(f"{raw.where} holds {count} class; classification needs at least two")
    for labels, what in ((raw.labels, "training"), (raw.test_labels, "test")):
        if labels is not None and len(labels) and not 0 <= labels.min() <= labels.max() < count:
            raise DataFormatError(
                f"{raw.where}: {what} labels run from {labels.min()} to {labels.max()}, but the {count} "
                f"classes are 0 to {count - 1}"
                + ("; -1 marks images without a label" if labels.min() == -1 else "")
            )
    least = 2 if raw.test_labels is not None else 3  # one image a class for each split
    for name, images in zip(raw.classes, np.bincount(raw.labels, minlength=count)):
        if images < least:
            raise DataFormatError(
                f"{raw.where}: class {name!r} has {images} training images; at least {least} are needed "
                "to have one in every split"
            )


def _split(raw: Raw, name: str, uri: str, *, seed: int, limit: int | None) -> Dataset:
    pool = np.arange(len(raw.labels))
    if raw.test_images is None:
        test_at, pool = draw(raw.labels, pool, TEST_SHARE, np.random.default_rng(_TEST_SEED))
        test = (raw.images[torch.from_numpy(test_at)], raw.labels[test_at])
    else:
        assert raw.test_labels is not None
        test = (raw.test_images, raw.test_labels)
    rng = np.random.default_rng([seed, 0])
    if limit is not None:
        if limit < 2 * len(raw.classes):
            raise InputError(
                f"a limit of {limit} images is too small for {len(raw.classes)} classes; "
                f"at least {2 * len(raw.classes)} leave one a class for training and for validation"
            )
        if limit < len(pool):
            pool, _ = draw(raw.labels, pool, limit / len(pool), rng, least=2, keep=0)
    val_at, train_at = draw(raw.labels, pool, VAL_SHARE, rng)
    mean, std = _moments(raw.images[torch.from_numpy(train_at)])

    def split(images: torch.Tensor, labels: Ints) -> Split:
        stored = images.contiguous(memory_format=torch.channels_last)
        return Split(stored, torch.from_numpy(labels), mean, std)

    train, val = (split(raw.images[torch.from_numpy(at)], raw.labels[at]) for at in (train_at, val_at))
    held = split(*test)
    mark = _fingerprint((train, val, held))
    return Dataset(name, uri, raw.classes, train, val, held, mirrors=raw.mirrors, fingerprint=mark)


def draw(
    labels: Ints, pool: Ints, share: float, rng: np.random.Generator, *, least: int = 1, keep: int = 1
) -> tuple[Ints, Ints]:
    """Draw a share of the pool at random, with the proportions of its classes.

    Args:
        labels: class of every image of the source.
        pool: places in `labels` to draw from.
        share: fraction drawn.
        rng: decides which.
        least: smallest number drawn from any class.
        keep: smallest number left in any class, which comes before `least`.

    Returns:
        The places drawn and those left, each sorted.
    """
    counts = np.bincount(labels[pool])
    wanted = apportion([int(c) for c in counts], round(share * len(pool)), least=least, keep=keep)
    drawn = [rng.permutation(pool[labels[pool] == label])[:number] for label, number in enumerate(wanted)]
    taken = np.sort(np.concatenate(drawn))
    return taken, np.setdiff1d(pool, taken, assume_unique=True)


def apportion(counts: Sequence[int], total: int, *, least: int = 1, keep: int = 1) -> list[int]:
    """Share `total` out in proportion to `counts` by largest remainders (Hamilton's method).

    Every class gives at least `least`, even where that exceeds the total, and keeps at least `keep`.
    """
    whole = sum(counts)
    shares = [total * count // whole for count in counts]
    remainders = [total * count % whole for count in counts]
    for at in sorted(range(len(counts)), key=lambda i: -remainders[i])[: total - sum(shares)]:
        shares[at] += 1
    # What `least` adds is taken from the largest shares, so that the total is kept where it can be.
    lifted = [min(max(share, least), max(count - keep, 0)) for share, count in zip(shares, counts)]
    for _ in range(sum(lifted) - total):
        largest = max(range(len(lifted)), key=lambda i: lifted[i])
        if lifted[largest] <= least:
            break
        lifted[largest] -= 1
    return lifted


def _moments(images: torch.Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation by channel where 255 is 1, exactly, from histograms."""
    values = torch.arange(256, dtype=torch.float64) / 255.0
    means, spreads = [], []
    for channel in range(images.shape[1]):
        histogram = torch.zeros(256, dtype=torch.float64)
        for part in torch.split(images[:, channel], 4096):
            histogram += torch.bincount(part.flatten().int(), minlength=256)
        share = histogram / histogram.sum()
        mean = float((share * values).sum())
        means.append(mean)
        # A constant channel is left at zero instead of divided by nothing.
        spreads.append(max(float((share * (values - mean) ** 2).sum()) ** 0.5, 1.0 / 255.0))
    return tuple(means), tuple(spreads)


def _fingerprint(splits: Sequence[Split]) -> str:
    """Sixteen hexadecimal digits over shapes, images and labels of every split, in order."""
    digest = hashlib.sha256()
    for split in splits:
        digest.update(repr(tuple(split.images.shape)).encode())
        digest.update(np.ascontiguousarray(split.images.permute(0, 2, 3, 1).numpy()).data)
        digest.update(split.labels.numpy().data)
    return digest.hexdigest()[:16]
