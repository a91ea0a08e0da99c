"""Encoded images to tensors: decoded once, in threads, and kept in the user's cache."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import math
import os
import re
import statistics
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hwnas import store
from hwnas.errors import DataFormatError, InputError
from hwnas.train.sources import Bytes, Ints, Raw, Shape

if TYPE_CHECKING:
    from PIL.Image import Image

# Images larger than this are reduced to it where no input shape is asked for.
LARGEST_NATIVE_SIDE = 224
_CACHE_VERSION = 1  # raise it when decoding changes


@dataclass(frozen=True)
class Item:
    """One encoded image: what to call it, its bytes, its class, and what it is for (see `files.role`)."""

    what: str
    data: Callable[[], Any]
    label: int
    role: str


def assemble(items: Sequence[Item], classes: tuple[str, ...], where: str, shape: Shape | None) -> Raw:
    """Decode, or take what was decoded before; keep it under the hash of everything it depends on."""
    # Validation images are the test split where there is no other; else they join the pool.
    apart = next((r for r in ("test", "val") if any(item.role == r for item in items)), None)
    pool = [item for item in items if item.role != apart or apart is None]
    test = [item for item in items if item.role == apart and apart is not None]
    if not pool:
        raise DataFormatError(f"{where} holds only {apart} images, none to train on")
    shape = shape or _native(pool)
    _check_memory(len(items), shape, where)
    digest = hashlib.sha256(json.dumps([_CACHE_VERSION, shape, len(pool)]).encode())
    for item in (*pool, *test):
        digest.update(hashlib.sha256(item.data()).digest())
    path = store.home() / "cache" / f"images-{digest.hexdigest()[:24]}.safetensors"
    images = _cached(path, len(items), shape)
    if images is None:
        images = _decode_all((*pool, *test), shape)
        _keep(path, images)
    return Raw(
        where,
        images[: len(pool)],
        _labels(pool),
        classes,
        images[len(pool) :] if test else None,
        _labels(test) if test else None,
    )


def _labels(items: Sequence[Item]) -> Ints:
    return np.array([item.label for item in items], dtype=np.int64)


def _cached(path: Path, count: int, shape: Shape) -> torch.Tensor | None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        images = load_file(path)["images"]
    except (OSError, SafetensorError, KeyError):
        return None  # not there, or damaged: it is made again
    channels, side, _ = shape
    return images.permute(0, 3, 1, 2) if images.shape == (count, side, side, channels) else None


def _keep(path: Path, images: torch.Tensor) -> None:
    from safetensors.torch import save_file

    try:
        with store.atomic_path(path) as temporary:
            save_file({"images": images.permute(0, 2, 3, 1)}, temporary)
    except OSError as exc:
        logging.getLogger("hwnas").warning("decoded images are not kept for the next time: %s", exc)


def _decode_all(items: Sequence[Item], shape: Shape) -> torch.Tensor:
    """Images (n, C, H, W), stored channels last. Threads, since decoders release the lock."""
    channels, side, _ = shape
    out = np.empty((len(items), side, side, channels), dtype=np.uint8)

    def decode(at: int) -> None:
        out[at] = _decode(items[at], shape)

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for _ in pool.map(decode, range(len(items))):
            pass
    return torch.from_numpy(out).permute(0, 3, 1, 2)


def _decode(item: Item, shape: Shape) -> Bytes:
    """One image (H, W, C): upright, centre crop to a square, resized."""
    from PIL import Image, ImageOps

    channels, side, _ = shape
    with _naming(item.what), Image.open(io.BytesIO(item.data())) as opened:
        mode = "RGB" if channels == 3 else "L"
        opened.draft(mode, (2 * side, 2 * side))  # lets JPEG decode large photographs at a coarser scale
        image = _plain(ImageOps.exif_transpose(opened), mode)
        if image.size != (side, side):
            image = ImageOps.fit(image, (side, side), Image.Resampling.BILINEAR)
        return np.asarray(image).reshape(side, side, channels)


def _plain(image: Image, mode: str) -> Image:
    """Convert to 8 bits a channel; Pillow alone would clip 16-bit grey at 255."""
    from PIL import Image as Pillow

    if image.mode.startswith("I"):
        image = Pillow.fromarray(np.rint(np.asarray(image) / 257.0).astype(np.uint8))
    if "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert(mode)


def _native(items: Sequence[Item]) -> Shape:
    """Shape that suits the images: median of the shorter sides over 256 of them; colour if any has it."""
    from PIL import Image

    sides, colour = [], False
    for item in items[:: max(1, len(items) // 256)]:
        with _naming(item.what), Image.open(io.BytesIO(item.data())) as image:
            sides.append(min(image.size))
            colour = colour or image.mode not in ("1", "L", "LA", "I", "I;16", "I;16B")
    side = min(round(statistics.median(sides)), LARGEST_NATIVE_SIDE)
    return (3 if colour else 1, side, side)


@contextmanager
def _naming(what: str) -> Iterator[None]:
    """Turn what Pillow raises on a damaged image into a DataFormatError that names it."""
    from PIL import Image

    try:
        yield
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as exc:
        raise DataFormatError(f"{what} cannot be read as an image: {exc}") from exc


def _check_memory(count: int, shape: Shape, where: str) -> None:
    """Refuse what would not fit in memory twice (source and splits), where the system tells."""
    needed = 2 * count * math.prod(shape)
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError:
        return
    found = re.search(r"MemAvailable:\s+(\d+) kB", text)
    if found is None:
        return
    free = int(found.group(1)) * 1024
    if needed > free:
        raise InputError(
            f"{where}: {count} images of {'x'.join(map(str, shape))} need {needed / 2**30:.1f} GiB of "
            f"memory, {free / 2**30:.1f} GiB are free; choose a smaller input"
        )
