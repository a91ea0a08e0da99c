"""Where images come from: one reader a source, all of them giving `Raw`.

A reader takes the place and the wanted shape (None: the data's own) and returns uint8 images with
their labels. Nothing is split, balanced or normalised here.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hwnas.errors import DataFormatError, InputError

Shape = tuple[int, int, int]
Ints = NDArray[np.int64]
Bytes = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Raw:
    """What a source holds.

    `images` uint8 (n, C, H, W) and `labels` int64 (n,) are for training and validation; the test
    pair is None where the source has no test images of its own. `where` is for messages.
    """

    where: str
    images: torch.Tensor
    labels: Ints
    classes: tuple[str, ...]
    test_images: torch.Tensor | None = None
    test_labels: Ints | None = None
    mirrors: bool = True


def read(scheme: str, where: str, shape: Shape | None) -> Raw:
    """Read the source that `data.parse` found; errors as in `data.load`."""
    from hwnas.train import files

    readers: dict[str, Callable[[Path, Shape | None], Raw]] = {
        "folder": files.read_folder,
        "parquet": files.read_parquet,
        "npz": read_npz,
        "cifar10": read_cifar10,
    }
    if scheme == "digits":
        return read_digits(shape or (3, 32, 32))
    if scheme == "module":
        return read_function(where, shape)
    path = Path(where).expanduser()
    if not path.exists():
        raise InputError(f"data {scheme}:{where}: {path.absolute()} does not exist")
    return readers[scheme](path, shape)


def read_digits(shape: Shape) -> Raw:
    """The 1797 handwritten digits of the UCI set that scikit-learn embeds: 8x8, 16 levels of grey."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    grey = np.rint(digits.images * (255.0 / 16.0)).astype(np.uint8)
    images = fit(torch.from_numpy(grey[:, None]), shape)
    names = tuple(str(name) for name in digits.target_names)
    # A mirrored 2 is not a 2.
    return Raw("digits", images, digits.target.astype(np.int64), names, mirrors=False)


def read_npz(path: Path, shape: Shape | None) -> Raw:
    """Arrays in an .npz file, named as in `arrays`; files with pickled objects are refused."""
    import zipfile

    try:
        with np.load(path, allow_pickle=False) as file:
            found = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as exc:
        raise DataFormatError(f"{path} is not an .npz file of plain arrays: {exc}") from exc
    return arrays(found, str(path), shape)


def read_function(uri: str, shape: Shape | None) -> Raw:
    """Call ``module:function`` without arguments; it returns a mapping as `arrays` takes it.

    The module is looked for in the working directory as well, as where a script lies.
    """
    module, _, name = uri.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        function = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as exc:
        if exc.name is None or not module.startswith(exc.name):
            raise  # the user's module was found and misses something itself
        raise InputError(
            f"data {uri!r}: there is no module {module!r}, neither installed nor in {Path.cwd()}; "
            "other sources are digits, folder:PATH, parquet:PATH, npz:PATH, cifar10:PATH"
        ) from exc
    except AttributeError as exc:
        raise InputError(f"data {uri!r}: module {module!r} has no {name!r}") from exc
    finally:
        sys.path.remove(str(Path.cwd()))
    found = function()
    if not isinstance(found, Mapping):
        raise DataFormatError(
            f"data {uri!r} returned a {type(found).__name__}; expected a mapping with the arrays "
            "images and labels"
        )
    return arrays(found, uri, shape)


# The names that Keras gives the arrays of its .npz files are taken as well.
_KERAS = {"x_train": "images", "y_train": "labels", "x_test": "test_images", "y_test": "test_labels"}


def arrays(found: Mapping[str, Any], where: str, shape: Shape | None) -> Raw:
    """Images given as arrays.

    ``images`` uint8 (n, H, W), (n, H, W, C) or (n, C, H, W) and ``labels`` integers (n,) are needed;
    ``test_images``, ``test_labels`` and ``classes`` (names, by label) may be there.
    """
    named = {_KERAS.get(name, name): value for name, value in found.items()}
    missing = [name for name in ("images", "labels") if name not in named]
    if missing:
        raise DataFormatError(
            f"{where} holds {', '.join(sorted(found)) or 'nothing'}, but not {' and '.join(missing)}; "
            "expected images and labels, optionally test_images, test_labels and classes"
        )
    if ("test_images" in named) != ("test_labels" in named):
        raise DataFormatError(f"{where} holds only one of test_images and test_labels; give both or neither")
    images, labels = _pair(named["images"], named["labels"], where, shape)
    classes = tuple(str(c) for c in named["classes"]) if "classes" in named else _numbered(labels)
    if "test_images" not in named:
        return Raw(where, images, labels, classes)
    native = (images.shape[1], images.shape[2], images.shape[3])
    test = _pair(named["test_images"], named["test_labels"], where, native)
    return Raw(where, images, labels, classes, *test)


def _numbered(labels: Ints) -> tuple[str, ...]:
    return tuple(str(i) for i in range(int(labels.max(initial=-1)) + 1))


def _pair(images: Any, labels: Any, where: str, shape: Shape | None) -> tuple[torch.Tensor, Ints]:
    """Check one pair of arrays and bring it to (n, C, H, W) of the wanted shape."""
    images, labels = np.asarray(images), np.asarray(labels)
    if images.dtype != np.uint8:
        raise DataFormatError(
            f"{where}: images are {images.dtype}; expected uint8 from 0 to 255 (from 0..1: "
            "(images * 255).round().astype('uint8'))"
        )
    if labels.ndim == 2 and labels.shape[1] == 1:  # Keras' CIFAR has a column
        labels = labels[:, 0]
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer) or len(labels) != len(images):
        raise DataFormatError(
            f"{where}: labels are {labels.dtype} {labels.shape} for {len(images)} images; expected one "
            "integer an image"
        )
    if images.ndim == 3:
        images = images[:, None]
    elif images.ndim == 4 and images.shape[3] in (1, 3):
        images = np.moveaxis(images, 3, 1)
    if images.ndim != 4 or images.shape[1] not in (1, 3) or 0 in images.shape:
        raise DataFormatError(
            f"{where}: images have the shape {images.shape}; expected (n, H, W), (n, H, W, C) or "
            "(n, C, H, W) with 1 or 3 channels, and none of them empty"
        )
    tensor = torch.from_numpy(np.ascontiguousarray(images))
    side = min(images.shape[2:])
    return fit(tensor, shape or (images.shape[1], side, side)), labels.astype(np.int64)


def fit(images: torch.Tensor, shape: Shape) -> torch.Tensor:
    """Bring uint8 (n, C, H, W) to a shape: centre crop to a square, bilinear resizing, channels.

    Grey is repeated into colour; colour becomes grey by the luma of ITU-R BT.601.
    """
    channels, side, _ = shape
    _, have, height, width = images.shape
    square = min(height, width)
    top, left = (height - square) // 2, (width - square) // 2
    images = images[:, :, top : top + square, left : left + square]
    if have == 3 and channels == 1:
        weights = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
        images = torch.cat(
            [(p * weights).sum(1, keepdim=True).round().byte() for p in torch.split(images, 1024)]
        )
    if square != side:
        images = torch.cat([_resize(part, side) for part in torch.split(images, 1024)])
    return images.expand(-1, channels, -1, -1) if images.shape[1] == 1 else images


def _resize(images: torch.Tensor, side: int) -> torch.Tensor:
    resized = torch.nn.functional.interpolate(
        images.float(), size=(side, side), mode="bilinear", antialias=True, align_corners=False
    )
    return resized.round_().clamp_(0, 255).byte()


_CIFAR_RECORD = 1 + 3 * 32 * 32
_CIFAR_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def read_cifar10(path: Path, shape: Shape | None) -> Raw:
    """The binary version of CIFAR-10: data_batch_1.bin to data_batch_5.bin and test_batch.bin."""
    folder = path / "cifar-10-batches-bin" if (path / "cifar-10-batches-bin").is_dir() else path
    batches = sorted(folder.glob("data_batch_*.bin"))
    test = folder / "test_batch.bin"
    if not batches or not test.is_file():
        pickled = [*path.glob("data_batch_1"), *path.glob("*/data_batch_1")]
        raise DataFormatError(
            f"{pickled[0].parent} holds the Python version of CIFAR-10, which is pickle, and reading pickle "
            "runs what is in it; take the binary version (cifar-10-binary.tar.gz), or parquet:"
            if pickled
            else f"{path} holds no data_batch_*.bin and test_batch.bin; give the folder where the binary "
            "version of CIFAR-10 (cifar-10-binary.tar.gz) is unpacked"
        )
    pairs = [_cifar_batch(batch) for batch in (*batches, test)]
    pool, labels = (np.concatenate(parts) for parts in zip(*pairs[:-1]))
    shape = shape or (3, 32, 32)
    images, test_images = (fit(torch.from_numpy(a), shape) for a in (pool, pairs[-1][0]))
    return Raw(str(path), images, labels, _CIFAR_NAMES, test_images, pairs[-1][1])


def _cifar_batch(path: Path) -> tuple[Bytes, Ints]:
    data = np.fromfile(path, dtype=np.uint8)
    if not len(data) or len(data) % _CIFAR_RECORD:
        raise DataFormatError(
            f"{path} has {len(data)} bytes, which is not a whole number of {_CIFAR_RECORD}-byte records; "
            "is it cut short?"
        )
    records = data.reshape(-1, _CIFAR_RECORD)
    return records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0].astype(np.int64)
