"""Images in files: class folders, and parquet files as the public hub lays them out."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hwnas.errors import DataFormatError, InputError
from hwnas.train.images import Item, assemble
from hwnas.train.sources import Raw, Shape

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
_ROLES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev", "eval"),
    "test": ("test", "testing"),
}


def role(path: Path) -> str:
    """What a file or folder is for by its words: "train", "val" or "test"; "" where none says."""
    for part in (path.stem, *reversed(path.parent.parts)):
        for word in re.split(r"[^a-z]+", part.lower()):
            for kind, words in _ROLES.items():
                if word in words:
                    return kind
    return ""


def read_folder(path: Path, shape: Shape | None) -> Raw:
    """A folder a class, or ``train/`` and ``test/`` (or ``val/``) holding such folders."""
    if not path.is_dir():
        raise InputError(f"data folder:{path} is not a folder")
    top = _folders(path)
    parts = {f: role(Path(f.name)) for f in top}
    # "train" and "test" hold the classes unless they lie among others, as classes of their own.
    split = bool(top) and all(parts.values()) and "train" in parts.values()
    homes = list(parts.items()) if split else [(path, "")]
    classes = sorted({c.name for home, part in homes if part != "test" for c in _folders(home)})
    if not classes:
        raise DataFormatError(
            f"{path} holds no class folders; expected {path}/CLASS/IMAGE, or {path}/train/CLASS/IMAGE and "
            f"{path}/test/CLASS/IMAGE"
        )
    items = [item for home, part in homes for item in _class_items(home, classes, part)]
    return assemble(items, tuple(classes), str(path), shape)


def _folders(path: Path) -> list[Path]:
    return sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))


def _class_items(home: Path, classes: Sequence[str], part: str) -> Iterator[Item]:
    for folder in _folders(home):
        if folder.name not in classes:
            raise DataFormatError(f"{folder} is a class that the training images do not have")
        files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.name[0] != ".")
        if not files:
            raise DataFormatError(
                f"class folder {folder} holds no images ({', '.join(sorted(SUFFIXES))}); fill or remove it"
            )
        label = classes.index(folder.name)
        for file in files:
            yield Item(str(file), file.read_bytes, label, part)


def read_parquet(path: Path, shape: Shape | None) -> Raw:
    """Parquet with a column of encoded images and one of integer labels, as on the public hub.

    Of a folder every parquet file is read; its path says what it is for (see `role`).
    """
    files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
    if not files:
        raise DataFormatError(f"{path} holds no .parquet file")
    items: list[Item] = []
    classes: tuple[str, ...] = ()
    for file in files:
        found, names = _parquet_items(file, role(file.relative_to(path)) if file != path else "")
        items += found
        classes = classes or names
    if not classes:
        classes = tuple(str(i) for i in range(max((item.label for item in items), default=-1) + 1))
    return assemble(items, classes, str(path), shape)


def _parquet_items(file: Path, part: str) -> tuple[list[Item], tuple[str, ...]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(file)
        image, label = _columns(schema, file)
        table = pq.read_table(file, columns=[image, label])
    except (pa.ArrowException, OSError) as exc:
        raise DataFormatError(f"{file} is not a readable parquet file: {exc}") from exc
    column = table[image].combine_chunks()
    encoded = column.field("bytes") if pa.types.is_struct(column.type) else column
    labels = table[label].combine_chunks()
    for values, name in ((encoded, image), (labels, label)):
        if values.null_count:
            raise DataFormatError(f"{file}: column {name!r} has {values.null_count} empty rows")
    items = [
        Item(f"{file}, row {row}", data.as_buffer, int(target), part)
        for row, (data, target) in enumerate(zip(encoded, labels.to_pylist()))
    ]
    return items, _class_names(schema, label)


def _columns(schema: Any, file: Path) -> tuple[str, str]:
    """Names of the image and the label column; the hub's usual names win where several would do."""
    import pyarrow as pa

    def encoded(kind: Any) -> bool:
        if pa.types.is_struct(kind):
            return any(f.name == "bytes" and encoded(f.type) for f in kind)
        return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))

    def pick(fits: list[str], usual: Sequence[str]) -> str | None:
        return next((n for n in usual if n in fits), fits[0] if len(fits) == 1 else None)

    image = pick([f.name for f in schema if encoded(f.type)], ("image", "img"))
    numbers = [f.name for f in schema if pa.types.is_integer(f.type)]
    label = pick(numbers, ("label", "labels", "fine_label", "class", "target"))
    if image is None or label is None:
        what = "column of encoded images (image or img: bytes, or a struct with a field bytes)"
        if image is not None:
            what = "column of integer labels (label)"
        found = ", ".join(f"{f.name}: {f.type}" for f in schema)
        raise DataFormatError(f"{file} has no {what} that can be told apart; it has {found}")
    return image, label


def _class_names(schema: Any, label: str) -> tuple[str, ...]:
    """Class names from the hub's metadata; empty where there are none."""
    try:
        body = json.loads((schema.metadata or {})[b"huggingface"])
        return tuple(str(name) for name in body["info"]["features"][label]["names"])
    except (KeyError, TypeError, ValueError):
        return ()
