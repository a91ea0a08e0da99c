"""Commands that messages tell people to type: they repeat whatever decides the result."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Any

from hwnas import plugins
from hwnas.arrays import ImageShape

# What a command takes by itself, and a hint therefore need not say.
USUAL: Mapping[str, Any] = {"precision": "fp32", "batch": 1, "threads": 1}
CONDITIONS = ("device", "backend", "precision", "batch", "threads", "dla")


def conditions(setting: Any) -> dict[str, Any]:
    """The options of a setting (or of anything with such fields) that differ from the usual."""
    found = {name: getattr(setting, name, None) for name in CONDITIONS}
    return {name: value for name, value in found.items() if value not in (None, "", USUAL.get(name))}


def command(verb: str, **options: Any) -> str:
    """A command with options as it is typed; None, False and empty ones are left out."""
    words = ["hwnas", *verb.split()]
    for name, value in options.items():
        if value is None or value is False or value == "":
            continue
        words.append(f"--{name.replace('_', '-')}")
        if value is not True:
            words.append("x".join(map(str, value)) if isinstance(value, tuple) else str(value))
    return shlex.join(words)


def profile(given: Mapping[str, Any], space: str, shape: ImageShape | None, **more: Any) -> str:
    """The profile that measures a space's blocks under some conditions (see `conditions`)."""
    # A model's source names a file or a function: it has a colon, a slash or a point.
    of = "model" if re.search(r"[:/.]", space) and space not in plugins.names("spaces") else "space"
    return command("profile", **given, **{of: space}, input=shape, **more)
