"""Records to files and back: schema checked on reading, written atomically, found where data lives."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from hwnas.documents import read_json
from hwnas.errors import DataFormatError
from hwnas.spec import NETWORK_SCHEMA, NetworkSpec

Model = TypeVar("Model", bound=BaseModel)


def data_dir(name: str) -> Path:
    """A data folder that ships with hwnas (``profiles``, ``kernels``).

    Looks beside the installed package first and one level up second: that serves a wheel, an
    editable install and a bare checkout, where `importlib.resources` does not.
    """
    package = Path(__file__).resolve().parent
    for place in (package / name, package.parent / name):
        if place.is_dir():
            return place
    raise DataFormatError(f"the data folder {name!r} is missing from this installation; reinstall hwnas")


def home() -> Path:
    """Where the user's tables and caches live: ``HWNAS_HOME``, else the platform's data folder."""
    if "HWNAS_HOME" in os.environ:
        return Path(os.environ["HWNAS_HOME"]).expanduser()
    from platformdirs import user_data_path

    return user_data_path("hwnas", appauthor=False)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; it takes the place of `path` only if the block succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    try:
        yield Path(temporary)
        with Path(temporary).open("rb") as written:
            os.fsync(written.fileno())
        # mkstemp gives 0600; results are meant to be shared like any file the user makes.
        umask = os.umask(0)
        os.umask(umask)
        Path(temporary).chmod(0o666 & ~umask)
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_bytes(path: Path, data: bytes) -> None:
    """Write a binary file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path, body: Mapping[str, Any]) -> None:
    """Write a JSON object atomically; NaN and infinity are refused, since JSON has neither."""
    write_text(path, json.dumps(body, indent=2, allow_nan=False) + "\n")


def parse(model: type[Model], body: Mapping[str, Any], where: object) -> Model:
    """Validate a mapping as `model`; DataFormatError names the file and the first wrong field."""
    try:
        return model.model_validate(body)
    except ValidationError as exc:
        first = exc.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise DataFormatError(f"{where}: {place}: {first['msg']}") from exc


def read_network(path: Path) -> NetworkSpec:
    """Read a ``network.json``; DataFormatError if it is damaged or its shapes do not join."""
    body = read_json(path, "network", NETWORK_SCHEMA)
    del body["schema"]
    spec = parse(NetworkSpec, body, f"network {path}")
    return spec if spec.name else spec.model_copy(update={"name": path.stem})


def write_network(path: Path, spec: NetworkSpec) -> None:
    """Write a network as JSON."""
    write_text(path, spec.to_json())
