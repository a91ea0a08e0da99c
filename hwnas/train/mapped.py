"""Decoded images that stay on disk: a file of raw pixels, of which only what a batch needs is read.

Beyond `memory.image_limit` images are decoded into such a file in the user's cache, once. It is opened
read-only, its length and SHA-256 are those that the sealed record beside it says, and what is taken out of it
is equal, bit for bit, to images in memory.
"""

from __future__ import annotations

import errno
import hashlib
import math
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hwnas import schemas, seals
from hwnas.arrays import ImageShape, Uint8s
from hwnas.documents import read_json
from hwnas.errors import DataFormatError, HwnasError, InputError
from hwnas.store import atomic_path, write_json

# Bytes of the images that are taken at once where all are gone through.
PART = 1 << 26


@dataclass(frozen=True, eq=False)
class MappedImages:
    """Some of the images in a file, uint8 (n, C, H, W), stored channels last.

    Another process opens the file again: pickled, this is its path.

    Attributes:
        path: the file.
        count: images in it.
        image: channels, height and width.
        places: int64 (n,), which of them; None is all.
    """

    path: Path
    count: int
    image: ImageShape
    places: torch.Tensor | None = None

    def __len__(self) -> int:
        return self.count if self.places is None else len(self.places)

    @property
    def shape(self) -> torch.Size:
        """As of a tensor of these images."""
        return torch.Size((len(self), *self.image))

    def __getitem__(self, at: int | slice | torch.Tensor | Any) -> torch.Tensor:
        """Images at these places, in memory: uint8 (m, C, H, W), or (C, H, W) at one."""
        if isinstance(at, (slice, int)):
            places = np.arange(len(self))[at]
        else:
            places = np.arange(len(self))[torch.as_tensor(at).cpu().numpy()]
        if self.places is not None:
            places = self.places.numpy()[places]
        pixels = torch.from_numpy(np.array(_opened(self.path, self.count, self.image)[places]))
        return pixels.movedim(-1, -3)

    def chosen(self, places: torch.Tensor) -> MappedImages:
        """Those at some places; nothing is read."""
        return replace(self, places=places if self.places is None else self.places[places])


# Images of a split: in memory, or in a file.
Pixels = torch.Tensor | MappedImages


def taken(images: Pixels, at: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A tensor of images and places in it that are the images at `at`; both on the device of `at`."""
    if isinstance(images, torch.Tensor):
        return images, at
    return images[at].to(at.device), torch.arange(len(at), device=at.device)


def by_parts(images: Pixels) -> Iterable[torch.Tensor]:
    """All images in order, some at once."""
    step = _at_once(images.shape[1:])
    for begin in range(0, len(images), step):
        yield images[begin : begin + step]


def _at_once(shape: Iterable[int]) -> int:
    return max(1, PART // math.prod(shape))


def decoded(
    path: Path,
    count: int,
    shape: ImageShape,
    decode: Callable[[slice], tuple[torch.Tensor, Mapping[int, str]]],
) -> tuple[MappedImages, dict[int, str]]:
    """Images in a file, which is made where it is not there or not as it was written.

    Args:
        path: the file; its name stands for all that the pixels depend on.
        count: images.
        shape: of an image.
        decode: gives the images of some places, uint8 (n, C, H, W), and why some of them could not be read.

    Returns:
        The images, and why some could not be read.

    Raises:
        InputError: the disk has no room for them, or cannot be written.
    """
    record = path.with_suffix(".json")
    known = _known(path, record, count, shape)
    if known is not None:
        return MappedImages(path, count, shape), known
    size = count * math.prod(shape)
    bad: dict[int, str] = {}
    digest = hashlib.sha256()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        record.unlink(missing_ok=True)
        if shutil.disk_usage(path.parent).free < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        # Written, not mapped: of a mapped file a full disk is no error but the end of the process.
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            for begin in range(0, count, step := _at_once(shape)):
                images, wrong = decode(slice(begin, begin + step))
                pixels = np.ascontiguousarray(images.permute(0, 2, 3, 1).numpy())
                file.write(pixels.data)
                digest.update(pixels.data)
                bad |= {begin + at: why for at, why in wrong.items()}
        about = {"sha256": digest.hexdigest(), "unreadable": {str(at): why for at, why in bad.items()}}
        write_json(record, {"schema": schemas.IMAGES, **about}, sealed=True)
    except OSError as exc:
        raise InputError(
            f"{count} images of {'x'.join(map(str, shape))} need {size / 2**30:.3g} GiB: too much for "
            f"memory, and {path.parent} cannot hold them ({exc.strerror or exc}); choose a smaller input, "
            "name a larger disk by HWNAS_HOME, or a larger limit by HWNAS_IMAGE_MEMORY (such as 64GiB)"
        ) from exc
    return MappedImages(path, count, shape), bad


def _known(path: Path, record: Path, count: int, shape: ImageShape) -> dict[int, str] | None:
    """Why some images could not be read; None where the file is not there, or not as it was written."""
    if not path.is_file() or not record.is_file():
        return None
    try:
        body = read_json(record, "record of decoded images", schemas.IMAGES, sealed=True)
        whole = path.stat().st_size == count * math.prod(shape)
        if not whole or seals.file_sha256(path) != body["sha256"]:
            return None
        return {int(at): str(why) for at, why in body["unreadable"].items()}
    except (HwnasError, OSError, KeyError, ValueError, AttributeError):
        return None


@lru_cache(maxsize=4)
def _opened(path: Path, count: int, shape: ImageShape) -> Uint8s:
    channels, height, width = shape
    try:
        return np.memmap(path, np.uint8, mode="r", shape=(count, height, width, channels))
    except (OSError, ValueError) as exc:
        raise DataFormatError(
            f"the decoded images {path} are gone or have changed ({exc}); repeat the command, which makes "
            "them again"
        ) from exc
