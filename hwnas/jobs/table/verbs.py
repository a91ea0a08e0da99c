"""`hwnas table`: look at, check, compare and share latency tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hwnas import plugins
from hwnas.cost import importers
from hwnas.documents import read_bytes
from hwnas.errors import InputError
from hwnas.jobs.table.check import resolve, validate
from hwnas.measure import compare, table_folder
from hwnas.measure import table as tables
from hwnas.measure.rows import NEAR
from hwnas.measure.writer import write
from hwnas.records import Precision, Setting, to_json
from hwnas.results import Result
from hwnas.store import write_bytes

__all__ = ["diff", "export", "import_", "listed", "merge", "show", "validate"]


class TableLine(Result):
    """A table of the user's data folder; `near_ms` is None where it is for any budget."""

    path: str
    created: str
    space: str
    input: tuple[int, ...] | None
    classes: int | None
    near_ms: float | None
    error_percent: float | None
    finished: bool
    conditions: str


class Tables(Result):
    """Every table, newest first; `damaged` names the files that are none, and why."""

    folder: str
    tables: tuple[TableLine, ...]
    damaged: tuple[dict[str, str], ...]


class TableShown(Result):
    """What is in a table; figures of its profile (``holdout``, ...) are attributes too."""

    path: str
    table_id: str
    complete: bool
    warnings: tuple[str, ...]
    created: str
    space: str
    input: tuple[int, ...] | None
    classes: int | None
    near_ms: float | None
    source: str
    setting: Setting
    conditions: str
    rows: int
    networks: dict[str, int]
    failures: tuple[dict[str, Any], ...]
    gates: dict[str, int]
    blocks: tuple[dict[str, Any], ...]


class DiffOutcome(Result):
    """How table `b` differs from `a`; `verdict` is "same", "slower", "faster" or "different"."""

    a: str
    b: str
    verdict: str


class TableWritten(Result):
    """A table that was written."""

    table: str
    table_id: str
    rows: int
    warnings: tuple[str, ...]


class TableImported(TableWritten):
    """A table that was imported, and the entries that have no block here."""

    conditions: str
    not_imported: tuple[str, ...]


def listed() -> Tables:
    """Every table in the user's data folder."""
    found = table_folder.survey()
    body = {
        "folder": str(table_folder.folder()),
        "tables": [
            {
                "path": str(path),
                "created": header.created,
                "space": header.space,
                "input": list(header.input_shape) if header.input_shape else None,
                "classes": header.classes,
                "near_ms": header.protocol.get(NEAR),
                "error_percent": _error(path),
                "finished": table_folder.is_finished(path),
                "conditions": header.setting.describe(),
            }
            for path, header in found.good
        ],
        "damaged": [{"path": str(path), "note": note} for path, note in found.bad],
    }
    return Tables.of(body)


def _error(path: Path) -> float | None:
    """Mean error on networks that the table's model was not fitted to, where its profile knows it."""
    held = table_folder.figures(path).get("holdout")
    found = held.get("mape_percent") if isinstance(held, dict) else None
    return float(found) if isinstance(found, (int, float)) else None


def show(path: Path | None = None) -> TableShown:
    """What is in a table: conditions, counts, rows, the figures of its profile."""
    table = resolve(path)
    roles = Counter(net.role for net in table.networks)
    gates = Counter(gate for row in table.rows.values() if row.measurement for gate in row.measurement.gates)
    body = {
        **table.summary,  # first: its names come from the file, and hide none of these
        "path": str(table.path),
        "table_id": table.table_id,
        "complete": table.complete,
        "warnings": table.warnings,
        "created": table.header.created,
        "space": table.header.space,
        "input": list(table.header.input_shape) if table.header.input_shape else None,
        "classes": table.header.classes,
        "near_ms": table.header.protocol.get(NEAR),
        "source": table.header.source,
        "setting": to_json(table.setting),
        "conditions": table.setting.describe(),
        "rows": len(table.rows),
        "networks": dict(roles),
        "failures": [
            {"blocks": [b.key for b in f.blocks], "error": f.error} for f in table.failures.values()
        ],
        "gates": dict(gates),
        "blocks": [
            {
                "key": block.key,
                "value_ms": row.value_ms,
                "se_ms": row.se_ms,
                "method": row.method,
                "gates": list(row.measurement.gates) if row.measurement else [],
            }
            for block, row in sorted(table.rows.items())
        ],
    }
    return TableShown.of(body)


def diff(a: Path, b: Path) -> DiffOutcome:
    """Compare two tables; `verdict` is "same", "slower", "faster" or "different"."""
    one, two = tables.load(a), tables.load(b)
    return DiffOutcome.of({"a": one.table_id, "b": two.table_id, **asdict(compare.diff(one, two))})


def merge(paths: Sequence[Path], out: Path | None = None) -> TableWritten:
    """Join tables of the same conditions into a new one."""
    parts = [tables.load(path) for path in paths]
    merged = compare.merge(parts)
    path = out or table_folder.new_path(merged.header)
    table = write(path, merged)
    body = {
        "table": str(path),
        "table_id": table.table_id,
        "rows": len(table),
        "networks": len(table.networks),
        "warnings": [note for part in parts for note in part.warnings],
    }
    return TableWritten.of(body)


def export(out: Path, path: Path | None = None) -> TableWritten:
    """Copy a table out, after checking it; the file is the table, byte for byte."""
    table = resolve(path)
    assert table.path is not None
    data = read_bytes(table.path, "table", tables.MOST_BYTES)
    table = tables.parse(table.path, data)  # what is written is what was checked
    write_bytes(out, data, new=True)
    body = {"table": str(out), "table_id": table.table_id, "rows": len(table), "warnings": table.warnings}
    return TableWritten.of(body)


def import_(
    source: Path,
    *,
    fmt: str = "hwlat",
    out: Path | None = None,
    device: str | None = None,
    batch: int | None = None,
    precision: Precision = "fp32",
) -> TableImported:
    """Take a table into the user's data folder.

    Args:
        source: the file.
        fmt: "hwlat" for a table of this tool from another machine, "densenas", "ofa".
        out: where to; the data folder by default.
        device, batch, precision: conditions that the published formats do not hold.

    Raises:
        InputError: unknown format or missing file.
        DataFormatError: the file is not what the format says.
    """
    left_out: list[str] = []
    if fmt == "hwlat":
        data = read_bytes(source, "table", tables.MOST_BYTES)
        table = tables.parse(source, data)  # what is written is what was checked
        path = out or table_folder.new_path(table.header)
        _copy(path, data)
    elif fmt in plugins.names("importers"):
        table = importers.read(source, fmt, device=device, batch=batch, precision=precision)
        path = out or table_folder.new_path(table.header)
        left_out = table.header.protocol.get("not_imported", [])
        table = write(path, table)
    else:
        raise InputError(plugins.unknown("table format", fmt, ["hwlat", *plugins.names("importers")]))
    body = {
        "table": str(path),
        "table_id": table.table_id,
        "rows": len(table),
        "conditions": table.setting.describe(),
        "not_imported": left_out,
        "warnings": table.warnings,
    }
    return TableImported.of(body)


def _copy(path: Path, data: bytes) -> None:
    """Write a new file; one that holds the same already (an import that is repeated) is well."""
    try:
        write_bytes(path, data, new=True)
    except InputError:
        if not path.is_file() or path.is_symlink() or path.read_bytes() != data:
            raise
