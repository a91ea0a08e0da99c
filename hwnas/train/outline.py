"""What a source of images holds, without decoding them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hwnas.arrays import ImageShape
from hwnas.train.images import decoding
from hwnas.train.reading import checked
from hwnas.train.splits import divide


@dataclass(frozen=True)
class Outline:
    """What `data.load` would give, as far as it is known without decoding an image.

    Attributes:
        name, uri, classes, notes, input_shape: as of `data.Dataset`.
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
        return described(self.name, self.classes, (self.train, self.val, self.test), self.input_shape)


def outline(
    uri: str,
    *,
    input_shape: ImageShape | None = None,
    seed: int = 0,
    limit: int | None = None,
    strict: bool = False,
) -> Outline:
    """What `data.load` would give, quickly: images in files are counted, not decoded, and nothing is kept."""
    before = decoding.set(False)
    try:
        raw, name = checked(uri, input_shape, strict)
        parts_, notes = divide(raw, seed, limit)
    finally:
        decoding.reset(before)
    _, channels, height, width = raw.train.images.shape
    train, val, test = (len(part.labels) for part in parts_)
    return Outline(name, uri, raw.classes, (channels, height, width), train, val, test, tuple(notes))


def described(name: str, classes: Sequence[str], sizes: Sequence[int], shape: ImageShape) -> str:
    """One line: name, classes, sizes of the three splits, shape."""
    c, h, w = shape
    train, val, test = sizes
    return (
        f"{name}: {len(classes)} classes, {train} train, {val} validation, {test} test images of {c}x{h}x{w}"
    )
