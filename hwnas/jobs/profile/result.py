"""What `hwnas profile` gives."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from hwnas.records import Setting
from hwnas.results import Result


class HeldOut(Result):
    """How far the table's predictions are off on `networks` whole networks that it was not fitted to.

    `coverage_percent` of them are inside their interval; `repeat_mape_percent` is how far two measurements
    of the same network differ, which no predictor can be expected to beat.
    """

    networks: int
    mape_percent: float
    within_5_percent: float | None = None
    kendall_tau: float | None = None
    coverage_percent: float | None = None
    repeat_mape_percent: float | None = None


class Failure(Result):
    """Blocks that could not be measured, by their keys, and why."""

    blocks: tuple[str, ...]
    error: str


class ProfileOutcome(Result):
    """A latency table that was measured or estimated.

    Attributes:
        table, table_id: its file, and the name of its content.
        complete: False where the time was over; the same call goes on.
        setting: what its times are true for.
        space, preset: what was swept, and how thoroughly.
        rows, probes: blocks and whole networks in it.
        measurements, seconds: what this call took.
        failures: what could not be measured.
        gates: how many rows carry each gate, by its name.
        holdout: its error; None where no network was held out.
        near_ms: latency that its networks are near; None where they are not of one.
        chosen_among: runtimes and precisions that were timed, where the choice was open.
    """

    table: str
    table_id: str
    complete: bool
    setting: Setting
    space: str
    preset: str
    rows: int
    probes: int
    measurements: int
    seconds: float
    failures: tuple[Failure, ...] = ()
    gates: dict[str, int] = Field(default_factory=dict)
    holdout: HeldOut | None = None
    near_ms: float | None = None
    chosen_among: tuple[dict[str, Any], ...] = ()
