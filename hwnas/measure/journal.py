"""Sessions written down as they end, so that a killed measurement goes on with all but the last of them.

A row of a table is the sum of sessions that are minutes apart (`hwnas.measure.timing`), so rows alone
would not keep what was measured. One JSON object a line; a line that a kill left unfinished is
dropped. The first line holds the conditions: sessions of fp32 never become rows of fp16. The file goes
when its table is finished.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hwnas import store
from hwnas.documents import json_object, read_bytes
from hwnas.errors import DataFormatError
from hwnas.measure.session import TimingSession

SCHEMA = "hwnas.sessions/1"
SUFFIX = ".sessions"


class Journal:
    """The sessions of an unfinished table.

    Args:
        path: the file, beside the table; who writes the table holds its lock.
        conditions: everything that decides what a session gives (setting, space, seed, protocol,
            sentinel, ...); sessions taken under any other are not taken up.

    Raises:
        InputError: a file of that name is there that is none of ours.
    """

    def __init__(self, path: Path, conditions: Mapping[str, Any]) -> None:
        self.path = path
        # The form in which it is compared.
        self._head: dict[str, Any] = {"schema": SCHEMA, **json.loads(json.dumps(conditions))}
        self._found: dict[str, list[TimingSession]] = {}
        store.refuse_foreign(path, f'{{"schema": "{SCHEMA}"', "journal of hwnas")
        lines = _lines(path)
        if lines and lines[0] == self._head:
            for line in lines[1:]:
                self._found.setdefault(line["name"], []).append(_session(line))
        else:
            path.unlink(missing_ok=True)

    def sessions(self, name: str) -> list[TimingSession]:
        """What was measured of an engine before."""
        return list(self._found.get(name, ()))

    def append(self, name: str, session: TimingSession) -> None:
        """Write down a session that is judged for good."""
        body = {
            "name": name,
            "wall_ms": [float(f"{ms:.6g}") for ms in session.wall_ms],
            **{field: getattr(session, field) for field in _PLAIN},
        }
        if not self.path.exists():
            store.write_text(self.path, json.dumps(self._head) + "\n", new=True)
        store.append_line(self.path, _sealed(body))

    def clear(self) -> None:
        """Forget everything: the table is finished."""
        self._found.clear()
        self.path.unlink(missing_ok=True)


class TaskJournal:
    """The part of a journal that belongs to one task; names may occur in several."""

    def __init__(self, journal: Journal, task: str) -> None:
        self._journal, self._task = journal, task

    def sessions(self, name: str) -> list[TimingSession]:
        """As `Journal.sessions`."""
        return self._journal.sessions(f"{self._task}: {name}")

    def append(self, name: str, session: TimingSession) -> None:
        """As `Journal.append`."""
        self._journal.append(f"{self._task}: {name}", session)


_PLAIN = ("floor_ms", "median_ms", "disturbed", "wall_cpu_ratio", "gates", "level_ms")


def _sealed(body: Mapping[str, Any]) -> str:
    """A line with a check sum over the rest of it."""
    text = json.dumps(body, separators=(",", ":"))
    return json.dumps({**body, "crc": zlib.crc32(text.encode())}, separators=(",", ":"))


def _lines(path: Path) -> list[dict[str, Any]]:
    """The head and the whole lines of a journal; what cannot be read ends it: it only saves time."""
    if not path.exists():
        return []
    raw = read_bytes(path, "journal").split(b"\n")
    found: list[dict[str, Any]] = []
    for at, line in enumerate(raw[:-1]):
        try:
            body = json_object(line.decode("utf-8"), path)
            crc = body.pop("crc", None)
            whole = at == 0 or crc == zlib.crc32(json.dumps(body, separators=(",", ":")).encode())
        except (UnicodeDecodeError, DataFormatError):
            whole = False
        if not whole:
            break
        found.append(body)
    kept = b"".join(line + b"\n" for line in raw[: len(found)])
    if kept != b"\n".join(raw):
        store.write_bytes(path, kept)
    return found


def _session(line: Mapping[str, Any]) -> TimingSession:
    fields = {field: line[field] for field in _PLAIN}
    fields["gates"] = tuple(fields["gates"])
    return TimingSession(wall_ms=np.array(line["wall_ms"]), undisturbed_ms=np.empty(0), **fields)
