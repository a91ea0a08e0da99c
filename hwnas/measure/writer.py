"""Writing latency tables: row by row while a sweep runs, or whole."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hwnas import seals
from hwnas.documents import read_bytes
from hwnas.errors import HwnasError, InputError
from hwnas.locks import Lock
from hwnas.measure.rows import SCHEMA, EndRow, Header, Row, SummaryRow
from hwnas.measure.table import LatencyTable, load, parse
from hwnas.store import append_line, refuse_foreign, write_bytes, write_text


class TableWriter:
    """Appends rows to a table file, each flushed to disk before the call returns.

    Opening an existing file continues where it stopped; a last line that a kill left unfinished is cut,
    once the file is known to be this table. The file is locked for this process while the object lives.
    """

    def __init__(self, path: Path, header: Header) -> None:
        """Create or reopen.

        Raises:
            InputError: the file is no table, holds one of another setting or space, or another
                process is writing it.
            DataFormatError: the table is damaged.
        """
        self.path = path
        refuse_foreign(path, SCHEMA, "a latency table")
        self._lock = Lock(path)
        refuse_foreign(path, SCHEMA, "a latency table")
        if path.exists() and path.stat().st_size > 0:
            whole, torn = _whole_lines(path)
            self.table = parse(path, whole)
            _refuse_other(self.table.header, header, path)
            if torn:
                write_bytes(path, whole)
            self._hash = self.table.table_id
            self._count = whole.count(b"\n")
            return
        self.table = LatencyTable(header, path)
        first = {"schema": SCHEMA, **header.model_dump(mode="json")}
        self._hash, line = seals.line("", first)
        write_text(path, line + "\n")  # whole or not at all, so that a table's first line is never torn
        self._count = 1
        self.table.table_id = self._hash

    def close(self) -> None:
        """Let another process write the table; the object is of no more use for writing."""
        self._lock.release()

    def append(self, row: Row) -> None:
        """Add a row to table and file."""
        self.table.add(row)
        self._write(row.model_dump(mode="json", exclude_defaults=False))

    def finish(self, figures: Mapping[str, Any] | None = None) -> LatencyTable:
        """Mark the sweep as ended and give the table; a table already ended stays as it is."""
        if not self.table.complete or figures is not None:
            if figures is not None:
                self.append(SummaryRow(figures=dict(figures)))
            self.append(EndRow(rows=self._count - 1))
        return self.table

    def _write(self, body: dict[str, Any]) -> None:
        self._hash, line = seals.line(self._hash, body)
        append_line(self.path, line)
        self._count += 1
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
            f"{path} holds a table measured under other conditions ({'; '.join(changed)}); choose another "
            "--out"
        )


def _whole_lines(path: Path) -> tuple[bytes, bool]:
    """The finished lines of a file, and whether an unfinished one came after them."""
    data = read_bytes(path, "table")
    whole = data[: data.rfind(b"\n") + 1]
    return whole, len(whole) < len(data)


def write(path: Path, table: LatencyTable) -> LatencyTable:
    """Write a whole table to a new file in one step, and give it as it reads back.

    A file that holds the same table already (an import that is repeated) is left as it is.

    Raises:
        InputError: the file holds anything else.
    """
    lines, before = [], ""
    rows: list[Row] = list(table)
    if table.summary:
        rows.append(SummaryRow(figures=table.summary))
    rows.append(EndRow(rows=len(rows)))
    bodies: list[dict[str, Any]] = [{"schema": SCHEMA, **table.header.model_dump(mode="json")}]
    bodies += [row.model_dump(mode="json") for row in rows]
    for body in bodies:
        before, line = seals.line(before, body)
        lines.append(line + "\n")
    data = "".join(lines).encode()
    made = parse(path, data)  # what could not be read back is not written
    try:
        write_bytes(path, data, new=True)
    except InputError:
        there = _same(path, made)
        if there is None:
            raise
        return there
    return made


def _same(path: Path, made: LatencyTable) -> LatencyTable | None:
    """The table in a file, where it differs from `made` only in when it was written."""
    try:
        there = load(path)
    except HwnasError:
        return None
    stamps = {"created": "", "tool": {}}
    alike = there.header.model_copy(update=stamps) == made.header.model_copy(update=stamps)
    return there if alike and there.complete and list(there) == list(made) else None
