"""Docstrings that describe several names at once (``width, height: pixels``): one entry each in the site."""

from __future__ import annotations

import re
from typing import Any

import griffe

_SEVERAL = re.compile(r"^(\s+)(\w+(?:, \w+)+):\s(.*)$")


class OneEntryAName(griffe.Extension):
    """Griffe takes a line of an ``Args:`` or ``Attributes:`` section for one name; this repeats its text."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Split the lines of a docstring before it is parsed."""
        if obj.docstring is not None:
            obj.docstring.value = "\n".join(split(obj.docstring.value.split("\n")))


def split(lines: list[str]) -> list[str]:
    """The lines with an entry, continuation included, for every name; other lines as they are."""
    done: list[str] = []
    at = 0
    while at < len(lines):
        found = _SEVERAL.match(lines[at])
        at += 1
        if found is None:
            done.append(lines[at - 1])
            continue
        indent, names, text = found.groups()
        more = []
        while at < len(lines) and lines[at].startswith(indent + " "):
            more.append(lines[at])
            at += 1
        for name in names.split(", "):
            done += [f"{indent}{name}: {text}", *more]
    return done
