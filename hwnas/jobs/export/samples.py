"""Images on which an engine is compared with its network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from hwnas.arrays import Float32s, Int64s, Uint8s
from hwnas.backends.formats import CALIBRATION_IMAGES
from hwnas.deploy.checks import Training
from hwnas.errors import DataFormatError, InputError
from hwnas.jobs.resolve.origin import Origin
from hwnas.lazy import lazy_import
from hwnas.records import Check
from hwnas.train.uri import runs_code

if TYPE_CHECKING:
    import torch

    from hwnas.train.data import Split
else:
    torch = lazy_import("torch")

RANDOM_IMAGES = 128
# So many are decoded in their own size, a few seconds of work; others are taken as the training saw them.
PIXELS = 40_000_000


@dataclass(frozen=True)
class Samples:
    """Pictures (H, W, C) uint8 as a deployed `Session` is given them, and which they are in words.

    Attributes:
        pictures, text: see above.
        prepared: the same images as the training prepared them, (n, C, H, W); None where it recorded
            nothing, so that the engine's manifest says how.
        labels: (n,) classes by the network's names; -1 for training images, which accuracy is not judged by.
        calibration: training images, normalised, for int8.
        about: class names and normalisation of the network, for a manifest.
        accuracy, images: recorded accuracy of the network on the whole validation split and the size of
            that split, where these images are of it.
        checks: whether the data are those of the training.
    """

    pictures: Uint8s | Sequence[Uint8s]
    text: str
    prepared: Float32s | None = None
    labels: Int64s | None = None
    calibration: Float32s | None = None
    about: dict[str, Any] = field(default_factory=dict)
    accuracy: float | None = None
    images: int = 0
    checks: tuple[Check, ...] = ()

    def training(self, source: Origin) -> Training:
        """What is recorded of the network, for the verification."""
        return Training(**source.about, accuracy=self.accuracy, images=self.images)


def samples(data: str | None, source: Origin, limit: int, wanted: int = 0) -> Samples:
    """Validation images of a data set; without one, seeded random images, and said to be so.

    The validation split, since the test split is read once only, by the training; where it has fewer than
    are wanted, training images too, which compare scores as well but say nothing about accuracy. In their
    own size where the source has one, and normalised by what the training recorded, never by the statistics
    of these images: that is how the network will be used.

    Args:
        data: what the user names; None takes what the run was trained on.
        source: the network.
        limit: largest number of images.
        wanted: number that training images are added up to.

    Raises:
        InputError, DataFormatError: the data set cannot be loaded, has other classes than the network, or
            is code that a run's own file names.
    """
    spec = source.spec
    uri = data if data is not None else recorded_data(source)
    if uri is None:
        return _random(source, limit)
    from hwnas.train.data import load, normalise

    dataset = load(uri, input_shape=spec.input_shape, seed=source.seed, limit=source.limit, originals=True)
    about = {"classes": dataset.classes, "mean": dataset.mean, "std": dataset.std, **source.about}
    if len(about["classes"]) != spec.classes:
        raise DataFormatError(
            f"data {uri} has {len(dataset.classes)} classes, the network has {spec.classes}; "
            "give the data that it was trained on"
        )
    val, train = dataset.val, dataset.train
    on_val = spread(min(limit, len(val)), len(val))
    judged = len(on_val)
    more = min(max(min(wanted, limit) - judged, 0), len(train))
    on_train = spread(more, len(train))
    labels = by_name(val.labels[on_val].numpy(), dataset.classes, about["classes"], uri)
    pictures, own = _pictures([*((val, int(at)) for at in on_val), *((train, int(at)) for at in on_train)])
    images = torch.cat([val.pixels[on_val], train.pixels[on_train]])
    text = f"{judged} validation and {more} training" if more else "validation"
    text += f" images of {dataset.name}"
    if own:
        text += f", {'all' if own == len(pictures) else f'{own} of them'} in their own size"
    some = train.pixels[spread(min(CALIBRATION_IMAGES, len(train)), len(train))]
    same = source.fingerprint in (None, dataset.fingerprint)
    return Samples(
        pictures,
        text,
        prepared=normalise(images, about["mean"], about["std"]).contiguous().numpy(),
        labels=np.concatenate([labels, np.full(more, -1, np.int64)]),
        calibration=normalise(some, about["mean"], about["std"]).contiguous().numpy(),
        about=about,
        accuracy=source.accuracy.get("val") if same and source.fingerprint else None,
        images=len(val),
        checks=() if source.fingerprint is None else (_same_data(uri, same, named=data is not None),),
    )


def _random(source: Origin, limit: int) -> Samples:
    """Seeded random bytes, which say nothing about accuracy."""
    channels, height, width = source.spec.input_shape
    shape = (min(limit, RANDOM_IMAGES), height, width, channels)
    noise = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    return Samples(noise, "random images, no data set was given (--data)", about=dict(source.about))


def spread(count: int, total: int) -> Int64s:
    """So many places from all over a split, which may lie in the order of its classes."""
    return np.arange(count, dtype=np.int64) * total // max(count, 1)


def _pictures(chosen: Sequence[tuple[Split, int]]) -> tuple[Uint8s | list[Uint8s], int]:
    """Pictures of these places, and how many of them are in their own size: up to `PIXELS` in all."""
    found: list[Uint8s] = []
    pixels, own = 0, 0
    for split, at in chosen:
        if split.originals is not None and pixels < PIXELS:
            found.append(split.originals(at))
            own += 1
            pixels += found[-1].shape[0] * found[-1].shape[1]
        else:
            found.append(np.ascontiguousarray(split.pixels[at].permute(1, 2, 0).numpy()))
    return (found, own) if own else (np.stack(found), 0)


def recorded_data(source: Origin) -> str | None:
    """The data set that a run's file names, unless it is code.

    A run folder may come from anyone: a function that it names is not imported.

    Raises:
        InputError: it is ``module:function``.
    """
    if source.data is None:
        return None
    if runs_code(source.data):
        raise InputError(
            f"{source.folder} was trained on data of a Python function, {source.data!r}. Code that a file "
            f"names is not run; if you trust it, name it yourself: --data {source.data}"
        )
    return source.data


def by_name(labels: Int64s, given: Sequence[str], wanted: Sequence[str], uri: str) -> Int64s:
    """Labels that are places in `given` as places in `wanted`, by the names of the classes.

    Raises:
        DataFormatError: a name is not among those wanted, or stands there twice.
    """
    places = {name: at for at, name in enumerate(wanted)}
    unknown = [name for name in given if name not in places]
    if unknown or len(places) != len(wanted) or len(set(given)) != len(given):
        raise DataFormatError(
            f"data {uri} has the classes {', '.join(given[:6])}; the network was trained on "
            f"{', '.join(wanted[:6])}"
            + (f", which do not include {', '.join(unknown[:3])}" if unknown else ", not all different")
            + "; give data with the same class names"
        )
    order = np.array([places[name] for name in given], dtype=np.int64)
    found: Int64s = order[labels]
    return found


def _same_data(uri: str, same: bool, *, named: bool) -> Check:
    """The data as they were trained on; others pass where the user named them."""
    if same:
        return Check(name="data", passed=True, detail=f"{uri} is the data that the network was trained on")
    detail = f"{uri} is not the data that the network was trained on (another fingerprint is recorded)"
    if not named:
        detail += f"; it was changed since: name it, --data {uri}, to compare on it as it is now"
    return Check(name="data", passed=named, detail=detail)
