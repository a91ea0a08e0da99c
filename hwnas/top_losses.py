"""The images that a classifier is most wrong about: small pictures in a file of a run folder.

To look at them shows what a figure hides: labels that are wrong, images that nobody could tell apart, a kind
of picture that training never had.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from hwnas.arrays import Uint8s
from hwnas.errors import DataFormatError
from hwnas.lazy import lazy_import
from hwnas.record import Record
from hwnas.store import atomic_path

if TYPE_CHECKING:
    import safetensors.numpy as safetensors_numpy
else:
    safetensors_numpy = lazy_import("safetensors.numpy")

FILE = "top_losses.safetensors"
# So many images are kept, none with a longer side than this, in pixels.
MOST, SIDE = 12, 96


class TopLoss(Record):
    """One of these images.

    Attributes:
        true, named: its class, and the one with the highest score.
        probability: what the network gives its own class.
        loss: cross-entropy, in nats.
    """

    true: str
    named: str
    probability: float = Field(ge=0, le=1)
    loss: float = Field(ge=0)


def write(folder: Path, pictures: Uint8s) -> None:
    """Keep pictures (n, H, W, C), none longer than `SIDE`."""
    with atomic_path(folder / FILE) as temporary:
        safetensors_numpy.save_file({"images": np.ascontiguousarray(pictures)}, temporary)


def read(folder: Path, count: int) -> Uint8s:
    """The pictures (n, H, W, C) of `count` images.

    Raises:
        DataFormatError: missing, damaged, or not what `write` writes.
    """
    path = folder / FILE
    try:
        # Larger ones would be no file of ours: it is looked at before it is read.
        if path.stat().st_size > MOST * SIDE * SIDE * 3 + 65_536:
            raise ValueError("it is too large")
        pictures: Uint8s = safetensors_numpy.load_file(path)["images"]
    except Exception as exc:  # the library lets errors of its own out, which are not imported for this
        raise DataFormatError(f"{path} cannot be read: {exc}") from exc
    whole = pictures.ndim == 4 and len(pictures) == count and pictures.shape[3] in (1, 3)
    if not whole or pictures.dtype != np.uint8 or not 0 < max(pictures.shape[1:3]) <= SIDE:
        raise DataFormatError(
            f"{path} holds {pictures.dtype} of {pictures.shape}; expected {count} pictures of at most "
            f"{SIDE} pixels a side"
        )
    return pictures
