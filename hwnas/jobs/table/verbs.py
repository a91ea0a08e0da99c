"""`hwnas table`: look at, check, compare and share latency tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hwnas.cost import importers
from hwnas.errors import InputError
from hwnas.jobs.table.check import resolve, validate
from hwnas.measure import compare
from hwnas.measure import table as tables
from hwnas.measure.writer import write
from hwnas.records import Precision, to_json
from hwnas.store import write_bytes

__all__ = ["diff", "export", "import_", "listed", "merge", "show", "validate"]


def listed() -> dict[str, Any]:
    """Every table in the user's data folder, newest first."""
    return {
        "folder": str(tables.folder()),
        "tables": [
            {
                "path": str(path),
                "created": header.created,
                "space": header.space,
                "finished": tables.is_finished(path),
                "conditions": header.setting.describe(),
            }
            for path, header in tables.headers()
        ],
    }


def show(path: Path | None = None) -> dict[str, Any]:
    """What is in a table: conditions, counts, rows, the figures of its profile."""
    table = resolve(path)
    roles = Counter(net.role for net in table.networks)
    gates = Counter(gate for row in table.rows.values() if row.measurement for gate in row.measurement.gates)
    return {
        "path": str(table.path),
        "table_id": table.table_id,
        "complete": table.complete,
        "created": table.header.created,
        "space": table.header.space,
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
        **table.summary,
    }


def diff(a: Path, b: Path) -> dict[str, Any]:
    """Compare two tables; `verdict` is "same", "slower", "faster" or "different"."""
    one, two = tables.load(a), tables.load(b)
    return {"a": one.table_id, "b": two.table_id, **asdict(compare.diff(one, two))}


def merge(paths: Sequence[Path], out: Path | None = None) -> dict[str, Any]:
    """Join tables of the same conditions into a new one."""
    merged = compare.merge([tables.load(path) for path in paths])
    path = out or tables.new_path(merged.header)
    table = write(path, merged)
    return {
        "table": str(path),
        "table_id": table.table_id,
        "rows": len(table),
        "networks": len(table.networks),
    }


def export(out: Path, path: Path | None = None) -> dict[str, Any]:
    """Copy a table out, after checking it; the file is the table, byte for byte."""
    table = resolve(path)
    if table.path is None or out.exists():
        raise InputError(f"{out} exists already; choose another name")
    write_bytes(out, table.path.read_bytes())
    return {"table": str(out), "table_id": table.table_id, "rows": len(table)}


def import_(
    source: Path,
    *,
    fmt: str = "hwlat",
    out: Path | None = None,
    device: str | None = None,
    batch: int | None = None,
    precision: Precision = "fp32",
) -> dict[str, Any]:
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
    if fmt == "hwlat":
        table = tables.load(source)
        path = out or tables.new_path(table.header)
        write_bytes(path, source.read_bytes())
    elif fmt in importers.FORMATS:
        default = {"densenas": "titanxp", "ofa": "pixel1"}[fmt]
        table = importers.read(source, fmt, device=device or default, batch=batch, precision=precision)
        path = out or tables.new_path(table.header)
        table = write(path, table)
    else:
        raise InputError(f"table format {fmt!r} is not one of hwlat, {', '.join(importers.FORMATS)}")
    return {
        "table": str(path),
        "table_id": table.table_id,
        "rows": len(table),
        "conditions": table.setting.describe(),
        "not_imported": table.header.protocol.get("not_imported", []),
    }
