"""Labelled images in memory, always in three splits: train, validation, test.

``load("digits")``, ``load("parquet:data/", input_shape=(3, 32, 32))``: every source ends as uint8
tensors of one shape. Choices look at validation only; the test split is behind `Dataset.test`,
which counts how often it is read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from hwnas.arrays import ImageShape, Int64s, Uint8s
from hwnas.errors import DataFormatError, InputError
from hwnas.train.images import decoding
from hwnas.train.labels import places
from hwnas.train.mapped import Pixels, by_parts
from hwnas.train.raw import LabelledImages, Originals, Raw
from hwnas.train.sources import read
from hwnas.train.splits import divide
from hwnas.train.uri import parse, parts

# Images that are left out are named up to so many.
NAMED = 10
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
        return _described(self.name, self.classes, sizes, self.input_shape)


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
    raw, name = _read(uri, input_shape, strict)
    if not originals:
        raw = _without_originals(raw)
    return _split(raw, name, uri, seed=seed, limit=limit)


@dataclass(frozen=True)
class Outline:
    """What `load` would give, as far as it is known without decoding an image.

    Attributes:
        name, uri, classes, notes, input_shape: as of `Dataset`.
        train, val, test: numbers of images, unreadable ones included.
    """

    name: str
    uri: str
    classes: tuple[str, ...]
    input_shape: ImageShape
    train: int
    val: int
    test: int
    notes: tuple[str, ...]

    def describe(self) -> str:
        """One line for display: name, classes, sizes of the splits, shape."""
        return _described(self.name, self.classes, (self.train, self.val, self.test), self.input_shape)


def outline(
    uri: str,
    *,
    input_shape: ImageShape | None = None,
    seed: int = 0,
    limit: int | None = None,
    strict: bool = False,
) -> Outline:
    """What `load` would give, quickly: images in files are counted, not decoded, and nothing is kept."""
    before = decoding.set(False)
    try:
        raw, name = _read(uri, input_shape, strict)
        parts_, notes = divide(raw, seed, limit)
    finally:
        decoding.reset(before)
    _, channels, height, width = raw.train.images.shape
    train, val, test = (len(part.labels) for part in parts_)
    return Outline(name, uri, raw.classes, (channels, height, width), train, val, test, tuple(notes))


def _described(name: str, classes: Sequence[str], sizes: Sequence[int], shape: ImageShape) -> str:
    c, h, w = shape
    train, val, test = sizes
    return (
        f"{name}: {len(classes)} classes, {train} train, {val} validation, {test} test images of {c}x{h}x{w}"
    )


def _read(uri: str, input_shape: ImageShape | None, strict: bool) -> tuple[Raw, str]:
    """The images of every source that a text names, checked, and what to call them."""
    if input_shape is not None:
        _check_shape(input_shape)
    sources = {name: parse(source) for name, source in parts(uri).items()}
    scheme, where = sources["train"]
    raw = read(scheme, where, input_shape)
    _, channels, height, width = raw.train.images.shape
    for name in ("val", "test"):
        if name in sources:
            raw = _joined(raw, name, read(*sources[name], (channels, height, width)))
    if raw.left_out:
        told = _left_out(raw)
        if strict:
            raise DataFormatError(f"{raw.where}: {told}; repair or remove them, or leave out --strict")
        raw = replace(raw, notes=(told, *raw.notes))
    _check_labels(raw)
    name = Path(where).name if scheme != "module" else where
    return raw, name or scheme


def _without_originals(raw: Raw) -> Raw:
    kept = {name: getattr(raw, name) for name in ("train", "val", "test")}
    return replace(raw, **{name: part and replace(part, originals=None) for name, part in kept.items()})


def _joined(raw: Raw, name: str, other: Raw) -> Raw:
    """A source with another one's images as its validation or test split; classes are joined by name."""

    own = {"val": other.val, "test": other.test}[name]
    found = own or other.train
    labels = places(
        [other.classes[at] for at in found.labels], raw.classes, f"{name} images of {other.where}"
    )
    notes = (*raw.notes, *(note for note in other.notes if note not in raw.notes))
    if (raw.val if name == "val" else raw.test) is not None:
        notes = (*notes, f"the {name} images of {raw.where} are not used, those of {other.where} are")
    part = replace(found, labels=labels)
    raw = replace(raw, left_out=(*raw.left_out, *other.left_out), notes=notes)
    return replace(raw, val=part) if name == "val" else replace(raw, test=part)


def _left_out(raw: Raw) -> str:
    """How many images cannot be used, and the first of them by name."""
    count = len(raw.left_out)
    named = "; ".join(f"{one.what}: {one.reason}" for one in raw.left_out[:NAMED])
    more = f"; and {count - NAMED} more" if count > NAMED else ""
    return f"{count} image{'s are' if count > 1 else ' is'} left out ({named}{more})"


def _check_shape(shape: ImageShape) -> None:
    channels, height, width = shape
    if min(shape) < 1:
        raise InputError(
            f"images cannot be converted to {channels}x{height}x{width}; each of these must be at least 1"
        )


def _check_labels(raw: Raw) -> None:
    """Refuse labels without a class and classes without images."""
    count = len(raw.classes)
    hint = "".join(f"; {note}" for note in raw.notes)
    if count < 2:
        raise DataFormatError(f"{raw.where} holds {count} class; classification needs at least two{hint}")
    for part, what in ((raw.train, "training"), (raw.val, "validation"), (raw.test, "test")):
        if part is not None and len(part.labels) and not 0 <= part.labels.min() <= part.labels.max() < count:
            raise DataFormatError(
                f"{raw.where}: {what} labels run from {part.labels.min()} to {part.labels.max()}, but "
                f"the {count} classes are 0 to {count - 1}"
            )
    # One image per class for each split that is drawn from these.
    least = 1 + (raw.val is None or raw.test is None) + (raw.val is None and raw.test is None)
    for name, images in zip(raw.classes, np.bincount(raw.train.labels, minlength=count)):
        if images < least:
            raise DataFormatError(
                f"{raw.where}: class {name!r} has {images} training images; at least {least} are needed "
                f"to have one in every split{hint}"
            )


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
