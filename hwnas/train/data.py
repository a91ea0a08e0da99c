"""Labelled images in memory, always in three splits: train, validation, test.

``load("digits")``, ``load("parquet:data/", input_shape=(3, 32, 32))``: every source ends as uint8
tensors of one shape. Choices look at validation only; the test split is behind `Dataset.test`,
which counts how often it is read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from hwnas.arrays import ImageShape, Int64s, Uint8s
from hwnas.train.mapped import Pixels, by_parts
from hwnas.train.outline import described
from hwnas.train.raw import LabelledImages, Originals, Raw
from hwnas.train.reading import checked
from hwnas.train.splits import divide

# Classes are called uneven from this ratio of the largest to the smallest on.
UNEVEN = 5.0


@dataclass(frozen=True, eq=False)
class Split:
    """Some of the images of a data set.

    Attributes:
        pixels: uint8 (n, channels, height, width), stored channels last: in memory, or in a file.
        labels: int64 (n,), from 0.
        mean, std: of the training split, by channel, on the scale where 255 is 1.
        originals: the pictures as large as the source has them, by place; None where it has no others, or
            they were not asked for.
    """

    pixels: Pixels
    labels: torch.Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]
    originals: Originals | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def images(self) -> torch.Tensor:
        """All images in memory, wherever they lie; ``pixels[at]`` reads some."""
        return self.pixels if isinstance(self.pixels, torch.Tensor) else self.pixels[:]

    def normalised(self, at: slice | torch.Tensor = slice(None)) -> torch.Tensor:
        """Images `at` these places as a network takes them: float32, (value / 255 - mean) / std."""
        return normalise(self.pixels[at], self.mean, self.std)


def normalise(images: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """Bring uint8 (n, C, H, W) to zero mean and unit spread by channel, float32."""
    centre = torch.tensor(mean, device=images.device)[:, None, None] * 255.0
    spread = torch.tensor(std, device=images.device)[:, None, None] * 255.0
    return images.float().sub_(centre).div_(spread)


@dataclass(eq=False)
class Dataset:
    """A data set in memory.

    Attributes:
        name: for display ("digits", the folder's name).
        uri: what was loaded.
        classes: class names; a label is a place in this tuple.
        train, val: what training and choices may look at.
        mirrors: whether an image may be flipped left to right without changing its class.
        fingerprint: hash over every image and label of the three splits.
        notes: what a user should know: images left out, images in two splits, uneven classes.
        shared: number of images of the second split that are images of the first, too, pixel for pixel, by
            "train_val", "train_test" and "val_test".
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
    notes: tuple[str, ...] = ()
    shared: dict[str, int] = field(default_factory=dict)
    test_reads: int = field(default=0, init=False)

    def test(self) -> Split:
        """The test split. Read it once, when no choice is left to make."""
        self.test_reads += 1
        return self._test

    def portable(self) -> Dataset:
        """What a training in another process looks at: the test split is not among it."""
        train, val = (replace(split, originals=None) for split in (self.train, self.val))
        none = replace(val, pixels=val.pixels[:0], labels=val.labels[:0])
        return replace(self, train=train, val=val, _test=none)

    @property
    def input_shape(self) -> ImageShape:
        """Channels, height and width of an image."""
        _, channels, height, width = self.train.pixels.shape
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
        """One line for display: name, classes, sizes of the splits, shape."""
        sizes = [len(self.train), len(self.val), len(self._test)]
        return described(self.name, self.classes, sizes, self.input_shape)


def load(
    uri: str,
    *,
    input_shape: ImageShape | None = None,
    seed: int = 0,
    limit: int | None = None,
    strict: bool = False,
    originals: bool = False,
) -> Dataset:
    """Load a data set and split it.

    Sources: ``digits`` (embedded), ``folder:PATH`` (one folder per class), ``parquet:PATH`` (file or
    folder, image-bytes and label columns), ``npz:PATH``, ``cifar10:PATH`` (binary version) and
    ``module:function`` (your own; `sources.arrays` says what it returns); or one for each split,
    ``train=SOURCE;val=SOURCE;test=SOURCE``.

    A source's own test images are the test split; without them its validation images are; otherwise
    a fifth, drawn the same way for every seed. Validation is the source's own where test has others,
    else a tenth of the rest, drawn by `seed`. Both keep the proportions of classes.

    Args:
        uri: see above.
        input_shape: channels, height and width of the network's input; images are cropped to its
            proportions and resized to it. Files of images have 1 channel (grey) or 3 (colour), arrays any
            number. None follows the data: its own size; of files a square where they differ in size
            or are reduced, at most 224 pixels (fewer than 10,000 files whose shorter side is above 96 pixels
            are resized to 64x64, which a note says);
            3x32x32 for ``digits``, whose 8x8 pixels would not survive the strides of a network.
        seed: decides the validation split and which images a `limit` keeps.
        limit: keep at most so many images for train and validation together. The test split stays
            whole, so that its figures compare.
        strict: refuse a source of which an image cannot be used, instead of leaving that out.
        originals: keep a way to the pictures in their own size, too; arrays then stay in memory whole.

    Raises:
        InputError: unknown source, missing path, impossible shape or limit.
        DataFormatError: the files do not hold what they should.
    """
    raw, name = checked(uri, input_shape, strict)
    if not originals:
        raw = _without_originals(raw)
    return _split(raw, name, uri, seed=seed, limit=limit)


def _without_originals(raw: Raw) -> Raw:
    kept = {name: getattr(raw, name) for name in ("train", "val", "test")}
    return replace(raw, **{name: part and replace(part, originals=None) for name, part in kept.items()})


def _split(raw: Raw, name: str, uri: str, *, seed: int, limit: int | None) -> Dataset:
    (train, own_val, test), notes = divide(raw, seed, limit)
    mean, std = _moments(train.images)

    def split(part: LabelledImages) -> Split:
        stored = part.images
        if isinstance(stored, torch.Tensor):
            stored = stored.contiguous(memory_format=torch.channels_last)
        return Split(stored, torch.from_numpy(part.labels), mean, std, part.originals)

    made = (split(train), split(own_val), split(test))
    shared = _shared(*made)
    notes += [*_notes_of_shared(shared, made), *_note_of_classes(train.labels, raw.classes)]
    return Dataset(
        name,
        uri,
        raw.classes,
        *made,
        mirrors=raw.mirrors,
        fingerprint=_fingerprint(made),
        notes=tuple(notes),
        shared=shared,
    )


def _shared(train: Split, val: Split, test: Split) -> dict[str, int]:
    """Images of one split that are in another one, too, pixel for pixel."""

    def marks(split: Split) -> list[bytes]:
        return [
            hashlib.blake2b(image.data, digest_size=16).digest()
            for part in by_parts(split.pixels)
            for image in _channels_last(part)
        ]

    in_train, in_val, in_test = marks(train), marks(val), marks(test)
    known, held = set(in_train), set(in_val)
    return {
        "train_val": sum(mark in known for mark in in_val),
        "train_test": sum(mark in known for mark in in_test),
        "val_test": sum(mark in held for mark in in_test),
    }


def _notes_of_shared(shared: dict[str, int], made: Sequence[Split]) -> list[str]:
    _, val, test = made
    rows = (
        ("train_val", "validation", len(val), "training"),
        ("train_test", "test", len(test), "training"),
        ("val_test", "test", len(test), "validation"),
    )
    return [
        f"{shared[key]} of {total} {held} images are {other} images as well, so {held} accuracy is too high"
        for key, held, total, other in rows
        if shared[key]
    ]


def _note_of_classes(labels: Int64s, classes: Sequence[str]) -> list[str]:
    """A word where classes are so uneven that accuracy alone misleads."""
    counts = np.bincount(labels, minlength=len(classes))
    most, least = int(counts.argmax()), int(counts.argmin())
    if counts[most] < UNEVEN * counts[least]:
        return []
    return [
        f"classes are uneven: {counts[most]} training images of {classes[most]!r}, "
        f"{counts[least]} of {classes[least]!r}; "
        f"predicting {classes[most]!r} always is correct for {counts[most] / counts.sum():.1%}, "
        "so look at the balanced accuracy"
    ]


def _channels_last(images: torch.Tensor) -> Uint8s:
    """Images (n, H, W, C) in one piece of memory."""
    return np.ascontiguousarray(images.permute(0, 2, 3, 1).numpy())


def _moments(images: Pixels) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation by channel where 255 is 1, exactly, from histograms."""
    values = torch.arange(256, dtype=torch.float64) / 255.0
    means, spreads = [], []
    histograms = torch.zeros((images.shape[1], 256), dtype=torch.float64)
    for part in by_parts(images):
        for channel, histogram in enumerate(histograms):
            histogram += torch.bincount(part[:, channel].flatten().int(), minlength=256)
    for histogram in histograms:
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
        digest.update(repr(tuple(split.pixels.shape)).encode())
        for part in by_parts(split.pixels):
            digest.update(_channels_last(part).data)
        digest.update(split.labels.numpy().data)
    return digest.hexdigest()[:16]
