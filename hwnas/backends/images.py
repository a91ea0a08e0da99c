"""From images as bytes to the input of a network: the arithmetic that the CUDA kernel repeats bit by bit.

Resizing is separable with a triangle filter that widens when shrinking (bilinear with antialias, as
Pillow's and torchvision's), and rounded to whole levels: training keeps its images as bytes, too.
Every operation is one float32 rounding in a fixed order, so the GPU kernel ``preprocess_f32`` of
``kernels/kernels.cu`` gives the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwnas.arrays import Float32s, Uint8s
from hwnas.errors import InputError


@dataclass(frozen=True)
class Taps:
    """One axis of a resize: output i is the sum over j of weight[i, j] * source[first[i] + j].

    Attributes:
        first: (out,) int32, index of the first source pixel.
        weight: (out, taps) float32; rows that need fewer taps end in zeros, and only there may
            first + j lie outside the source.
    """

    first: NDArray[np.int32]
    weight: Float32s


@lru_cache(maxsize=64)
def taps(source: int, out: int) -> Taps:
    """The filter of one axis from `source` to `out` pixels; identity where they are equal.

    Centres are at half pixels. The support is one source pixel to each side, times the shrinking
    factor where the image shrinks (Pillow's ``precompute_coeffs``).
    """
    if source < 1 or out < 1:
        raise InputError(f"cannot resize {source} pixels to {out}; both must be at least 1")
    scale = source / out
    support = max(scale, 1.0)
    centre = (np.arange(out) + 0.5) * scale
    first = np.maximum(np.floor(centre - support + 0.5), 0).astype(np.int32)
    last = np.minimum(np.floor(centre + support + 0.5), source).astype(np.int32)
    width = int((last - first).max())
    at = first[:, None] + np.arange(width)
    weight = np.maximum(0.0, 1.0 - np.abs((at + 0.5 - centre[:, None]) / support))
    weight[at >= last[:, None]] = 0.0
    weight /= weight.sum(axis=1, keepdims=True)
    return Taps(first, weight.astype(np.float32))


def prepare(
    images: Uint8s,
    size: tuple[int, int],
    mean: Float32s,
    std: Float32s,
    *,
    swap_channels: bool = False,
) -> Float32s:
    """Resize, scale to [0, 1], normalise and transpose.

    Args:
        images: (n, H, W, C) uint8.
        size: height and width to resize to.
        mean, std: (C,) of images in [0, 1].
        swap_channels: reverse the channel order first (BGR from OpenCV).

    Returns:
        (n, C, height, width) float32.

    Raises:
        InputError: another type or shape.
    """
    check(images, mean, std)
    levels = resize(images[..., ::-1] if swap_channels else images, size)
    ready = (levels / np.float32(255) - mean.astype(np.float32)) / std.astype(np.float32)
    return np.ascontiguousarray(ready.transpose(0, 3, 1, 2))


def resize(images: Uint8s, size: tuple[int, int]) -> Float32s:
    """Images (n, H, W, C) at another height and width, as whole levels in float32.

    Training and deployment both resize by this function, so a deployed engine sees the very pixels
    that its network learned from.
    """
    rows, columns = taps(images.shape[1], size[0]), taps(images.shape[2], size[1])
    wide = _along(images.astype(np.float32), columns, axis=2)
    # The last rounding may pass 255 by less than a level; bytes hold no more.
    return np.clip(np.rint(_along(wide, rows, axis=1)), 0, 255).astype(np.float32)


def centred(images: Uint8s, size: tuple[int, int]) -> Uint8s:
    """The middle of images (n, H, W, C) in the form of `size` (height, width): what training cuts out."""
    rows, columns = middle(images.shape[1:3], size)
    return images[:, rows, columns]


def middle(of: tuple[int, int], size: tuple[int, int]) -> tuple[slice, slice]:
    """Rows and columns of the largest part in the middle of a picture that has the proportions of `size`.

    The square in the middle where height and width of `size` are equal.
    """
    (height, width), (tall, wide) = of, size
    rows = min(height, max(1, round(width * tall / wide)))
    columns = min(width, max(1, round(height * wide / tall)))
    top, left = (height - rows) // 2, (width - columns) // 2
    return slice(top, top + rows), slice(left, left + columns)


def _along(source: Float32s, axis_taps: Taps, axis: int) -> Float32s:
    """Weighted sums along one axis, one tap after another as the kernel does."""
    shape = [1] * source.ndim
    shape[axis] = len(axis_taps.first)
    total: Float32s = np.zeros((*source.shape[:axis], shape[axis], *source.shape[axis + 1 :]), np.float32)
    for j in range(axis_taps.weight.shape[1]):
        # A tap outside the image has weight zero; the clip only keeps the index legal.
        index = np.minimum(axis_taps.first + j, source.shape[axis] - 1)
        total += axis_taps.weight[:, j].reshape(shape) * source.take(index, axis=axis)
    return total


def check(images: NDArray[Any], mean: Float32s, std: Float32s) -> None:
    """InputError unless `images` are (n, H, W, C) uint8 and mean and std have C values."""
    if images.dtype != np.uint8 or images.ndim != 4 or 0 in images.shape:
        raise InputError(
            f"images are {images.dtype} {images.shape}; expected uint8 (n, height, width, channels)"
        )
    if mean.shape != (images.shape[3],) or std.shape != mean.shape:
        raise InputError(
            f"mean {mean.shape} and std {std.shape} are not one value for each channel of {images.shape}"
        )
