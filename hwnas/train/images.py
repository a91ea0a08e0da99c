"""Encoded images to tensors: decoded once, in threads, and kept in the user's cache."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import math
import os
import statistics
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL
import torch
from numpy.typing import NDArray
from PIL import Image as Pillow

from hwnas import schemas, store
from hwnas.arrays import ImageShape, Uint8s
from hwnas.backends import images as prepared
from hwnas.errors import DataFormatError, HwnasError, InputError
from hwnas.train import mapped, memory
from hwnas.train.checkpoint import read_tensors, write_tensors
from hwnas.train.labels import places
from hwnas.train.mapped import Pixels
from hwnas.train.raw import LabelledImages, LeftOut, Raw, chosen_of

if TYPE_CHECKING:
    from PIL.Image import Image

# Images larger than this are reduced to it where no input shape is asked for.
LARGEST_NATIVE_SIDE = 224
# Fewer images than this are few; of these, larger ones than the second number are brought to the third.
MANY, LARGEST_OF_FEW, SIDE_OF_FEW = 10_000, 96, 64
# False where only the number of images, their shape and their classes are asked for (`outline.outline`).
decoding: ContextVar[bool] = ContextVar("decoding", default=True)
_CACHE_VERSION = 3  # raise it when decoding changes
# Formats that Pillow hands to other programs, or that hold no picture which it could decode itself.
_NOT_PICTURES = {"BUFR", "EPS", "FPX", "GRIB", "HDF5", "MIC", "MPEG", "PDF", "WMF"}
_GREY = {"1", "L", "LA", "La", "I", "F"}


# Images, and why some could not be decoded, by their places.
Decoded = tuple[torch.Tensor, dict[int, str]]
DecodedOrMapped = tuple[Pixels, dict[int, str]]


@dataclass(frozen=True)
class Item:
    """One encoded image: what to call it, its bytes, its class by name, and what it is for (`files.role`)."""

    what: str
    data: Callable[[], Any]
    label: str
    role: str


@lru_cache(maxsize=1)
def formats() -> tuple[str, ...]:
    """Names of the image formats that are read."""
    Pillow.init()
    return tuple(sorted(set(Pillow.OPEN) - _NOT_PICTURES))


@lru_cache(maxsize=1)
def suffixes() -> frozenset[str]:
    """File suffixes of these formats, in small letters, as Pillow knows them."""
    known = {*formats(), "MPO"}  # several JPEGs in one file: Pillow opens it as JPEG
    return frozenset(end for end, name in Pillow.registered_extensions().items() if name in known)


def assemble(
    items: Sequence[Item],
    classes: tuple[str, ...],
    where: str,
    shape: ImageShape | None,
    *,
    left_out: Sequence[LeftOut] = (),
    notes: Sequence[str] = (),
) -> Raw:
    """Decode, or take what was decoded before; keep it under the hash of everything it depends on.

    An image that cannot be read is left out and named; where most cannot, the source is refused.
    """
    if shape is not None and shape[0] not in (1, 3):
        raise InputError(
            f"{where} holds image files, which are read with 1 channel (grey) or 3 (colour), not {shape[0]}; "
            "images of other channels come as arrays: npz:PATH"
        )
    if items and all(item.role in ("val", "test") for item in items):
        held = " and ".join(sorted({item.role for item in items}))
        raise DataFormatError(f"{where} holds only {held} images, none to train on")
    if shape is None:
        shape, told = _native(items, where)
        notes = [*notes, *told]
    if not decoding.get():
        empty = torch.zeros((1, 1, 1, 1), dtype=torch.uint8).expand(len(items), *shape)
        return _assembled(items, classes, where, (empty, {}), left_out, notes)
    path, needed = _cache_path(items, shape), 2 * len(items) * math.prod(shape)  # the source, and its splits
    limit = memory.image_limit()
    if limit is not None and needed > limit:
        onto = mapped.decoded(
            path.with_suffix(".raw"), len(items), shape, lambda at: _decode_all(items[at], shape)
        )
        given = f"{limit / 2**30:.3g} GiB"
        text = (
            f"{needed / 2**30:.3g} GiB of images are more than the memory for them ({given}) and stay on disk"
        )
        return _assembled(items, classes, where, onto, left_out, [*notes, f"{text}, in {path.parent}"])
    kept = _cached(path, len(items), shape)
    if kept is None:
        kept = _decode_all(items, shape)
        _keep(path, *kept)
    return _assembled(items, classes, where, kept, left_out, notes)


def _assembled(
    items: Sequence[Item],
    classes: tuple[str, ...],
    where: str,
    kept: DecodedOrMapped,
    left_out: Sequence[LeftOut],
    notes: Sequence[str],
) -> Raw:
    images, bad = kept
    if 2 * len(bad) > len(items):
        at = min(bad)
        raise DataFormatError(
            f"{where}: {len(bad)} of {len(items)} images cannot be read; the first is "
            f"{items[at].what}: {bad[at]}"
        )

    def part(*roles: str) -> LabelledImages | None:
        at = [i for i, item in enumerate(items) if item.role in roles and i not in bad]
        if not at:
            return None
        chosen = chosen_of(images, torch.tensor(at))
        labels = places([items[i].label for i in at], classes, where)
        return LabelledImages(chosen, labels, lambda place: _original(items[at[place]], images.shape[1]))

    train = part("train", "")
    if train is None:
        raise DataFormatError(f"{where} holds no image to train on that can be read")
    skipped = [LeftOut(items[at].what, reason) for at, reason in sorted(bad.items())]
    return Raw(
        where,
        classes,
        train,
        part("val"),
        part("test"),
        left_out=(*left_out, *skipped),
        notes=tuple(notes),
    )


def _cache_path(items: Sequence[Item], shape: ImageShape) -> Path:
    """Named by all that the pixels depend on: content, shape, how it is decoded and by what."""
    digest = hashlib.sha256(json.dumps([_CACHE_VERSION, PIL.__version__, shape, len(items)]).encode())
    for item in items:
        try:
            digest.update(hashlib.sha256(item.data()).digest())
        except (OSError, DataFormatError):
            digest.update(b"unreadable")
    return store.home() / "cache" / f"images-{digest.hexdigest()[:24]}.safetensors"


@dataclass(frozen=True)
class _Unreadable:
    """What was wrong with some of the images, by their number."""

    reasons: dict[str, str]


def _cached(path: Path, count: int, shape: ImageShape) -> Decoded | None:
    """What was decoded before, and why some could not be; None where it is missing or not as written."""
    channels, *size = shape
    if not path.is_file():
        return None
    try:
        tensors, about = read_tensors(path, schemas.IMAGES, path.name, _Unreadable)
        images = tensors["images"]
        bad = {int(at): str(reason) for at, reason in about.reasons.items()}
    except (HwnasError, KeyError, TypeError, ValueError, AttributeError):
        return None  # damaged: it is made again
    whole = images.shape == (count, *size, channels) and images.dtype == torch.uint8
    return (images.permute(0, 3, 1, 2), bad) if whole else None


def _keep(path: Path, images: torch.Tensor, bad: dict[int, str]) -> None:
    try:
        about = _Unreadable({str(at): reason for at, reason in bad.items()})
        write_tensors(path, {"images": images.permute(0, 2, 3, 1)}, schemas.IMAGES, path.name, about)
    except OSError as exc:
        logging.getLogger("hwnas").warning("decoded images could not be cached: %s", exc)


def _decode_all(items: Sequence[Item], shape: ImageShape) -> Decoded:
    """Images (n, C, H, W), stored channels last, and what was wrong with some.

    In threads, since decoders release the lock.
    """
    channels, *size = shape
    out = np.zeros((len(items), *size, channels), dtype=np.uint8)
    bad: dict[int, str] = {}

    def decode(at: int) -> None:
        try:
            out[at] = _decode(items[at], shape)
        except DataFormatError as exc:
            bad[at] = str(exc)

    with _no_warnings(), ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for _ in pool.map(decode, range(len(items))):
            pass
    return torch.from_numpy(out).permute(0, 3, 1, 2), bad


def _decode(item: Item, shape: ImageShape) -> Uint8s:
    """One image (H, W, C): upright, its middle cut out, resized as a deployed engine does it."""
    channels, height, width = shape
    cropped = prepared.centred(_original(item, channels)[None], (height, width))
    if cropped.shape[1:3] != (height, width):
        cropped = prepared.resize(cropped, (height, width)).astype(np.uint8)
    image_only: Uint8s = cropped[0]
    return image_only


def _original(item: Item, channels: int) -> Uint8s:
    """One image (H, W, C): upright, of its own size."""
    with _reading(item) as opened:
        image = _plain(_upright(opened), "RGB" if channels == 3 else "L", opened.format or "")
        pixels: Uint8s = np.asarray(image).reshape(image.height, image.width, channels)
    return pixels


def _upright(image: Image) -> Image:
    """Turned as its EXIF orientation says. Odd EXIF data is no reason to lose a photograph."""
    turn = _exif_turn(image)
    return image if turn is None else image.transpose(turn)


# Turns after which an image is as wide as it was high.
_SIDES_SWAPPED = {
    Pillow.Transpose.TRANSPOSE,
    Pillow.Transpose.ROTATE_270,
    Pillow.Transpose.TRANSVERSE,
    Pillow.Transpose.ROTATE_90,
}


def _exif_turn(image: Image) -> Pillow.Transpose | None:
    """What brings an image upright, by its EXIF orientation; None where nothing does, or it is not known."""
    turns = Pillow.Transpose
    known = {
        2: turns.FLIP_LEFT_RIGHT,
        3: turns.ROTATE_180,
        4: turns.FLIP_TOP_BOTTOM,
        5: turns.TRANSPOSE,
        6: turns.ROTATE_270,
        7: turns.TRANSVERSE,
        8: turns.ROTATE_90,
    }
    try:
        return known.get(image.getexif().get(0x0112, 1))
    except Exception:  # Pillow's EXIF reader lets struct.error, SyntaxError and more out
        return None


def _plain(image: Image, mode: str, form: str) -> Image:
    """Convert to 8 bits a channel; Pillow alone would clip 16-bit grey at 255, and floats."""
    if image.mode.startswith("I;16") or (image.mode == "I" and form in ("PNG", "PPM")):
        image = Pillow.fromarray(_bytes(np.asarray(image) / 257.0))  # 65535 is white
    elif image.mode == "F":
        values = np.asarray(image)
        if not np.isfinite(values).all() or values.min() < 0 or values.max() > 1:
            raise ValueError(
                f"its values run from {values.min():g} to {values.max():g}; those of an image of floats go "
                "from 0 to 1, so save it scaled to that, or with 8 bits"
            )
        image = Pillow.fromarray(_bytes(values * 255.0))
    elif image.mode == "I":
        raise ValueError(
            "it has 32-bit integers, whose largest value is not known; save it with 8 or 16 bits"
        )
    if "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert(mode)


def _bytes(values: NDArray[Any]) -> Uint8s:
    rounded: Uint8s = np.rint(values).clip(0, 255).astype(np.uint8)
    return rounded


def _native(items: Sequence[Item], where: str) -> tuple[ImageShape, list[str]]:
    """Shape that suits the images, and a word where it is not their own.

    Where 256 of them have one size, that; else, and where it is reduced, a square of the median of their
    shorter sides, as is usual for photographs. Colour if any has it. Few large images are made small:
    what is learned from them at 224 pixels is less, and takes many times as long (docs/how-to/choose.md).
    """
    found, modes, wrong = [], Counter[str](), ""
    for item in items[:: max(1, len(items) // 256)]:
        try:
            with _no_warnings(), _reading(item) as image:
                turned = _exif_turn(image) in _SIDES_SWAPPED
                found.append(image.size if turned else image.size[::-1])
                modes[image.mode] += 1
        except DataFormatError as exc:
            wrong = wrong or f"{item.what}: {exc}"
    if not found:
        raise DataFormatError(f"{where} holds no image that can be read" + (f"; {wrong}" if wrong else ""))
    colour = any(mode not in _GREY and not mode.startswith("I;16") for mode in modes)
    channels, own = 3 if colour else 1, max(1, round(statistics.median(map(min, found))))
    side = min(own, LARGEST_NATIVE_SIDE)
    height, width = _common(found, side)
    if own <= LARGEST_OF_FEW or len(items) >= MANY:
        if own == side or height == width:
            return (channels, height, width), []
        note = (
            f"the middle square of images of {found[0][0]}x{found[0][1]} (height x width) is used; "
            f"--input {channels}x{height}x{width} takes them whole"
        )
        return (channels, side, side), [note]
    note = (
        f"{len(items)} images of about {own} pixels are few and are resized to {SIDE_OF_FEW}x{SIDE_OF_FEW}; "
        f"--input {channels}x{height}x{width} takes them larger" + ("" if height == width else " and whole")
    )
    return (channels, SIDE_OF_FEW, SIDE_OF_FEW), [note]


def _common(found: Sequence[tuple[int, int]], side: int) -> tuple[int, int]:
    """Height and width of images of one size, the shorter brought to `side`; a square where sizes differ."""
    if len(set(found)) > 1:
        return side, side
    height, width = found[0]
    factor = side / min(height, width)
    return round(height * factor), round(width * factor)


@contextmanager
def _no_warnings() -> Iterator[None]:
    """Without Pillow's own words about EXIF data and the like, which name no file."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        yield


@contextmanager
def _reading(item: Item) -> Iterator[Image]:
    """An open image; whatever is wrong with it becomes a DataFormatError that says why."""
    try:
        with Pillow.open(io.BytesIO(item.data()), formats=formats()) as opened:
            yield opened
    except DataFormatError:
        raise
    except (
        Exception
    ) as exc:  # decoders let nearly everything out on damaged files: struct.error, IndexError, ...
        text = str(exc).split("<_io.")[0].strip() or type(exc).__name__
        raise DataFormatError(f"it cannot be read as an image ({text})") from exc
