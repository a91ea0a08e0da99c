"""How far a table's predictions were off where that is known, and from where on it is not to be trusted.

A profile measures networks that its model never saw, most of them twice. Above `DOUBTFUL_PERCENT` of error
every use of the table says so; above `REFUSED_PERCENT` a choice by it is refused unless the user insists.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from hwnas.errors import DataFormatError

# Predictions of undisturbed profiles are 0.5 to 3 % off (docs/evidence/latency.md).
DOUBTFUL_PERCENT, REFUSED_PERCENT = 5.0, 15.0
# Below this part of the error what two measurements differ by does not explain it.
NOT_THE_MACHINE = 0.25


# Half-width of the intervals above which a table says what would make them narrower.
WIDE_PERCENT = 4.0
_PARTS = ("noise", "costs", "states")


class Summed(Protocol):
    """What is looked at of a latency table."""

    table_id: str

    @property
    def summary(self) -> Mapping[str, Any]:
        """Figures of the last finished profile; empty without one."""


def error_percent(table: Summed) -> float | None:
    """Mean error on held-out networks in percent; None where none was measured."""
    return _number((table.summary.get("holdout") or {}).get("mape_percent"))


def doubt(error: float | None, repeat: float | None = None, name: str = "the latency table") -> str:
    """What is to be said of a table with this error; empty where it is good or unknown."""
    if error is None or error <= DOUBTFUL_PERCENT:
        return ""
    differ, cure = "", "stop other programs and profile again"
    if repeat is not None:
        differ = f", and two measurements of the same one differed by {repeat:.3g} %"
        if repeat < NOT_THE_MACHINE * error:
            cure = "the machine was quiet enough, so profile more of its blocks with a larger --preset"
    return (
        f"{name} is unreliable: its predictions were {error:.3g} % off on networks that were not used for "
        f"fitting{differ}; {cure}"
    )


def doubt_of(table: Summed) -> str:
    """`doubt` of a table."""
    repeat = _number((table.summary.get("holdout") or {}).get("repeat_mape_percent"))
    return doubt(error_percent(table), repeat, f"table {table.table_id}")


def decided_by(table: Summed) -> str:
    """The largest part of a half-width above `WIDE_PERCENT`: "noise" of measurements, "costs" of blocks
    inside networks, "states" of the device; empty where intervals are narrower, or that is not known.
    """
    half, parts = _widths(table)
    if half is None or half <= WIDE_PERCENT or not parts:
        return ""
    return max(parts, key=lambda name: parts[name])


def wide(table: Summed, command: str) -> str:
    """What would make the intervals of a table narrower; empty where they are narrow, or that is not known.

    Args:
        table: with the figures of its profile.
        command: that adds sessions to it.
    """
    half, parts = _widths(table)
    part = decided_by(table)
    if not part:
        return ""
    why, cure = {
        "noise": (
            "measurements repeat badly",
            f"stop other programs and measure the worst of them again: {command}",
        ),
        "costs": (
            "what blocks cost inside networks is not known better",
            "profile more networks with a larger --preset",
        ),
        "states": (
            "the device was seen in states far apart in the last two days",
            "profile again when less else runs on it",
        ),
    }[part]
    return (
        f"the intervals of table {table.table_id} are +-{half:.2g} % wide, +-{parts[part]:.2g} % of it "
        f"because {why}; {cure}"
    )


def _widths(table: Summed) -> tuple[float | None, dict[str, float]]:
    """The half-width and its parts in percent, as far as a summary tells them."""
    told = table.summary.get("width_percent")
    known = {name: _number(value) for name, value in told.items()} if isinstance(told, Mapping) else {}
    parts = {name: value for name in _PARTS if (value := known.get(name)) is not None}
    return known.get("half_width"), parts


def refused(table: Summed) -> bool:
    """Whether the error is above `REFUSED_PERCENT`."""
    error = error_percent(table)
    return error is not None and error > REFUSED_PERCENT


def require(table: Summed, insist: bool) -> None:
    """DataFormatError for a table that is `refused`, unless the user insists."""
    if refused(table) and not insist:
        raise DataFormatError(
            f"{doubt_of(table)}. Above {REFUSED_PERCENT:g} % a table is not used for a choice without "
            "--insist"
        )


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
