"""Seals on what hwnas wrote itself: a digit that changed in a file that still parses is noticed.

A line of a log, a journal or a table carries a hash over itself and the line before, so that changed,
missing, doubled and swapped lines show. An object in a file of its own carries one over the rest of it.
A seal finds damage; it is no signature, for everybody can make one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hwnas.errors import DataFormatError

LINE = "hash"
OBJECT = "checksum"


def digest(body: Mapping[str, Any], before: str = "") -> str:
    """Sixteen hexadecimal digits over an object, and the seal of the line before it."""
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(f"{before}\n{text}".encode()).hexdigest()[:16]


def line(before: str, body: Mapping[str, Any]) -> tuple[str, str]:
    """Seal and text of a line that comes after the one with the seal `before`."""
    found = digest(body, before)
    return found, json.dumps({**body, LINE: found}, allow_nan=False, separators=(",", ":"))


def unsealed_line(body: dict[str, Any], before: str, where: object) -> str:
    """Take the seal off a line, and give it.

    Raises:
        DataFormatError: the line is not the one that was written after `before`; names `where`.
    """
    claimed, found = body.pop(LINE, None), digest(body, before)
    if claimed != found:
        raise DataFormatError(
            f"{where}: wrong hash ({claimed}, content gives {found}); the line was changed, or lines before "
            "it are missing"
        )
    return found


def file_sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file, read in pieces."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            found.update(piece)
    return found.hexdigest()


def check_file(path: Path, sha256: str, cure: str) -> None:
    """DataFormatError unless a file of ours is, byte for byte, what was written."""
    found = file_sha256(path)
    if found != sha256:
        raise DataFormatError(
            f"{path} is damaged: its SHA-256 is {found[:12]}..., {sha256[:12]}... was written; {cure}"
        )


def sealed(body: Mapping[str, Any]) -> dict[str, Any]:
    """An object with its seal."""
    plain: dict[str, Any] = json.loads(json.dumps(body, allow_nan=False))  # as it will be read
    return {**plain, OBJECT: digest(plain)}


def unseal(body: dict[str, Any], where: object, *, required: bool) -> None:
    """Take the seal off an object, in place.

    Raises:
        DataFormatError: it is not what was written, or carries no seal and one is `required`.
    """
    if OBJECT not in body and not required:
        return
    claimed, found = body.pop(OBJECT, None), digest(body)
    if claimed is None:
        raise DataFormatError(
            f"{where} has no checksum: it was edited, or is of a hwnas that wrote none yet; remove it and "
            "repeat the command that made it"
        )
    if claimed != found:
        raise DataFormatError(
            f"{where} is damaged: its content gives another checksum ({found}) than it says ({claimed}); "
            "remove it and repeat the command that made it"
        )
