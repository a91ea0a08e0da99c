"""Images in files: class folders, and parquet files as the public hub lays them out."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from hwnas.arrays import ImageShape
from hwnas.errors import DataFormatError, InputError
from hwnas.lazy import lazy_import
from hwnas.train import memory, sources
from hwnas.train.images import Item, assemble, suffixes
from hwnas.train.labels import name_of, order
from hwnas.train.raw import LeftOut, Raw

pa = lazy_import("pyarrow")
pc = lazy_import("pyarrow.compute")
pq = lazy_import("pyarrow.parquet")

_ROLES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev", "eval"),
    "test": ("test", "testing"),
}
# Folders that systems and tools put beside people's files.
_JUNK = {"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found", "__pycache__"}
# No photograph is larger; a file that claims to be is not read into memory.
LARGEST_FILE = 1 << 30
# Bytes of images in one batch of rows read from parquet.
_BATCH_BYTES = 64 << 20


def role(path: Path) -> str:
    """What a file or folder is for by its words: "train", "val" or "test"; "" where none says."""
    for part in (path.stem, *reversed(path.parent.parts)):
        for word in re.split(r"[^a-z]+", part.lower()):
            for kind, words in _ROLES.items():
                if word in words:
                    return kind
    return ""


@dataclass
class _Found:
    """What a walk over folders brings together."""

    items: list[Item] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)  # files that are no images, by suffix
    notes: list[str] = field(default_factory=list)

    def notes_of_files(self) -> list[str]:
        """The notes, with a line for the files that are no images by their names."""
        if not self.others:
            return self.notes
        listed = ", ".join(f"{count} {end or 'without suffix'}" for end, count in self.others.most_common(5))
        return [*self.notes, f"files whose suffix is no image format's are skipped ({listed})"]


def folder(where: str, shape: ImageShape | None) -> Raw:
    """``folder:PATH``, see `read_folder`."""
    return read_folder(sources.existing("folder", where), shape)


def parquet(where: str, shape: ImageShape | None) -> Raw:
    """``parquet:PATH``, see `read_parquet`."""
    return read_parquet(sources.existing("parquet", where), shape)


def read_folder(path: Path, shape: ImageShape | None) -> Raw:
    """A folder a class, or ``train/`` and ``test/`` (or ``val/``) holding such folders."""
    if not path.is_dir():
        raise InputError(f"data folder:{path} is not a folder")
    top = _folders(path)
    found = _Found()
    # A folder called train that holds images itself is a class like any other: a railway's.
    homes = {f: role(Path(f.name)) for f in top if role(Path(f.name)) and _holds_folders_only(f)}
    if homes and "train" not in homes.values():
        named = ", ".join(f"{f.name}/" for f in homes)
        raise DataFormatError(
            f"{path} holds {named} with classes to test on, but no train/; rename one folder, or give each "
            "split by itself: --train SOURCE --test SOURCE"
        )
    if homes:
        beside = [f"{f.name}/" for f in top if f not in homes]
        if beside:
            found.notes.append(
                f"{', '.join(beside)} beside {', '.join(f'{f.name}/' for f in homes)} "
                "is no split and is not read"
            )
    else:
        homes = {path: ""}
    classes = sorted({c.name for home, part in homes.items() if part != "test" for c in _folders(home)})
    if not classes:
        raise DataFormatError(
            f"{path} holds no class folders; expected {path}/CLASS/IMAGE, or {path}/train/CLASS/IMAGE and "
            f"{path}/test/CLASS/IMAGE"
        )
    for home, part in homes.items():
        _read_home(home, classes, part, found)
    return assemble(
        found.items, tuple(classes), str(path), shape, left_out=found.left_out, notes=found.notes_of_files()
    )


def _folders(path: Path) -> list[Path]:
    return sorted(p for p in path.iterdir() if not _hidden(p.name) and p.is_dir())


def _hidden(name: str) -> bool:
    return name.startswith(".") or name in _JUNK


def _holds_folders_only(path: Path) -> bool:
    """Whether a folder has folders, and no images beside them."""
    inside = [p for p in path.iterdir() if not _hidden(p.name)]
    return any(p.is_dir() for p in inside) and not any(p.suffix.lower() in suffixes() for p in inside)


def _read_home(home: Path, classes: Sequence[str], part: str, found: _Found) -> None:
    """Every class folder of one place."""
    loose = sum(1 for p in home.iterdir() if p.suffix.lower() in suffixes() and not p.is_dir())
    if loose:
        found.notes.append(f"{loose} images in {home} are in no class folder and are skipped")
    for folder in _folders(home):
        if folder.name not in classes:
            raise DataFormatError(f"{folder} is a class that the training images do not have")
        before = len(found.items) + len(found.left_out)
        for file in sorted(_walk(folder, found)):
            if file.suffix.lower() not in suffixes():
                found.others[file.suffix.lower()] += 1
            elif wrong := _unreadable(file):
                found.left_out.append(LeftOut(str(file), wrong))
            else:
                found.items.append(Item(str(file), partial(_read_file, file), folder.name, part))
        if len(found.items) + len(found.left_out) == before:
            raise DataFormatError(
                f"class folder {folder} holds no images (.jpg, .png, .webp and the like); fill or remove it"
            )


def _walk(folder: Path, found: _Found) -> Iterator[Path]:
    """Files below a folder, through links too, but no folder twice and none that holds this one."""
    seen = {os.path.realpath(p) for p in folder.resolve().parents}

    def tell(error: OSError) -> None:
        found.left_out.append(LeftOut(str(error.filename), f"it cannot be listed ({error.strerror})"))

    for place, folders, names in os.walk(folder, followlinks=True, onerror=tell):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not _hidden(name))
        yield from (Path(place, name) for name in names if not _hidden(name))


def _unreadable(file: Path) -> str:
    """Why a file is not opened; empty if it can be. Reading a pipe or a device might never end."""
    try:
        if not file.is_file():
            return "it is a broken link" if not file.exists() else "it is a pipe, a socket or a device"
        size = file.stat().st_size
    except OSError as exc:
        return f"it cannot be read ({exc.strerror})"
    return f"it has {size / 2**30:.1f} GiB, too large for an image" if size > LARGEST_FILE else ""


def _read_file(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as exc:
        raise DataFormatError(f"it cannot be read ({exc.strerror})") from exc


def read_parquet(path: Path, shape: ImageShape | None) -> Raw:
    """Parquet with a column of encoded images and one of labels, as on the public hub.

    Labels are integers (with names in the file's metadata, or without), texts or categories. Of a
    folder every parquet file is read; its path says what it is for (see `role`). Several files may list
    their classes in different orders: they are joined by name.
    """
    files = [p for p in sorted(path.rglob("*.parquet")) if not _hidden(p.name)] if path.is_dir() else [path]
    if not files:
        raise DataFormatError(f"{path} holds no .parquet file")
    items: list[Item] = []
    listed: dict[str, None] = {}  # class names in their order
    left_out: list[LeftOut] = []
    numbered: set[bool] = set()
    for file in files:
        if not file.is_file():
            raise DataFormatError(f"{file} is not a regular file; a pipe or a device is not read as parquet")
        rows = _Rows.read(file, role(file.relative_to(path)) if file != path else "")
        items += rows.items
        left_out += rows.left_out
        listed |= dict.fromkeys(rows.names)
        numbered.add(rows.numbered)
    if len(numbered) == 2:
        raise DataFormatError(
            f"{path}: some files name their classes and others have numbers alone, so that it is not "
            "known which is which; write the names into all of them"
        )
    found = {item.label for item in items if item.role != "test"} or {item.label for item in items}
    classes = (*listed, *order(found - set(listed)))
    return assemble(items, classes, str(path), shape, left_out=left_out)


@dataclass(frozen=True)
class _Rows:
    """The rows of one parquet file; `numbered` where labels are numbers without names."""

    items: list[Item]
    names: tuple[str, ...]
    left_out: list[LeftOut]
    numbered: bool

    @classmethod
    def read(cls, file: Path, part: str) -> _Rows:
        """Rows with image and label; in batches, since a column of more than 2 GiB is no single array."""
        items: list[Item] = []
        left_out: list[LeftOut] = []
        try:
            with pq.ParquetFile(file) as opened:
                schema = opened.schema_arrow
                image, label = _columns(schema, file)
                names = _class_names(schema, label)
                size = _size(opened.metadata)
                memory.check(size, f"{file}: its images", "give a smaller file")
                count = max(1, opened.metadata.num_rows)
                rows = max(1, min(1024, _BATCH_BYTES * count // max(size, 1)))
                for batch in opened.iter_batches(batch_size=rows, columns=[image, label]):
                    column = batch.column(image)
                    if pa.types.is_struct(column.type):
                        column = pc.struct_field(column, "bytes")
                    for data, value in zip(column, batch.column(label).to_pylist()):
                        what = f"{file}, row {len(items) + len(left_out)}"
                        name = name_of(value, names, what)
                        if name is None or not data.is_valid:
                            reason = "it has no image" if not data.is_valid else "it has no label"
                            left_out.append(LeftOut(what, reason))
                        else:
                            items.append(Item(what, data.as_buffer, name, part))
        except (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError) as exc:
            raise DataFormatError(f"{file} is not a readable parquet file: {exc}") from exc
        kind = schema.field(label).type
        return cls(items, names, left_out, not names and not _is_text(kind))


def _size(metadata: Any) -> int:
    """Bytes of all columns, unpacked, as the file says; the images are nearly all of them.

    Not by column: what a damaged file says of a single column can end the process inside of Arrow.
    """
    return sum(max(0, metadata.row_group(group).total_byte_size) for group in range(metadata.num_row_groups))


_IMAGES = ("image", "img")
_LABELS = ("label", "labels", "fine_label", "class", "class_name", "category", "target", "y")


def _columns(schema: Any, file: Path) -> tuple[str, str]:
    """Names of the image and the label column; usual names win, and nothing is guessed among several."""

    def encoded(kind: Any) -> bool:
        if pa.types.is_struct(kind):
            return any(f.name == "bytes" and encoded(f.type) for f in kind)
        return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))

    def labels(kind: Any) -> bool:
        if pa.types.is_dictionary(kind):
            return labels(kind.value_type)
        return bool(pa.types.is_integer(kind) or pa.types.is_boolean(kind) or _is_text(kind))

    def pick(fits: list[str], usual: Sequence[str]) -> str | None:
        known = [n for word in usual for n in fits if n.lower() == word]
        return known[0] if known else (fits[0] if len(fits) == 1 else None)

    image = pick([f.name for f in schema if encoded(f.type)], _IMAGES)
    usual = next((f.name for word in _LABELS for f in schema if f.name.lower() == word), None)
    # A float column called label is a column of integers in which some rows are empty (pandas).
    fits = [
        f.name
        for f in schema
        if labels(f.type) or (f.name == usual and (pa.types.is_floating(f.type) or pa.types.is_null(f.type)))
    ]
    label = usual if usual in fits else (None if usual is not None else pick(fits, ()))
    if image is None or label is None:
        what = "column of encoded images (image or img: bytes, or a struct with a field bytes)"
        if image is not None:
            what = "column of labels (label: integers, texts or categories)"
        found = ", ".join(f"{f.name}: {f.type}" for f in schema)
        raise DataFormatError(f"{file} has no {what} that can be told apart; it has {found}")
    return image, label


def _is_text(kind: Any) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_text(kind.value_type)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or kind == pa.string_view())


def _class_names(schema: Any, label: str) -> tuple[str, ...]:
    """Class names from the hub's metadata; empty where there are none."""
    try:
        body = json.loads((schema.metadata or {})[b"huggingface"])
        return tuple(str(name) for name in body["info"]["features"][label]["names"])
    except (KeyError, TypeError, ValueError, RecursionError):
        return ()
