"""Sources of images read, joined and checked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from hwnas.arrays import ImageShape
from hwnas.errors import DataFormatError, InputError
from hwnas.train.labels import places
from hwnas.train.raw import Raw
from hwnas.train.sources import read
from hwnas.train.uri import parse, parts

# Images that are left out are named up to so many.
NAMED = 10


def checked(uri: str, input_shape: ImageShape | None, strict: bool) -> tuple[Raw, str]:
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
