"""Writing latency tables: row by row while a sweep runs, or whole."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hwnas.errors import InputError
from hwnas.measure.rows import SCHEMA, EndRow, Header, Row, SummaryRow, chain_hash
from hwnas.measure.table import LatencyTable, load


class TableWriter:
    """Appends rows to a table file, each flushed to disk before the call returns.

    Opening an existing file goes on where it stopped; a last line that a kill left unfinished is cut.
    """

    def __init__(self, path: Path, header: Header) -> None:
        """Create or reopen.

        Raises:
            InputError: the file holds a table of another setting or space.
            DataFormatError: the file is damaged.
        """
        self.path = path
        if path.exists() and path.stat().st_size > 0 and _drop_torn_line(path):
            self.table = load(path)
            _refuse_other(self.table.header, header, path)
            self._hash = self.table.table_id
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        self.table = LatencyTable(header, path)
        self._hash = ""
        self._write({"schema": SCHEMA, **header.model_dump(mode="json")})

    def append(self, row: Row) -> None:
        """Add a row to table and file."""
        self.table.add(row)
        self._write(row.model_dump(mode="json", exclude_defaults=False))

    def finish(self, figures: Mapping[str, Any] | None = None) -> LatencyTable:
        """Mark the sweep as ended and give the table; a table already ended stays as it is."""
        if not self.table.complete or figures is not None:
            if figures is not None:
                self.append(SummaryRow(figures=dict(figures)))
            self.append(EndRow(rows=self._lines - 1))
        return self.table

    @property
    def _lines(self) -> int:
        with self.path.open("rb") as file:
            return sum(1 for _ in file)

    def _write(self, body: dict[str, Any]) -> None:
        self._hash = chain_hash(self._hash, body)
        line = json.dumps({**body, "hash": self._hash}, allow_nan=False, separators=(",", ":"))
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.table.table_id = self._hash


def _refuse_other(there: Header, header: Header, path: Path) -> None:
    # Driver and kernel may change between two sittings; `context` warns of that.
    ignore = {"driver", "clocks_mhz", "power_limit_w"}
    before, now = (h.setting.model_dump(exclude=ignore) for h in (there, header))
    before |= {"space": there.space, "input_shape": there.input_shape, "classes": there.classes}
    now |= {"space": header.space, "input_shape": header.input_shape, "classes": header.classes}
    changed = [f"{k} was {before[k]!r}, is {now[k]!r}" for k in now if before[k] != now[k]]
    if changed:
        raise InputError(
            f"{path} holds a table of other conditions ({'; '.join(changed)}); choose another --out"
        )


def _drop_torn_line(path: Path) -> bool:
    """Cut an unfinished last line; False when nothing is left."""
    data = path.read_bytes()
    if not data.endswith(b"\n"):
        with path.open("r+b") as file:
            file.truncate(data.rfind(b"\n") + 1)
    return path.stat().st_size > 0


def write(path: Path, table: LatencyTable) -> LatencyTable:
    """Write a whole table to a new file, and give it as it reads back."""
    if path.exists():
        raise InputError(f"{path} exists already; choose another name")
    writer = TableWriter(path, table.header)
    for row in table:
        writer.append(row)
    return writer.finish(table.summary or None)
