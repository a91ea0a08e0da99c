"""Sessions written down as they end, so that a killed measurement goes on with all but the last of them.

A row of a table is the sum of sessions that are minutes apart (`hwnas.measure.timing`), so rows alone
would not keep what was measured. One sealed JSON object per line; a line that a kill left unfinished is
dropped. The first line holds the conditions: sessions of fp32 never become rows of fp16. The file goes
when its table is finished.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hwnas import schemas, seals, store
from hwnas.documents import json_object, read_bytes
from hwnas.errors import DataFormatError
from hwnas.measure.session import TimingSession

SUFFIX = ".sessions"


class Journal:
    """The sessions of an unfinished table.

    Args:
        path: the file, beside the table; who writes the table holds its lock.
        conditions: everything that decides what a session gives (setting, space, seed, protocol,
            sentinel, ...); sessions taken under any other are not taken up.

    Raises:
        InputError: a file of that name is there that is none of ours.
        DataFormatError: it is damaged.
    """

    def __init__(self, path: Path, conditions: Mapping[str, Any]) -> None:
        self.path = path
        # The form in which it is compared.
        self._head: dict[str, Any] = {
            "schema": schemas.SESSIONS,
            "fields": list(_PLAIN),
            **json.loads(json.dumps(conditions)),
        }
        self._found: dict[str, list[TimingSession]] = {}
        store.refuse_foreign(path, f'{{"schema":"{schemas.SESSIONS}"', "a journal of hwnas")
        lines, self._seal = _lines(path)
        if lines and lines[0] == self._head:
            for number, line in enumerate(lines[1:], start=2):
                try:
                    self._found.setdefault(str(line["name"]), []).append(_session(line))
                except (KeyError, TypeError, ValueError) as exc:
                    raise DataFormatError(f"journal {path}, line {number} holds no session: {exc!r}") from exc
        else:
            path.unlink(missing_ok=True)
            self._seal = ""

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
            self._seal, head = seals.line("", self._head)
            store.write_text(self.path, head + "\n", new=True)
        seal, text = seals.line(self._seal, body)
        store.append_line(self.path, text)
        self._seal = seal

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


_PLAIN = (
    *("floor_ms", "median_ms", "disturbed", "wall_cpu_ratio", "gates", "level_ms"),
    *("error_ms", "host_ms", "enqueue_ms"),
)


def _lines(path: Path) -> tuple[list[dict[str, Any]], str]:
    """The head and the lines of a journal, and the seal of the last; what a kill left unfinished is cut.

    Raises:
        DataFormatError: a line is damaged.
    """
    if not path.exists():
        return [], ""
    raw = read_bytes(path, "journal")
    whole = raw[: raw.rfind(b"\n") + 1]
    found: list[dict[str, Any]] = []
    seal = ""
    for number, line in enumerate(whole.split(b"\n")[:-1], start=1):
        where = f"journal {path}, line {number}"
        try:
            body = json_object(line.decode("utf-8"), where)
            seal = seals.unsealed_line(body, seal, where)
        except (UnicodeDecodeError, DataFormatError) as exc:
            raise DataFormatError(
                f"{where} is damaged ({exc}); remove this line and all after it, and what they held is "
                "measured again"
            ) from exc
        found.append(body)
    if whole != raw:
        store.write_bytes(path, whole)
    return found, seal


def _session(line: Mapping[str, Any]) -> TimingSession:
    fields = {field: line[field] for field in _PLAIN}
    fields["gates"] = tuple(fields["gates"])
    return TimingSession(wall_ms=np.array(line["wall_ms"]), undisturbed_ms=np.empty(0), **fields)
