"""A latency table for a search that has none: a quick profile of its space, announced to the user."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from hwnas import budgets
from hwnas.errors import MissingMeasurement
from hwnas.jobs import predict
from hwnas.jobs.profile import ProfileOptions
from hwnas.jobs.profile import profile as job
from hwnas.jobs.search.options import STRATEGY, SearchOptions
from hwnas.jobs.search.plan import check_references
from hwnas.measure import device as devices
from hwnas.measure import table_folder
from hwnas.measure.candidates import AUTO
from hwnas.measure.remote.address import is_remote
from hwnas.measure.table import LatencyTable
from hwnas.nets.families import Families
from hwnas.protocols import Emit, SearchSpace
from hwnas.results import DryRun
from hwnas.units import format_seconds


class NotYet(Exception):
    """A dry run without a table.

    Attributes:
        planned: what the profile before the search would do.
        strategy: of the search.
    """

    def __init__(self, planned: dict[str, Any], strategy: str | None) -> None:
        super().__init__("no table yet")
        self.planned, self.strategy = planned, strategy or STRATEGY

    def dry(self, options: SearchOptions) -> DryRun:
        """What would be done, as far as it is known without a table."""
        seconds = format_seconds(self.planned["seconds"])
        body = {
            "dry_run": True,
            "run": None if options.out is None else str(options.out),
            "table": f"none yet: a quick profile is measured first, about {seconds}",
            "profile": self.planned,
            "data": options.data,
            "budgets": [options.latency_budget],
            "strategy": self.strategy,
            "seconds": self.planned["seconds"],
            "notes": ["whether the budget can be met is known after the profile"],
        }
        return DryRun.of(body)


def measure(
    options: SearchOptions, space: SearchSpace, emit: Emit, left_s: float | None, *, why: str
) -> LatencyTable:
    """Profile quickly for the search's conditions, images and classes, and load the table.

    Args:
        options: of the search.
        space: with the images and classes of the search.
        emit: progress.
        left_s: seconds of ``--max-time`` that are left; None without a limit.
        why: no table that is there is taken.

    Raises:
        NotYet: in a dry run.
        InputError: the budget is a ratio to a network that such a table would not cover.
        BackendUnavailable: device or runtime is not available.
        MissingMeasurement: the time limit ended the profile.
    """
    check_references(options.latency_budget, space)
    smallest = space.smallest()
    given = {name: getattr(options, name) for name in ("backend", "precision", "batch", "threads")}
    if _chosen_by_the_clock(options, space):
        given |= {"backend": AUTO, "precision": AUTO}
    chosen = ProfileOptions(
        device=options.device or "auto",
        space=None if options.model is not None else options.space,
        model=options.model,
        weights=options.weights,
        input_shape=smallest.input_shape,
        classes=smallest.classes,
        preset="quick",
        seed=options.seed,
        max_time_s=left_s,
        near_ms=near_ms(options.latency_budget) if isinstance(space, Families) else None,
        **{name: value for name, value in given.items() if value is not None},
    )
    planned = job(replace(chosen, dry_run=True)).as_json()
    if options.dry_run:
        raise NotYet(planned, options.strategy)
    text = (
        f"{why}: measuring a quick one of {space.name} first, about "
        f"{format_seconds(planned['seconds'])}; `hwnas profile` measures more and predicts better"
    )
    emit("note", {"text": text})
    body = job(chosen, emit)
    if not body["complete"]:
        raise MissingMeasurement(
            f"the quick profile was not finished within --max-time ({body['table']} is incomplete); repeat "
            "the command to continue it, or allow more time"
        )
    return predict.find(Path(body["table"]))


def _chosen_by_the_clock(options: SearchOptions, space: SearchSpace) -> bool:
    """Whether the fastest runtime and precision here are taken: where the user names neither, nor a space.

    On this machine's CPU: on a GPU an engine takes minutes to build, and each candidate builds three.
    """
    device = options.device or AUTO
    named = options.backend is not None or options.precision is not None
    if named or not isinstance(space, Families) or is_remote(device):
        return False
    return devices.resolve(device).name == "cpu"


def budgets_ms(text: str) -> list[float | None]:
    """Latencies of written budgets; None for one that is a ratio to a network's."""
    return [written.latency_ms for written in budgets.parse(text)]


def near_ms(text: str) -> float | None:
    """The latency near which networks are to be measured, where all written budgets are about one."""
    given = budgets_ms(text)
    known = [ms for ms in given if ms is not None]
    return max(known) if known and table_folder.near(max(known), given) else None
