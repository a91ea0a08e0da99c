"""Sessions written down as they end, so that a killed measurement goes on with all but the last of them.

A row of a table is the sum of sessions that are minutes apart (`hwnas.measure.timing`), so rows alone
would not keep what was measured. One JSON object a line; a line that a kill left unfinished is
dropped. The file goes when its table is finished.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hwnas.measure.session import TimingSession


class Journal:
    """The sessions of an unfinished table.

    Args:
        path: the file.
        protocol: how sessions are taken; those of another protocol are not taken up.
    """

    def __init__(self, path: Path, protocol: Mapping[str, Any]) -> None:
        self.path = path
        self._head = {"protocol": dict(protocol)}
        self._found: dict[str, list[TimingSession]] = {}
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
        with self.path.open("a", encoding="utf-8") as file:
            if file.tell() == 0:
                file.write(json.dumps(self._head) + "\n")
            file.write(json.dumps(body, separators=(",", ":")) + "\n")

    def clear(self) -> None:
        """Forget everything: the table is finished."""
        self._found.clear()
        self.path.unlink(missing_ok=True)


class Part:
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


def _lines(path: Path) -> list[dict[str, Any]]:
    """Whole lines of a journal; what cannot be read ends it, for it is only a saving of time."""
    if not path.is_file():
        return []
    text = path.read_text(encoding="utf-8", errors="replace")
    whole, _, torn = text.rpartition("\n")
    found = []
    for line in whole.splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            torn = line
            break
    if torn:
        path.write_text("".join(json.dumps(line) + "\n" for line in found), encoding="utf-8")
    return found


def _session(line: Mapping[str, Any]) -> TimingSession:
    fields = {field: line[field] for field in _PLAIN}
    fields["gates"] = tuple(fields["gates"])
    return TimingSession(wall_ms=np.array(line["wall_ms"]), undisturbed_ms=np.empty(0), **fields)
