"""The one grammar of latency budgets: ``18ms``, ``18ms@p95``, ``0.4ms,0.6ms``, ``1.15x:resnet20``.

Commands, files and library options hold budgets as this text. A bare number is refused: it has no unit.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal, get_args

from hwnas.errors import InputError
from hwnas.units import parse_ms

Percentile = Literal["p50", "p90", "p95", "p99"]
PERCENTILES: dict[str, Percentile] = {name: name for name in get_args(Percentile)}
_RATIO = re.compile(r"(\d+(?:\.\d+)?|\.\d+)(x|%):(\S+)")


@dataclass(frozen=True)
class WrittenBudget:
    """One budget as it was written.

    Attributes:
        text: as written.
        percentile: of the latency; the median where none was named.
        latency_ms: the latency; None for a ratio.
        factor, reference: a ratio to the latency of a network; `reference` is "" for a latency.
    """

    text: str
    percentile: Percentile
    latency_ms: float | None = None
    factor: float = 1.0
    reference: str = ""


def parse(text: object) -> tuple[WrittenBudget, ...]:
    """The targets of a budget, in the order in which they are written.

    Raises:
        InputError: it is no text, a part has no unit or no such percentile, or several are named.
    """
    if not isinstance(text, str):
        raise InputError(
            f'latency budget {text!r} is not text with a unit; write for example "{text}ms"'
            if isinstance(text, (int, float)) and not isinstance(text, bool)
            else f'latency budget {text!r} is not text with a unit; write for example "18ms"'
        )
    targets = tuple(_target(part.strip()) for part in text.split(","))
    if len({target.percentile for target in targets}) > 1:
        raise InputError(f"latency budget {text!r} names several percentiles; use the same one in each part")
    return targets


def written_ms(latency_ms: float) -> str:
    """A latency as `parse` reads it, whatever its size."""
    return f"{Decimal(repr(latency_ms)):f}".removesuffix(".0") + "ms"


def parse_latency(text: object) -> tuple[float, Percentile]:
    """One latency, where neither a list nor a ratio makes sense, in milliseconds, and its percentile.

    Raises:
        InputError: it is anything else.
    """
    targets = parse(text)
    if len(targets) > 1 or targets[0].latency_ms is None:
        raise InputError(f"latency budget {text!r} is not one latency; write for example 18ms or 18ms@p95")
    return targets[0].latency_ms, targets[0].percentile


def _target(text: str) -> WrittenBudget:
    ratio = _RATIO.fullmatch(text)
    if ratio is not None and not re.search(r"@p\d+$", text):
        value, name = text, "p50"  # an @ in the name of a file is no percentile
    else:
        value, at, name = text.rpartition("@")
        value, name = (value, name) if at else (text, "p50")
    if name not in PERCENTILES:
        raise InputError(
            f"latency budget {text!r}: percentile {name!r} is not one of {', '.join(PERCENTILES)}"
        )
    percentile = PERCENTILES[name]
    match = _RATIO.fullmatch(value)
    if match is None:
        return WrittenBudget(text, percentile, parse_ms(value, "latency budget"))
    number, unit, reference = match.groups()
    factor = float(number) / (100.0 if unit == "%" else 1.0)
    if not factor > 0:
        raise InputError(
            f"latency budget {text!r} must be greater than zero; write for example 1.15x:resnet20"
        )
    return WrittenBudget(text, percentile, None, factor, reference)
