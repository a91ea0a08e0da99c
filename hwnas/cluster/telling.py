"""What a task tells, as its user hears it: with the task's name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def told(name: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of an event of a task that has parts of its own, or none."""
    part = str(fields.get("task", ""))
    return {**fields, "task": name if part in ("", name) else f"{name}: {part}"}
