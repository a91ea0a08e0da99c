"""From pictures to scores by an engine: the one way that `Session` and the verification both take."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwnas.arrays import Float32s, Uint8s
from hwnas.backends import images as prepared
from hwnas.deploy import engine as engines
from hwnas.deploy.manifest import EngineManifest, Preprocessing
from hwnas.errors import InputError
from hwnas.protocols import Engine

WIDTH, HEIGHT = 640, 480  # of the picture that preprocessing is timed on: a usual camera's
CALLS = 15


def scores(
    engine: Engine,
    manifest: EngineManifest,
    images: NDArray[Any] | Sequence[NDArray[Any]],
    *,
    bgr: bool = False,
) -> Float32s:
    """Raw scores (logits), (n, classes) float32.

    Args:
        engine: as the manifest describes it.
        manifest: says size, normalisation and channels.
        images: uint8 (n, H, W, C) or (H, W, C) of any size, as image libraries give them: cropped to the
            middle in the proportions of the network's images, resized, scaled to [0, 1] and normalised, as
            in training; or float (n, C, H, W), taken as normalised; or a list of pictures (H, W, C),
            each of its own size.
        bgr: images in bytes have their channels in reverse order, as OpenCV gives them.

    Raises:
        InputError: another type or shape.
    """
    if not isinstance(images, np.ndarray):
        if not isinstance(images, (list, tuple)) or not all(isinstance(one, np.ndarray) for one in images):
            raise InputError("images: expected an array, or a list of arrays, one for each picture")
        if not images:
            raise InputError("images: none are given")
        return np.concatenate([scores(engine, manifest, picture, bgr=bgr) for picture in images])
    array = _checked(np.asarray(images), manifest)
    if array.dtype != np.uint8:
        return engines.run_all(engine, np.ascontiguousarray(array, np.float32))
    on_device = getattr(engine, "run_bytes", None)  # a GPU prepares them itself, with equal bits
    if on_device is not None:
        mean, std = manifest.normalisation
        given = {"mean": mean, "std": std, "swap_channels": bgr}
        return engines.run_all(
            engine,
            prepared.centred(array, manifest.network.input_shape[1:]),
            lambda part: on_device(part, **given),
        )
    return engines.run_all(engine, ready(array, manifest, bgr=bgr))


def ready(pictures: Uint8s, manifest: EngineManifest, *, bgr: bool = False) -> Float32s:
    """Pictures (n, H, W, C) as the network takes them: middle cut out, resized, normalised, (n, C, h, w)."""
    mean, std = manifest.normalisation
    size = manifest.network.input_shape[1:]
    return prepared.prepare(prepared.centred(pictures, size), size, mean, std, swap_channels=bgr)


def cost(engine: Engine, manifest: EngineManifest) -> Preprocessing | None:
    """Time of preprocessing one picture on this machine; None where the device prepares it itself."""
    if getattr(engine, "run_bytes", None) is not None:
        return None
    channels = manifest.network.stem.c_in
    picture = np.random.default_rng(0).integers(0, 256, (1, HEIGHT, WIDTH, channels), dtype=np.uint8)
    ready(picture, manifest)  # the filters of a size are made once
    marks = [time.perf_counter()]
    for _ in range(CALLS):
        ready(picture, manifest)
        marks.append(time.perf_counter())
    return Preprocessing(
        width=WIDTH, height=HEIGHT, median_ms=float(np.median(np.diff(marks))) * 1e3, samples=CALLS
    )


def _checked(images: NDArray[Any], manifest: EngineManifest) -> NDArray[Any]:
    shape = manifest.network.input_shape
    channels, height, width = shape
    is_bytes = images.dtype == np.uint8
    stack = images[None] if is_bytes and images.ndim == 3 else images
    fits = stack.ndim == 4 and (stack.shape[3] == channels if is_bytes else stack.shape[1:] == shape)
    known = is_bytes or np.issubdtype(images.dtype, np.floating)
    if not (known and fits and stack.size):
        raise InputError(
            f"images: {images.dtype} {images.shape}; expected uint8 (n, height, width, {channels}), or "
            f"normalised float (n, {channels}, {height}, {width})"
        )
    return stack
