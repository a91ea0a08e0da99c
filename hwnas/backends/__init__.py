"""Runtimes that build engines from ONNX: one file a runtime, found by name through `hwnas.plugins`.

No name of a runtime appears outside this room: callers ask `get` for a backend, the backend for a
`Setting`, an engine, and the time of its calls.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from hwnas import plugins
from hwnas.errors import BackendUnavailable, InputError
from hwnas.protocols import Backend


def get(name: str) -> Backend:
    """A new instance of the backend registered under `name`.

    Raises:
        InputError: no such name; the message offers the nearest one.
        BackendUnavailable: it is known but cannot run here; the message says why and the cure.
    """
    backend = _make(name)
    reason = backend.unavailable()
    if reason is not None:
        raise BackendUnavailable(f"backend {name!r} is not available: {reason}")
    return backend


def describe() -> list[dict[str, Any]]:
    """Every registered backend: name, available, reason, devices, version, suffix."""
    rows = []
    for name in plugins.names("backends"):
        try:
            backend = _make(name)
            reason = backend.unavailable()
            row = {"devices": list(backend.devices), "suffix": backend.suffix}
        except (ImportError, InputError) as exc:  # a plug-in of another package that does not import
            reason, row = str(exc), {"devices": [], "suffix": ""}
        known = getattr(backend, "version", "") if reason is None else ""
        rows.append({"name": name, "available": reason is None, "reason": reason, "version": known, **row})
    return rows


def for_file(path: Path) -> Backend:
    """The backend whose engine files end like `path`.

    Raises:
        InputError: no registered backend writes such files.
        BackendUnavailable: one does, but it cannot run here.
    """
    suffixes = {}
    for name in plugins.names("backends"):
        try:
            suffix = _make(name).suffix
        except (ImportError, InputError):  # another package's, and broken; `describe` names it
            continue
        if path.name.endswith(suffix):
            return get(name)
        suffixes[name] = suffix
    known = ", ".join(f"{suffix} ({name})" for name, suffix in suffixes.items())
    raise InputError(f"{path}: no backend reads files with this suffix; known are {known}")


def package_version(*names: str) -> str:
    """Version of the first installed distribution among `names`, without importing it; else empty."""
    for name in names:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return ""


def _make(name: str) -> Backend:
    backend: Backend = plugins.load("backends", name)()
    return backend
