"""Runtimes that build engines from ONNX: one file per runtime, found by name through `hwnas.plugins`.

No name of a runtime appears outside this room: callers ask `get` for a backend, the backend for a
`Setting`, an engine, and the time of its calls.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from hwnas import plugins
from hwnas.errors import BackendUnavailable, InputError
from hwnas.protocols import Backend

# What serves a kind of device where the user names no backend.
_USUAL = {"cpu": "ort", "gpu": "trt"}
PACKAGES = ("onnx", "onnxruntime")  # whose versions a description of the machine names
# What `protocols.Backend` asks for.
_DOOR = (*Backend.__annotations__, *(m for m in vars(Backend) if m[0] != "_" and callable(vars(Backend)[m])))


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
            with plugins.blamed("backends", name, "cannot say whether it works here"):
                reason = backend.unavailable()
            row = {"devices": list(backend.devices), "suffix": backend.suffix}
        except InputError as exc:  # of another package, and broken
            reason, row = str(exc), {"devices": [], "suffix": ""}
        known = getattr(backend, "version", "") if reason is None else ""
        rows.append({"name": name, "available": reason is None, "reason": reason, "version": known, **row})
    return rows


LOADS_WITHIN_S = 120


def load_problem(name: str) -> str | None:
    """Why the runtime of a backend does not load here, tried in a process of its own; None where it does.

    What is installed may not load (a library is missing, or of another version), and what fails to load may
    take the process with it. A backend that has no `load_runtime` is not tried.
    """
    if not hasattr(_make(name), "load_runtime"):
        return None
    code = f"from hwnas import backends; backends._make({name!r}).load_runtime()"
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=LOADS_WITHIN_S
        )
    except subprocess.TimeoutExpired:
        return f"loading it took longer than {LOADS_WITHIN_S} s"
    if done.returncode == 0:
        return None
    if done.returncode < 0:
        return f"loading it ended the process with signal {-done.returncode}"
    return done.stderr.strip().rsplit("\n", 1)[-1].partition(": ")[2] or "it does not load"


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
        except InputError:  # another package's, and broken; `describe` names it
            continue
        if path.name.endswith(suffix):
            return get(name)
        suffixes[name] = suffix
    known = ", ".join(f"{suffix} ({name})" for name, suffix in suffixes.items())
    raise InputError(f"{path}: no backend reads files with this suffix; known are {known}")


def usual(kind: str) -> str:
    """Name of the backend that serves a kind of device where the user names none."""
    return _USUAL.get(kind) or own_devices()[kind]


def own_devices() -> dict[str, str]:
    """Devices that are no hardware of this machine but part of a backend: name of each, and its backend."""
    found: dict[str, str] = {}
    for name in plugins.names("backends"):
        try:
            kinds = _make(name).devices
        except InputError:  # another package's, and broken; `describe` names it
            continue
        for kind in kinds:
            if kind not in _USUAL:
                found.setdefault(kind, name)
    return found


def is_own(device: str) -> bool:
    """Whether a setting's device is part of a backend, here or at the end of an address."""
    return device.partition("?")[0].rpartition("/")[2] in own_devices()


def about(name: str) -> str:
    """What a backend says about itself, in one line."""
    text: str = plugins.load("backends", name).__doc__ or ""
    return text.strip().split("\n", 1)[0].rstrip(".")


def conflicts(owners: Mapping[str, list[str]]) -> list[str]:
    """Runtimes that overwrite each other's files, in words with the cure.

    Args:
        owners: import name to the distributions that install it.
    """
    rivals = sorted({d for d in owners.get("onnxruntime", []) if d.startswith("onnxruntime")})
    if len(rivals) < 2:
        return []
    return [
        f"{' and '.join(rivals)} are both installed and overwrite each other's files: pip uninstall "
        f"{' '.join(rivals)}, then install the one you want"
    ]


def package_version(*names: str) -> str:
    """Version of the first installed distribution among `names`, without importing it; else empty."""
    for name in names:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return ""


def _make(name: str) -> Backend:
    """A backend that has what `protocols.Backend` asks for, from any package; InputError if it has not."""
    make = plugins.load("backends", name)
    with plugins.blamed("backends", name, "cannot be made"):
        backend: Backend = make()
    if missing := [part for part in _DOOR if not hasattr(backend, part)]:
        raise InputError(
            f"the backend {name!r} lacks {', '.join(missing)}; a backend needs {', '.join(_DOOR)} "
            "(hwnas.protocols.Backend)"
        )
    if not all(isinstance(kind, str) and plugins.NAME.fullmatch(kind) for kind in backend.devices):
        raise InputError(
            f"the backend {name!r} has the devices {backend.devices!r}; names are {plugins.SPELLING}"
        )
    if backend.name != name:
        raise InputError(f"the backend {name!r} calls itself {backend.name!r}; both must be the same")
    return backend
