"""Run folders: where a long job writes as it goes, and what a repeated command resumes from.

A run folder holds ``manifest.json`` (command, configuration, seed, versions), ``events.jsonl``
(append-only, one sealed JSON object per line, flushed to disk before the job goes on), ``log.txt`` (the words
of the events, for display) and whatever the job makes. Opening the folder again with the same
configuration resumes; with another it is refused. One process at a time has a folder open.
"""

from __future__ import annotations

import json
import logging
import math
import platform
import re
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

import hwnas
from hwnas import locks, schemas, seals, store
from hwnas.documents import json_object, read_bytes, read_json
from hwnas.errors import DataFormatError, HwnasError, InputError
from hwnas.records import now_utc
from hwnas.store import parse, write_json

RUNS = Path("runs")


class Manifest(BaseModel):
    """What a run's ``manifest.json`` holds at least."""

    model_config = ConfigDict(frozen=True, extra="allow")

    verb: str
    config: dict[str, Any]
    created: str = ""


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a run folder; DataFormatError where it is damaged, unsealed or not of hwnas."""
    path = folder / "manifest.json"
    body = read_json(path, "run manifest", schemas.RUN, sealed=True)
    parse(Manifest, body, f"run manifest {path}")
    return body


class RunFolder:
    """One run on disk, locked for this process for as long as the object lives.

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
            InputError: the folder holds a run of another verb or configuration, or no run, or
                another process is writing it.
            DataFormatError: its manifest or events are damaged.
        """
        self.path = path
        config = json.loads(json.dumps(config))  # the form in which it is compared
        self._check(verb, config)
        path.mkdir(parents=True, exist_ok=True)
        self._lock = locks.Lock(path, folder=True)
        new = not self._check(verb, config)  # it may have become a run since
        for folder in (path, path / "weights"):
            store.sweep(folder)
        store.sweep_scratch()
        if new:
            write_json(
                path / "manifest.json",
                {"schema": schemas.RUN, "verb": verb, "config": config, **_environment()},
                sealed=True,
            )
        self._events = path / "events.jsonl"
        self._drop_torn_line()
        found, self._seal = _sealed_events(self._events)
        self.resumed = bool(found)

    def _check(self, verb: str, config: Mapping[str, Any]) -> bool:
        """Whether the folder is this run already; InputError where it is something else."""
        if (self.path / "manifest.json").exists():
            self._refuse_other(read_manifest(self.path), verb, config)
            return True
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"{self.path} is not a folder; choose another --out")
        if self.path.exists() and any(not _passing(p.name) for p in self.path.iterdir()):
            raise InputError(f"{self.path} is not empty and not a hwnas run; choose another --out")
        return False

    def _refuse_other(self, manifest: Mapping[str, Any], verb: str, config: Mapping[str, Any]) -> None:
        if manifest["verb"] != verb:
            raise InputError(
                f"{self.path} holds a {manifest['verb']!r} run, not {verb!r}; choose another --out"
            )
        before = manifest["config"]
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
        data = read_bytes(self._events, "events")
        if data and not data.endswith(b"\n"):
            store.write_bytes(self._events, data[: data.rfind(b"\n") + 1])

    def append(self, kind: str, fields: Mapping[str, Any]) -> None:
        """Add an event and flush it to disk; it survives a kill from here on."""
        plain = json.loads(json.dumps({"event": kind, "at": now_utc(), **fields}, allow_nan=False))
        seal, line = seals.line(self._seal, plain)
        store.append_line(self._events, line)
        self._seal = seal
        if fields.get("text"):
            store.append_line(self.path / "log.txt", f"{now_utc()} {fields['text']}")

    def events(self) -> list[dict[str, Any]]:
        """Every completed event, in order."""
        return read_events(self._events)

    def close(self) -> None:
        """Let another process write here; the object is of no more use for writing."""
        self._lock.release()


def _passing(name: str) -> bool:
    """Whether a file in a folder that is no run yet is of a process that began to make one."""
    return name == locks.SUFFIX or store.is_temporary(name)


def read_events(path: Path) -> list[dict[str, Any]]:
    """The events of a file; DataFormatError names a line that is damaged."""
    return _sealed_events(path)[0]


def _sealed_events(path: Path) -> tuple[list[dict[str, Any]], str]:
    """The events of a file, and the seal of its last line."""
    events, seal = [], ""
    for number, line in enumerate(_lines(path), start=1):
        event = _event(line, f"events {path}, line {number}")
        try:
            seal = seals.unsealed_line(event, seal, f"events {path}, line {number}")
        except DataFormatError as exc:
            raise DataFormatError(
                f"{exc}. Remove this line and all after it to continue from there, or choose another --out"
            ) from exc
        events.append(event)
    return events, seal


def salvage_events(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The events that can be read, and how many lines are damaged: to look at, not to resume from."""
    events: list[dict[str, Any]] = []
    damaged = 0
    before: str | None = ""  # None: the line before could not be read at all
    for number, line in enumerate(_lines(path), start=1):
        after, before = before, None
        try:
            event = _event(line, f"events {path}, line {number}")
            before = str(event.get(seals.LINE))
            if after is not None:
                seals.unsealed_line(event, after, path)
        except DataFormatError:
            damaged += 1
            continue
        event.pop(seals.LINE, None)
        events.append(event)
    return events, damaged


def _lines(path: Path) -> list[bytes]:
    if not path.exists():
        return []
    lines = read_bytes(path, "events").split(b"\n")
    return lines if lines[-1] else lines[:-1]


def _event(line: bytes, where: str) -> dict[str, Any]:
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise DataFormatError(f"{where} is damaged: {exc}") from exc
    event = json_object(text, where)
    if not isinstance(event.get("event"), str):
        raise DataFormatError(f"{where} is damaged: it has no event name")
    for name, value in event.items():
        if name.endswith("_s") and not _seconds(value):
            raise DataFormatError(f"{where} is damaged: {name} is {value!r}, not a number of seconds")
    return event


def _seconds(value: object) -> bool:
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and math.isfinite(value)
        and value >= 0
    )


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


def reserve(verb: str, root: Path = RUNS) -> Path:
    """Make the next free ``runs/<verb>-<NNNN>``; no other process gets the same one."""
    root.mkdir(parents=True, exist_ok=True)
    while True:
        path = next_path(verb, root)
        try:
            path.mkdir()
        except FileExistsError:
            continue
        return path


def link_latest(path: Path) -> None:
    """Point ``latest`` beside the run at it; what a user has put there under that name is left alone."""
    link = path.parent / "latest"
    if not _is_latest(link) and (link.exists() or link.is_symlink()):
        logging.getLogger("hwnas").warning("%s was not created by hwnas and is not changed", link)
        return
    temporary = path.parent / f".latest.hwnas-{secrets.token_hex(4)}.tmp"
    temporary.symlink_to(path.name)
    temporary.replace(link)


def _is_latest(link: Path) -> bool:
    """Whether a link is one of ours: to a neighbour, by its name alone."""
    return link.is_symlink() and len(link.readlink().parts) == 1


def is_run(folder: Path) -> bool:
    """Whether a folder holds a run whose manifest can be read."""
    try:
        read_manifest(folder)
    except HwnasError:
        return False
    return True


def resolve(name: str | None, verb: str | None = None, root: Path = RUNS) -> Path:
    """A run by path, by name under ``runs/``, or the newest (of a verb) when no name is given.

    Raises:
        InputError: there is no such run.
        DataFormatError: the folder that is named has a manifest which is damaged or not of hwnas.
    """
    if name is not None:
        for path in (Path(name), root / name):
            if (path / "manifest.json").is_file():
                read_manifest(path)
                return path.resolve() if path.is_symlink() else path
        raise InputError(f"no run at {name!r}; `hwnas runs list` lists the runs")
    found = [p for p in root.glob("*-*") if (p / "manifest.json").is_file() and not p.is_symlink()]
    if verb is not None:
        found = [p for p in found if p.name.startswith(f"{verb}-")]
    for path in sorted(found, key=lambda p: (p / "manifest.json").stat().st_mtime, reverse=True):
        if is_run(path):
            return path
    raise InputError(
        f"no {f'{verb} ' if verb else ''}run in {root}/ yet; `hwnas search --latency-budget 18ms` makes one"
    )
