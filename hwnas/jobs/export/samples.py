"""Images on which an engine is compared with its network."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwnas.deploy.typed_onnx import CALIBRATION_IMAGES
from hwnas.errors import DataFormatError
from hwnas.jobs.resolve.origin import Origin
from hwnas.protocols import Floats

RANDOM_IMAGES = 64


@dataclass(frozen=True)
class Samples:
    """Normalised images (n, C, H, W), their labels (n,) where known, and which they are in words.

    `about` has the data's class names and normalisation, for a manifest; `calibration` training
    images, for int8.
    """

    images: Floats
    text: str
    calibration: Floats | None = None
    labels: NDArray[np.int64] | None = None
    about: dict[str, Any] = field(default_factory=dict)


def samples(data: str | None, source: Origin, limit: int) -> Samples:
    """Validation images of a data set; without one, seeded random images, and said to be so.

    The validation split, since the test split is read once only, by the training.

    Raises:
        InputError, DataFormatError: the data set cannot be loaded, or has other classes than the network.
    """
    spec = source.spec
    if data is None:
        rng = np.random.default_rng(0)
        images = rng.standard_normal((min(limit, RANDOM_IMAGES), *spec.input_shape), dtype=np.float32)
        return Samples(images, "random images, no data set was given (--data)")
    from hwnas.train.data import load

    dataset = load(data, input_shape=spec.input_shape, seed=source.seed, limit=source.limit)
    if len(dataset.classes) != spec.classes:
        raise DataFormatError(
            f"data {data} has {len(dataset.classes)} classes, the network tells {spec.classes} apart; "
            "give the data that it was trained on"
        )
    chosen = dataset.val
    images = chosen.normalised(slice(0, limit)).contiguous().numpy()
    labels = chosen.labels[:limit].numpy()
    some = dataset.train.normalised(slice(0, CALIBRATION_IMAGES)).contiguous().numpy()
    about = {"classes": dataset.classes, "mean": dataset.mean, "std": dataset.std}
    return Samples(
        np.ascontiguousarray(images),
        f"validation images of {dataset.name}",
        calibration=np.ascontiguousarray(some),
        labels=labels,
        about=about,
    )
