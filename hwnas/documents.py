"""Reading JSON, JSON lines, YAML and TOML that others wrote: bounded, checked, one sentence when it is wrong.

Every text document goes through here, so that each is held to the same: a regular file of a limited
size, UTF-8, nested no deeper than people nest, numbers that are finite and fit 64 bits, no key twice,
text that can be printed again. What breaks one of these is a `DataFormatError` that names the file.
"""

from __future__ import annotations

import json
import math
import os
import stat
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwnas import seals
from hwnas.errors import DataFormatError, InputError
from hwnas.lazy import lazy_import

if TYPE_CHECKING:
    import yaml

    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
else:
    yaml = lazy_import("yaml")
    tomllib = lazy_import("tomllib" if sys.version_info >= (3, 11) else "tomli")

# A megabyte of YAML takes a second to parse; of JSON a hundred take one, and tables grow to tens.
JSON_BYTES = 512 << 20
CONFIG_BYTES = 4 << 20
DEPTH = 100
_DEEP = f"is nested too deeply; at most {DEPTH} levels are read"
# YAML's aliases let a small file stand for a large one.
VALUES = 5_000_000
_SMALLEST, _LARGEST = -(2**63), 2**64 - 1


def read_bytes(path: Path, what: str, limit_bytes: int = JSON_BYTES) -> bytes:
    """The content of a regular file.

    Args:
        path: the file.
        what: what the file should be, for the message ("network", "manifest").
        limit_bytes: a larger file is refused before it is read.

    Raises:
        InputError: there is no such file, or it is a folder, a pipe or a device.
        DataFormatError: it cannot be read, or is too large.
    """
    try:
        # A pipe without a writer would block in open(), and a link to /dev/zero never ends.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with os.fdopen(handle, "rb") as file:
            state = os.fstat(file.fileno())
            if not stat.S_ISREG(state.st_mode):
                raise InputError(f"{what} {path} is not a file")
            if state.st_size > limit_bytes:
                raise DataFormatError(
                    f"{what} {path} has {state.st_size >> 20} MiB; at most {limit_bytes >> 20} MiB are read"
                )
            return file.read(limit_bytes + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{what} {path} does not exist") from None
    except IsADirectoryError:
        raise InputError(f"{what} {path} is not a file") from None
    except OSError as exc:
        raise DataFormatError(f"{what} {path} cannot be read: {exc.strerror or exc}") from exc
    except InputError:  # it is a ValueError, too
        raise
    except ValueError as exc:  # a NUL in a name
        raise InputError(f"{what} {str(path)!r} is not a valid file name: {exc}") from exc


def read_text(path: Path, what: str, limit_bytes: int = JSON_BYTES) -> str:
    """The content of a text file; as `read_bytes`, and DataFormatError if it is not UTF-8."""
    data = read_bytes(path, what, limit_bytes)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise DataFormatError(
            f"{what} {path} is not a text file in UTF-8: byte {exc.object[exc.start]:#04x} at position "
            f"{exc.start}{_likely(data)}"
        ) from exc


# How files that are often given for another begin.
_MAGIC = {
    b"PK\x03\x04": "a zip archive, as torch.save and torch.export write",
    b"\x08": "an ONNX model",
    b"\x80": "a pickle",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"PAR1": "a parquet file",
    b"\x1f\x8b": "a gzip archive",
    b"\x93NUMPY": "a NumPy array",
    b"ftrt": "a TensorRT engine",
}


def _likely(data: bytes) -> str:
    kind = next((kind for magic, kind in _MAGIC.items() if data.startswith(magic)), "")
    return f"; it looks like {kind}" if kind else ""


def parse_json(text: str, where: object) -> Any:
    """The value of a JSON text; DataFormatError names `where` and what is wrong."""

    def number(digits: str) -> int:
        if len(digits) > 20 or not _SMALLEST <= (value := int(digits)) <= _LARGEST:
            raise DataFormatError(
                f"{where} holds an integer of {len(digits)} digits; at most 64 bits are supported"
            )
        return value

    def fraction(digits: str) -> float:
        value = float(digits)
        if not math.isfinite(value):
            raise DataFormatError(f"{where} holds the number {digits[:40]}, which is not finite")
        return value

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        body = dict(pairs)
        if len(body) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in body if keys.count(key) > 1)
            raise DataFormatError(f"{where} has the duplicate key {twice!r} in one object")
        return body

    try:
        value = json.loads(
            text, parse_int=number, parse_float=fraction, parse_constant=fraction, object_pairs_hook=members
        )
    except RecursionError:
        raise DataFormatError(f"{where} {_DEEP}") from None
    except json.JSONDecodeError as exc:
        raise DataFormatError(f"{where} is not valid JSON: {exc}") from exc
    # Most texts cannot be nested deeply, for they have few brackets; looking at each value is the dear part.
    if text.count("[") + text.count("{") > DEPTH or "\\u" in text:
        check(value, where)
    return value


def json_object(text: str, where: object, schema: str | None = None) -> dict[str, Any]:
    """The JSON object in a text, of a schema where one is asked for."""
    return _object(parse_json(text, where), where, schema)


def read_json(path: Path, what: str, schema: str | None = None, *, sealed: bool = False) -> dict[str, Any]:
    """Read a JSON object; DataFormatError says what is wrong with the file.

    Args:
        path: the file.
        what: what the file should be, for the message ("network", "manifest").
        schema: required value of its ``schema`` field.
        sealed: whether it must carry a seal (`hwnas.seals`); one that is there must fit in any case.
    """
    body = json_object(read_text(path, what), f"{what} {path}", schema)
    seals.unseal(body, f"{what} {path}", required=sealed)
    return body


def read_yaml(path: Path, what: str, limit_bytes: int = CONFIG_BYTES) -> Any:
    """Read the value in a YAML file: what JSON could hold; a date stays the text that it is."""
    return parse_yaml(read_text(path, what, limit_bytes), f"{what} {path}")


def parse_yaml(text: str, where: object) -> Any:
    """The value of a YAML text; DataFormatError names `where` and what is wrong."""
    try:
        value = yaml.load(text, _yaml_loader())
    except RecursionError:
        raise DataFormatError(f"{where} {_DEEP}") from None
    except (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, OverflowError) as exc:
        # PyYAML's constructors let the errors of int() and float() out.
        raise DataFormatError(f"{where} is not valid YAML: {' '.join(str(exc).split())}") from exc
    check(value, where)
    return value


def _yaml_loader() -> Any:
    """PyYAML's safe loader without dates, and without a key twice."""

    # Not the loader in C: its recursion has no limit but the stack.
    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            keys = {key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)}
            if all(isinstance(key, yaml.ScalarNode) for key, _ in node.value) and len(keys) < len(node.value):
                raise yaml.constructor.ConstructorError(None, None, "duplicate key", node.start_mark)
            return super().construct_mapping(node, deep)

    Loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in found if tag != "tag:yaml.org,2002:timestamp"]
        for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    return Loader


def read_toml(path: Path, what: str, limit_bytes: int = CONFIG_BYTES) -> dict[str, Any]:
    """Read a TOML file."""
    text = read_text(path, what, limit_bytes)
    try:
        value: dict[str, Any] = tomllib.loads(text)
    except RecursionError:
        raise DataFormatError(
            f"{what} {path} is nested too deeply; at most {DEPTH} levels are read"
        ) from None
    except ValueError as exc:
        raise DataFormatError(f"{what} {path} is not valid TOML: {exc}") from exc
    check(value, f"{what} {path}")
    return value


def check(value: object, where: object) -> None:
    """Refuse what a JSON text of limited depth and size could not hold; DataFormatError names it."""
    level: list[object] = [value]
    seen = 0
    for _ in range(DEPTH):
        if not level:
            return
        below: list[object] = []
        for each in level:
            if isinstance(each, Mapping):
                for key, member in each.items():
                    if not isinstance(key, str):
                        raise DataFormatError(
                            f"{where} has the key {key!r}, which is not text; put it in quotes"
                        )
                    _scalar(key, where)
                    below.append(member)
            elif isinstance(each, list):
                below.extend(each)
            else:
                _scalar(each, where)
            if seen + len(below) > VALUES:
                raise DataFormatError(f"{where} holds more than {VALUES:,} values")
        seen += len(below)
        level = below
    if level:
        raise DataFormatError(f"{where} {_DEEP}")


def _scalar(value: object, where: object) -> None:
    if isinstance(value, str):
        if "\0" in value:
            raise DataFormatError(f"{where} holds text with a NUL character: {value[:40]!r}")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise DataFormatError(f"{where} holds text that is not Unicode: {value[:40]!r}") from None
    elif isinstance(value, bool) or value is None:
        pass
    elif isinstance(value, int):
        if not _SMALLEST <= value <= _LARGEST:
            raise DataFormatError(f"{where} holds an integer of more than 64 bits")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise DataFormatError(f"{where} holds the number {value}, which is not finite")
    else:
        raise DataFormatError(f"{where} holds a {type(value).__name__}; put it in quotes if it is text")


def _object(value: object, where: object, schema: str | None) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataFormatError(f"{where} holds a {type(value).__name__}, not a JSON object")
    if schema is not None and value.get("schema") != schema:
        raise DataFormatError(f"{where} has schema {value.get('schema')!r}; expected {schema!r}")
    return value
