"""One writer at a time: for run folders, tables and whatever else several processes might write.

The lock is the kernel's (``flock``), so it ends with its process whatever kills that. The lock file,
``.NAME.hwnas-lock`` beside a file or ``.hwnas-lock`` in a folder, says who holds it, for the message to
the second process. `filelock` is not used: it empties the file on every attempt, and with it the
holder's name. Within one process a lock is held once, however many objects ask for it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import shlex
import stat
import sys
import time
import weakref
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from hwnas import schemas
from hwnas.errors import InputError
from hwnas.records import now_utc

SUFFIX = ".hwnas-lock"
_POLL_S = 0.1

# How long to wait for another process, in seconds; 0 is not at all. Set by ``--wait``.
patience_s: ContextVar[float] = ContextVar("patience_s", default=0.0)
_held: dict[tuple[Path, int], tuple[int, int]] = {}  # (lock file, process): descriptor, holders


class Lock:
    """The right to write something; given back by `release`, or when the object goes.

    Used as a context manager it is released at the end of the block.
    """

    def __init__(self, guarded: Path, *, folder: bool = False) -> None:
        """Take the lock of a file, or of a `folder`; waits up to `patience_s`.

        Raises:
            InputError: another process holds it; names process, command and since when.
        """
        if folder:
            self.path = guarded.resolve() / SUFFIX
        else:
            name = guarded.name.encode()[:200].decode(errors="ignore")  # a file name may have 255 bytes
            self.path = guarded.parent.resolve() / f".{name}{SUFFIX}"
        _acquire(self.path, guarded)
        self._release = weakref.finalize(self, _release, self.path, os.getpid())

    def release(self) -> None:
        """Give it back; again does nothing."""
        self._release()

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def _acquire(path: Path, guarded: Path) -> None:
    key = (path, os.getpid())
    if key in _held:
        held, holders = _held[key]
        _held[key] = (held, holders + 1)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    limit, told = time.monotonic() + patience_s.get(), False
    while (handle := _try(path, guarded)) is None:
        holder = _holder(path)
        if time.monotonic() >= limit:
            raise InputError(
                f"{guarded} is in use by {holder}; wait for it with --wait, or choose another --out"
            )
        if not told:
            logging.getLogger("hwnas").warning("waiting for %s: in use by %s", guarded, holder)
            told = True
        time.sleep(_POLL_S)
    body = {"schema": schemas.LOCK, "pid": os.getpid(), "command": shlex.join(sys.argv), "since": now_utc()}
    os.ftruncate(handle, 0)
    os.pwrite(handle, json.dumps(body).encode(), 0)
    _held[key] = (handle, 1)


def _try(path: Path, guarded: Path) -> int | None:
    """The descriptor of the locked file; None where another process has it."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
        if not stat.S_ISREG(os.fstat(handle).st_mode) or not _ours(handle):
            os.close(handle)
            raise InputError(f"{path} is not a lock file of hwnas; move it away to write {guarded}")
    except OSError as exc:
        if path.is_symlink() or path.is_dir():
            raise InputError(f"{path} is not a lock file of hwnas; move it away to write {guarded}") from exc
        raise
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The one before removes the file when it is done: a lock on a removed file has no effect.
        if os.fstat(handle).st_ino == path.stat().st_ino:
            return handle
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(handle)
    return None


def _ours(handle: int) -> bool:
    start = os.pread(handle, 64, 0)  # empty: a process that was just about to write its name
    return not start or start.startswith(b'{"schema": "hwnas.lock/')


def holder(folder: Path) -> str | None:
    """Who works in a folder, in words; None where nobody on this machine does.

    The lock is not tried: who begins in that moment would find it taken.
    """
    path = folder / SUFFIX
    try:
        os.kill(int(json.loads(path.read_bytes()[:4096])["pid"]), 0)
    except PermissionError:  # of another user, and alive
        return _holder(path)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return _holder(path)


def _holder(path: Path) -> str:
    try:
        body: dict[str, Any] = json.loads(path.read_bytes()[:4096])
        return f"process {int(body['pid'])} (`{str(body['command'])[:200]}`, since {str(body['since'])[:40]})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def _release(path: Path, pid: int) -> None:
    key = (path, pid)
    if pid != os.getpid() or key not in _held:  # a forked child has no right to its parent's lock
        return
    handle, holders = _held[key]
    if holders > 1:
        _held[key] = (handle, holders - 1)
        return
    del _held[key]
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
    os.close(handle)
