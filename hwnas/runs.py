"""Run folders: where a long job writes as it goes, and what a repeated command resumes from.

A run folder holds ``manifest.json`` (command, configuration, seed, versions), ``events.jsonl``
(append-only, one JSON object a line, flushed to disk before the job goes on), ``log.txt`` (the words
of the events, for people) and whatever the job makes. Opening the folder again with the same
configuration resumes; with another it is refused.
"""

from __future__ import annotations

import json
import os
import platform
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import hwnas
from hwnas.documents import read_json
from hwnas.errors import DataFormatError, InputError
from hwnas.records import now_utc
from hwnas.store import write_json

MANIFEST_SCHEMA = "hwnas.run/1"
RUNS = Path("runs")


class RunFolder:
    """One run on disk.

    Attributes:
        path: the folder.
        resumed: whether it held events when it was opened.
    """

    def __init__(self, path: Path, verb: str, config: Mapping[str, Any]) -> None:
        """Open or create a run folder.

        Args:
            path: the folder.
            verb: the command ("search", "train", ...).
            config: everything that decides the result; must be equal when resuming.

        Raises:
            InputError: the folder holds a run of another verb or configuration.
        """
        self.path = path
        manifest = path / "manifest.json"
        config = json.loads(json.dumps(config))  # the form in which it is compared
        if manifest.exists():
            self._refuse_other(read_json(manifest, "run manifest", MANIFEST_SCHEMA), verb, config)
        elif path.exists() and any(path.iterdir()):
            raise InputError(f"{path} is not empty and not a hwnas run; choose another --out")
        else:
            write_json(
                manifest, {"schema": MANIFEST_SCHEMA, "verb": verb, "config": config, **_environment()}
            )
        self._events = path / "events.jsonl"
        self._drop_torn_line()
        self.resumed = self._events.exists() and self._events.stat().st_size > 0

    def _refuse_other(self, manifest: Mapping[str, Any], verb: str, config: Mapping[str, Any]) -> None:
        if manifest.get("verb") != verb:
            raise InputError(
                f"{self.path} holds a {manifest.get('verb')!r} run, not {verb!r}; choose another --out"
            )
        before = manifest.get("config", {})
        changed = sorted(k for k in {*before, *config} if before.get(k) != config.get(k))
        if changed:
            what = "; ".join(f"{k} was {before.get(k)!r}, is {config.get(k)!r}" for k in changed)
            raise InputError(
                f"{self.path} was started with another configuration ({what}); choose another --out"
            )

    def _drop_torn_line(self) -> None:
        """Cut a last line that a kill left unfinished: its event never completed."""
        if not self._events.exists():
            return
        data = self._events.read_bytes()
        if data and not data.endswith(b"\n"):
            with self._events.open("r+b") as file:
                file.truncate(data.rfind(b"\n") + 1)

    def append(self, kind: str, fields: Mapping[str, Any]) -> None:
        """Add an event and flush it to disk; it survives a kill from here on."""
        line = json.dumps({"event": kind, "at": now_utc(), **fields}, allow_nan=False)
        with self._events.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())
        if fields.get("text"):
            with (self.path / "log.txt").open("a", encoding="utf-8") as log:
                log.write(f"{now_utc()} {fields['text']}\n")

    def events(self) -> list[dict[str, Any]]:
        """Every completed event, in order."""
        return read_events(self._events)


def read_events(path: Path) -> list[dict[str, Any]]:
    """The events of a file; DataFormatError names a line that is damaged."""
    if not path.exists():
        return []
    events = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            events.append(json.loads(line))
        except json.JSONDecodeError as exc:
            raise DataFormatError(f"{path}, line {number} is damaged: {exc}") from exc
    return events


def _environment() -> dict[str, Any]:
    """What a result depends on besides its configuration."""
    return {
        "hwnas": hwnas.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "argv": sys.argv[1:],
        "created": now_utc(),
    }


def next_path(verb: str, root: Path = RUNS) -> Path:
    """The next free ``runs/<verb>-<NNNN>``."""
    taken = [int(m.group(1)) for p in root.glob(f"{verb}-*") if (m := re.fullmatch(rf"{verb}-(\d+)", p.name))]
    return root / f"{verb}-{max(taken, default=0) + 1:04d}"


def link_latest(path: Path) -> None:
    """Point ``latest`` beside the run at it."""
    link = path.parent / "latest"
    temporary = path.parent / f".latest-{os.getpid()}"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(path.name)
    temporary.replace(link)


def resolve(name: str | None, verb: str | None = None, root: Path = RUNS) -> Path:
    """A run by path, by name under ``runs/``, or the newest (of a verb) when no name is given.

    Raises:
        InputError: there is no such run.
    """
    if name is not None:
        for path in (Path(name), root / name):
            if (path / "manifest.json").is_file():
                return path.resolve() if path.is_symlink() else path
        raise InputError(f"no run at {name!r}; `hwnas runs list` shows what there is")
    found = [p for p in root.glob("*-*") if (p / "manifest.json").is_file() and not p.is_symlink()]
    if verb is not None:
        found = [p for p in found if p.name.startswith(f"{verb}-")]
    if not found:
        raise InputError(
            f"no {verb or ''} run in {root}/ yet; `hwnas search --latency-budget 18ms` makes one"
        )
    return max(found, key=lambda p: (p / "manifest.json").stat().st_mtime)
