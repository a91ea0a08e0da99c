"""`hwnas table validate`: is a table still true for this machine? Under a minute."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hwnas.cost.model import cost_model
from hwnas.errors import InputError, StaleTable
from hwnas.measure import compare, table_folder
from hwnas.measure import device as devices
from hwnas.measure import table as tables
from hwnas.measure.rows import SUFFIX, NetworkRow
from hwnas.measure.sweep import Sweep, SweepOptions
from hwnas.measure.table import LatencyTable
from hwnas.measure.timing import TimingOptions
from hwnas.measure.writer import TableWriter
from hwnas.protocols import Emit
from hwnas.records import Check
from hwnas.results import Result
from hwnas.store import scratch
from hwnas.units import format_ms

# Networks that stand for a table: spread over its range of latencies.
_SENTINELS = 3


def resolve(path: Path | None) -> LatencyTable:
    """The table of a file, or the newest finished one."""
    return tables.load(path) if path is not None else table_folder.newest()


class ValidateOutcome(Result):
    """Whether a table is still true here.

    Attributes:
        path, table_id: the table.
        verdict: "valid"; "scaled" where all its networks moved by one common `factor`.
        factor, spread_percent, sentinels, seconds: what was measured; None of a table that is not measured.
        checks, warnings: what was looked at.
    """

    path: str
    table_id: str
    verdict: str
    checks: tuple[Check, ...]
    warnings: tuple[str, ...]
    factor: float | None = None
    spread_percent: float | None = None
    sentinels: tuple[dict[str, Any], ...] = ()
    seconds: float | None = None


def validate(path: Path | None = None, emit: Emit | None = None, *, seed: int = 0) -> ValidateOutcome:
    """Check a table against this machine: conditions, then its sentinels measured again.

    Returns:
        The verdict; of "scaled" profile again, or take the factor into account.

    Raises:
        StaleTable: other conditions, or the sentinels moved apart.
        DataFormatError: the file is damaged.
    """
    table = resolve(path)
    checks = [{"name": "file", "passed": True, "detail": f"schema, units, hashes; id {table.table_id}"}]
    said = {"path": str(table.path), "table_id": table.table_id, "checks": checks}
    if table.setting.provenance != "measured":
        warning = (
            f"the table is {table.setting.provenance}; it cannot be compared with this machine by measuring"
        )
        return ValidateOutcome.of({**said, "verdict": "valid", "warnings": [warning]})
    backend, live = devices.conditions_of(table.setting)
    warnings = tables.check_context(table, live)
    checks.append({"name": "conditions", "passed": True, "detail": live.describe()})
    sentinels = _sentinels(table)
    begun = time.perf_counter()
    found = _measure(table, backend, sentinels, emit, seed)
    rows = _then_and_now(table, sentinels, found)
    verdict, factor, spread = compare.judge(np.array([row["ratio"] for row in rows]))
    if all(row["low_ms"] <= row["now_ms"] <= row["high_ms"] for row in rows):
        verdict = "same"  # no further apart than this machine's own states are
    detail = ", ".join(f"{format_ms(row['then_ms'])} -> {format_ms(row['now_ms'])}" for row in rows)
    if verdict == "different":
        raise StaleTable(
            f"table {table.table_id}: its reference networks changed by different factors ({detail}): the "
            "device or its state has changed. "
            f"Profile again: {table.profile_command()}"
        )
    checks.append({"name": "sentinels", "passed": verdict == "same", "detail": detail})
    body = {
        **said,
        "verdict": "valid" if verdict == "same" else "scaled",
        "factor": factor,
        "spread_percent": 100.0 * spread,
        "sentinels": rows,
        "warnings": warnings,
        "seconds": time.perf_counter() - begun,
    }
    return ValidateOutcome.of(body)


def _sentinels(table: LatencyTable) -> list[NetworkRow]:
    nets = sorted(table.networks, key=lambda net: net.measurement.floor_ms)
    if not nets:
        raise InputError(
            f"table {table.table_id} holds no whole network to measure again; tables of `hwnas profile` do"
        )
    at = np.unique(np.linspace(0, len(nets) - 1, _SENTINELS).round().astype(int))
    return [nets[i] for i in at]


def _then_and_now(
    table: LatencyTable, sentinels: Sequence[NetworkRow], found_ms: Mapping[str, float]
) -> list[dict[str, Any]]:
    """For each sentinel its floor in the table and now, and the interval that the table's model gives it."""
    model = cost_model(table)
    specs = [net.spec for net in sentinels]
    low, high = (bound / model.predict(specs)[0] for bound in model.bounds(specs))
    rows: list[dict[str, Any]] = []
    for i, net in enumerate(sentinels):
        then, now = net.measurement.floor_ms, found_ms[net.spec.key]
        sure = {"low_ms": then * float(low[i]), "high_ms": then * float(high[i])}
        rows.append({"network": net.spec.key, "then_ms": then, "now_ms": now, "ratio": now / then, **sure})
    return rows


def _measure(
    table: LatencyTable, backend: Any, sentinels: Sequence[NetworkRow], emit: Emit | None, seed: int
) -> dict[str, float]:
    """Floors in ms by network key, with the default preset's care."""
    with scratch() as folder:
        writer = TableWriter(folder / f"validate{SUFFIX}", table.header)
        task = Sweep(
            writer, backend, SweepOptions(TimingOptions.preset("default"), refer=False, seed=seed), emit
        )
        found = task.again([net.spec for net in sentinels])
    return {key: measurement.floor_ms for key, measurement in found.items()}
