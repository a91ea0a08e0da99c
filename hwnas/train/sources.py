"""Where images come from: one reader per source, all of them giving `Raw`.

A registered reader (group ``datasets`` of `hwnas.plugins`) takes the place, as it stands behind
``NAME:``, and the wanted shape (None: the data's own); it returns `Raw`, or a mapping as `arrays` takes
it: uint8 images with their labels. Nothing is split, balanced or normalised here.
"""

from __future__ import annotations

import importlib
import math
import sys
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hwnas import plugins
from hwnas.arrays import ImageShape, Int64s, Uint8s
from hwnas.backends import images as prepared
from hwnas.errors import DataFormatError, InputError
from hwnas.lazy import lazy_import
from hwnas.train import memory
from hwnas.train.labels import name_of, order, places
from hwnas.train.raw import LabelledImages, LeftOut, Originals, Raw

if TYPE_CHECKING:
    import zipfile

datasets = lazy_import("sklearn.datasets")


def read(scheme: str, where: str, shape: ImageShape | None) -> Raw:
    """Read the source that `data.parse` found; errors as in `data.load`."""
    if scheme == "module":
        return read_function(where, shape)
    reader: Callable[[str, ImageShape | None], Raw | Mapping[str, Any]] = plugins.load("datasets", scheme)
    with plugins.blamed("datasets", scheme, "cannot be read"):
        found = reader(where, shape)
    return found if isinstance(found, Raw) else read_mapping(found, f"{scheme}:{where}", shape)


def existing(scheme: str, where: str) -> Path:
    """The file or folder that a source names; InputError where there is none."""
    path = Path(where).expanduser()
    try:
        regular, there = path.is_file() or path.is_dir(), path.exists()
    except (OSError, ValueError) as exc:
        raise InputError(f"data {scheme}:{where} cannot be read: {exc}") from exc
    if not there:
        raise InputError(f"data {scheme}:{where}: {path.absolute()} does not exist")
    if not regular:
        raise InputError(f"data {scheme}:{where} is a pipe, a socket or a device; give a file or a folder")
    return path


def npz(where: str, shape: ImageShape | None) -> Raw:
    """``npz:PATH``, see `read_npz`."""
    return read_npz(existing("npz", where), shape)


def cifar10(where: str, shape: ImageShape | None) -> Raw:
    """``cifar10:PATH``, see `read_cifar10`."""
    return read_cifar10(existing("cifar10", where), shape)


def read_digits(where: str = "", shape: ImageShape | None = None) -> Raw:
    """The 1797 handwritten digits of the UCI set that scikit-learn embeds: 8x8, 16 levels of grey."""
    digits = datasets.load_digits()
    grey = np.rint(digits.images * (255.0 / 16.0)).astype(np.uint8)
    images = _fitted(torch.from_numpy(grey[:, None]), digits.target.astype(np.int64), shape or (3, 32, 32))
    names = tuple(str(name) for name in digits.target_names)
    # A mirrored 2 is not a 2.
    return Raw("digits", names, images, mirrors=False)


def read_npz(path: Path, shape: ImageShape | None) -> Raw:
    """Arrays in an .npz file, named as in `arrays`; files with pickled objects are refused."""

    if not path.is_file():
        raise InputError(f"data npz:{path} is not a file")
    try:
        with zipfile.ZipFile(path) as packed:
            claimed = {m.filename.removesuffix(".npy"): _claimed(packed, m) for m in packed.infolist()}
        wanted = [name for name in claimed if _KERAS.get(name, name) in _ARRAYS]
        memory.check(2 * sum(claimed[name] for name in wanted), f"{path}: its arrays", "give a smaller file")
        with np.load(path, allow_pickle=False) as file:
            found = {name: file[name] for name in wanted}
    except (
        OSError,
        ValueError,
        EOFError,
        AttributeError,
        KeyError,
        RuntimeError,
        NotImplementedError,
        OverflowError,
        MemoryError,
        SyntaxError,
        zipfile.BadZipFile,
        zlib.error,
    ) as exc:
        raise DataFormatError(f"{path} is not an .npz file of plain arrays: {exc}") from exc
    return arrays({**dict.fromkeys(set(claimed) - set(found)), **found}, str(path), shape)


def _claimed(packed: zipfile.ZipFile, member: zipfile.ZipInfo) -> int:
    """Bytes of the array that a member's header speaks of; ValueError where the member has others."""
    with packed.open(member) as file:
        try:
            version = np.lib.format.read_magic(file)
            read_header = (
                np.lib.format.read_array_header_1_0
                if version == (1, 0)
                else (np.lib.format.read_array_header_2_0)
            )
            shape, _, dtype = read_header(file)
        except ValueError as exc:
            raise ValueError(f"{member.filename} is not an array ({exc})") from exc
        size = math.prod(shape) * dtype.itemsize
        held = member.file_size - file.tell()
    if size != held and not dtype.hasobject:
        raise ValueError(
            f"{member.filename} declares {size:,} bytes ({dtype} of {shape}), but it has {held:,}"
        )
    return size


def read_function(uri: str, shape: ImageShape | None) -> Raw:
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
            f"data {uri!r}: there is no module {module!r}, neither installed nor in {Path.cwd()}, and "
            f"{plugins.unknown('data source', module, plugins.names('datasets'))}"
        ) from exc
    except AttributeError as exc:
        raise InputError(f"data {uri!r}: module {module!r} has no {name!r}") from exc
    finally:
        sys.path.remove(str(Path.cwd()))
    return read_mapping(function(), uri, shape)


def read_mapping(found: object, uri: str, shape: ImageShape | None) -> Raw:
    """What the code of a user returned; DataFormatError where it is no mapping of arrays."""
    if not isinstance(found, Mapping):
        raise DataFormatError(
            f"data {uri!r} returned a {type(found).__name__}; expected a mapping with the arrays "
            "images and labels"
        )
    return arrays(found, uri, shape)


# The names that Keras gives the arrays of its .npz files are taken as well.
_KERAS = {"x_train": "images", "y_train": "labels", "x_test": "test_images", "y_test": "test_labels"}
_ARRAYS = ("images", "labels", "val_images", "val_labels", "test_images", "test_labels", "classes")


def arrays(found: Mapping[str, Any], where: str, shape: ImageShape | None) -> Raw:
    """Images given as arrays.

    ``images`` uint8 (n, H, W), (n, H, W, C) or (n, C, H, W) of any number of channels
    (`_channels_first`) and ``labels`` (n,), integers or names, are needed; ``val_images`` with
    ``val_labels``, ``test_images`` with ``test_labels`` and ``classes`` (names, by label) may be there.
    An image whose label is -1, NaN or empty is left out.
    """

    named = {_KERAS.get(name, name): value for name, value in found.items()}
    missing = [name for name in ("images", "labels") if name not in named]
    if missing:
        raise DataFormatError(
            f"{where} holds {', '.join(sorted(found)) or 'nothing'}, but not {' and '.join(missing)}; "
            "expected images and labels, optionally test_images, test_labels and classes"
        )
    for part in ("val", "test"):
        if (f"{part}_images" in named) != (f"{part}_labels" in named):
            raise DataFormatError(
                f"{where} holds only one of {part}_images and {part}_labels; give both or neither"
            )
    listed = tuple(str(c) for c in np.asarray(named["classes"]).ravel()) if "classes" in named else ()
    left_out: list[LeftOut] = []
    parts: dict[str, tuple[torch.Tensor, list[str], Originals | None]] = {}
    for part, prefix in (("train", ""), ("val", "val_"), ("test", "test_")):
        if f"{prefix}images" in named:
            images, labels = named[f"{prefix}images"], named[f"{prefix}labels"]
            tensor, names, originals = _pair(
                images, labels, listed, f"{where}: {prefix}images", shape, left_out
            )
            _, channels, height, width = tensor.shape
            shape = (channels, height, width)  # what follows takes the shape of the first
            if names:
                parts[part] = tensor, names, originals
    if "train" not in parts:
        raise DataFormatError(f"{where} has no labelled image to train on")
    classes = listed or order([*parts["train"][1], *(parts["val"][1] if "val" in parts else ())])
    made = {
        part: LabelledImages(images, places(names, classes, where), originals)
        for part, (images, names, originals) in parts.items()
    }
    return Raw(where, classes, made["train"], made.get("val"), made.get("test"), left_out=tuple(left_out))


def _pair(
    images: Any,
    labels: Any,
    listed: tuple[str, ...],
    where: str,
    shape: ImageShape | None,
    left_out: list[LeftOut],
) -> tuple[torch.Tensor, list[str], Originals | None]:
    """Check one pair of arrays; images (n, C, H, W) of the wanted shape, class names; labelled ones.

    Last, the pictures as they were given.
    """

    images, labels = np.asarray(images), np.asarray(labels)
    if images.dtype != np.uint8:
        raise DataFormatError(
            f"{where} are {images.dtype}; expected uint8 from 0 to 255 (from 0..1: "
            "(images * 255).round().astype('uint8'))"
        )
    if labels.ndim == 2 and labels.shape[1] == 1:  # Keras' CIFAR has a column
        labels = labels[:, 0]
    count = len(images) if images.ndim else 0
    if labels.ndim != 1 or labels.dtype.kind not in "iubUSO" or len(labels) != count or not count:
        raise DataFormatError(
            f"{where}: labels are {labels.dtype} {labels.shape} for {count} images; "
            "expected one integer or class name for each image"
        )
    images = _channels_first(images, where, shape)
    known = [name_of(label, listed, where) for label in labels.tolist()]
    for at, name in enumerate(known):
        if name is None:
            left_out.append(LeftOut(f"{where}, row {at}", "it has no label"))
    kept = np.array([name is not None for name in known])
    tensor = torch.from_numpy(np.ascontiguousarray(images if kept.all() else images[kept]))
    shape = shape or (images.shape[1], images.shape[2], images.shape[3])
    memory.check(
        len(known) * math.prod(shape), f"{where} at {'x'.join(map(str, shape))}", "choose a smaller input"
    )
    return fit(tensor, shape), [name for name in known if name is not None], uncropped(tensor, shape)


def _channels_first(images: Uint8s, where: str, shape: ImageShape | None) -> Uint8s:
    """Images as (n, C, H, W).

    One or three channels are known as such; others are those that `shape` asks for, else the axis that is
    shorter than both others.
    """
    if images.ndim == 3:
        images = images[:, None]
    if images.ndim != 4 or 0 in images.shape:
        raise DataFormatError(
            f"{where} have the shape {images.shape}; expected (n, H, W), (n, H, W, C) or (n, C, H, W), and "
            "none of them empty"
        )
    _, first, middle, last = images.shape
    asked = {shape[0]} if shape else set()
    for usual in ({1, 3}, asked):
        if last in usual:
            return np.moveaxis(images, 3, 1)
        if first in usual:
            return images
    if last < min(first, middle):
        return np.moveaxis(images, 3, 1)
    if first < min(middle, last):
        return images
    raise DataFormatError(
        f"{where} have the shape {images.shape}, which does not say where its channels are; give them with "
        "--input CxHxW"
    )


def fit(images: torch.Tensor, shape: ImageShape) -> torch.Tensor:
    """Bring uint8 (n, C, H, W) to a shape: centre crop to its proportions, bilinear resizing, channels.

    Grey is repeated into colour; colour becomes grey by the luma of ITU-R BT.601. Other numbers of channels
    stay as they are.

    Raises:
        InputError: other channels are asked for than the images can have.
    """
    channels, height, width = shape
    own = images.shape[1]
    if own != channels and {own, channels} != {1, 3}:
        raise InputError(
            f"the images have {own} channel{'s' * (own > 1)}, which cannot become {channels}; give "
            f"--input {own}x{height}x{width}, or other images"
        )
    rows, columns = prepared.middle((images.shape[2], images.shape[3]), (height, width))
    images = _channels(images[:, :, rows, columns], channels)
    if images.shape[2:] != (height, width):
        images = torch.cat([_resize(part, (height, width)) for part in torch.split(images, 1024)])
    return images.expand(-1, channels, -1, -1)


def _fitted(images: torch.Tensor, labels: Int64s, shape: ImageShape) -> LabelledImages:
    return LabelledImages(fit(images, shape), labels, uncropped(images, shape))


def uncropped(images: torch.Tensor, shape: ImageShape) -> Originals | None:
    """The pictures that `fit` brings to a shape; None where they have its size already."""
    channels, *size = shape
    if [*images.shape[2:]] == size:
        return None

    def original(place: int) -> Uint8s:
        one = _channels(images[place : place + 1], channels).expand(-1, channels, -1, -1)
        return np.ascontiguousarray(one[0].permute(1, 2, 0).numpy())

    return original


def _channels(images: torch.Tensor, channels: int) -> torch.Tensor:
    """Colour as grey where grey is wanted."""
    if images.shape[1] != 3 or channels != 1:
        return images
    weights = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    grey = [(p * weights).sum(1, keepdim=True).round().byte() for p in torch.split(images, 1024)]
    return torch.cat(grey)


def _resize(images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """By the arithmetic of deployment, so that an engine sees the pixels of training."""
    last = np.ascontiguousarray(images.permute(0, 2, 3, 1).numpy())
    resized = prepared.resize(last, size).astype(np.uint8)
    return torch.from_numpy(resized).permute(0, 3, 1, 2).contiguous()


_CIFAR_RECORD = 1 + 3 * 32 * 32
_CIFAR_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def read_cifar10(path: Path, shape: ImageShape | None) -> Raw:
    """The binary version of CIFAR-10: data_batch_1.bin to data_batch_5.bin and test_batch.bin."""
    folder = path / "cifar-10-batches-bin" if (path / "cifar-10-batches-bin").is_dir() else path
    batches = sorted(folder.glob("data_batch_*.bin"))
    test = folder / "test_batch.bin"
    if not batches or not test.is_file():
        pickled = [*path.glob("data_batch_1"), *path.glob("*/data_batch_1")]
        raise DataFormatError(
            f"{pickled[0].parent} holds the Python version of CIFAR-10, which is pickle, and reading pickle "
            "can run code; use the binary version (cifar-10-binary.tar.gz), or parquet:"
            if pickled
            else f"{path} holds no data_batch_*.bin and test_batch.bin; give the folder where the binary "
            "version of CIFAR-10 (cifar-10-binary.tar.gz) is unpacked"
        )
    pairs = [_cifar_batch(batch) for batch in (*batches, test)]
    pool, labels = (np.concatenate(parts) for parts in zip(*pairs[:-1]))
    shape = shape or (3, 32, 32)
    train, held = (_fitted(torch.from_numpy(a), b, shape) for a, b in ((pool, labels), pairs[-1]))
    return Raw(str(path), _CIFAR_NAMES, train, test=held)


def _cifar_batch(path: Path) -> tuple[Uint8s, Int64s]:
    if not path.is_file():
        raise DataFormatError(f"{path} is not a regular file")
    memory.check(path.stat().st_size, f"{path}: its images", "give a smaller file")
    try:
        data = np.fromfile(path, dtype=np.uint8)
    except OSError as exc:
        raise DataFormatError(f"{path} cannot be read: {exc.strerror}") from exc
    if not len(data) or len(data) % _CIFAR_RECORD:
        raise DataFormatError(
            f"{path} has {len(data)} bytes, which is not a multiple of {_CIFAR_RECORD} bytes; "
            "the file is truncated"
        )
    records = data.reshape(-1, _CIFAR_RECORD)
    return records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0].astype(np.int64)
