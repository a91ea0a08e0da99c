"""Options that several verbs share: the conditions of a table or an engine, and the limits of a network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """The conditions that a latency table must have, or that an engine is built for; None leaves one open.

    Attributes:
        device: where networks run.
        backend, precision: by what, and of the numbers; a search takes "auto" or a list with commas, too.
        batch: images a call.
        threads: of the runtime.
    """

    device: str | None = None
    backend: str | None = None
    precision: str | None = None
    batch: int | None = None
    threads: int | None = None


@dataclass(frozen=True, kw_only=True)
class TableAndLimits(Conditions):
    """From which table a network is priced, for which images, and what it may take besides time.

    Attributes:
        table: latency table; None takes the newest valid one of these conditions.
        input_shape: channels, height and width of an image; None follows the table or the data.
        max_macs, max_params, max_memory: further limits, with units.
        insist: take a table of which the error is above `reliability.REFUSED_PERCENT`, too.
    """

    table: Path | str | None = None
    input_shape: tuple[int, int, int] | None = None
    max_macs: str | None = None
    max_params: str | None = None
    max_memory: str | None = None
    insist: bool = False
