"""Executor ``local``: processes of this machine.

What tasks tell comes back as datagrams on a socket of this user's alone: a process that is killed while it
speaks blocks nobody, as it would where it holds the lock of a queue.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwnas.backends.base import cores
from hwnas.cluster.telling import told
from hwnas.container import most_cores
from hwnas.errors import HwnasError, InputError
from hwnas.protocols import Emit, Needs, Running, Work

# A task that ends its process so often is at fault itself.
MOST_DEATHS = 5
# From one look at what tasks have told to the next.
HEAR_S = 0.3
# A name of a socket has 107 characters at most.
LONGEST_NAME = 100


@dataclass(eq=False)
class _InPool:
    """A task of `Local`."""

    owner: Local
    name: str
    task: Work
    args: tuple[Any, ...]
    voice: _Voice
    future: Future[tuple[Any, str, float]]
    where: str = ""
    took_s: float = 0.0
    deaths: int = 0

    def done(self) -> bool:
        """See `Running.done`; a task whose process died is begun again first."""
        if self.future.done() and not self.future.cancelled():
            self.owner.revive(self)
        return self.future.done()

    def result(self) -> Any:
        """See `Running.result`."""
        while not self.done():
            wait([self.future])
        value, self.where, self.took_s = self.future.result()
        if isinstance(value, HwnasError):
            raise value
        return value

    def cancel(self) -> None:
        """See `Running.cancel`."""
        self.future.cancel()


class Local:
    """Tasks in processes of this machine; one that dies is replaced. See `hwnas.protocols.Executor`."""

    times_elsewhere = False

    def __init__(self, address: str, *, jobs: int, device: str, emit: Emit) -> None:
        if address:
            raise InputError(f"--executor local takes no address, and {address!r} was given")
        self.jobs, self._emit = jobs, emit
        self._names: list[str] = []
        self._ear = _Ear()
        self._pool = self._new()

    @classmethod
    def unavailable(cls) -> str | None:
        """None: it is always here."""
        return None

    def _new(self) -> ProcessPoolExecutor:
        threads = max(1, int(min(len(cores()), most_cores())) // self.jobs)
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(self.jobs, mp_context=context, initializer=_share, initargs=(threads,))

    def apart(self, device: str) -> bool:
        """There is one machine."""
        return False

    def share(self, value: Any) -> Any:
        """Values travel with each task."""
        return value

    def submit(self, name: str, needs: Needs, task: Work, *args: Any) -> Running:
        """See `Executor.submit`; the needs are those of a machine that has all there is."""
        self._names.append(name)
        voice = _Voice(str(self._ear.path), len(self._names) - 1)
        return _InPool(self, name, task, args, voice, self._begun(voice, task, args))

    def _begun(self, voice: _Voice, task: Work, args: tuple[Any, ...]) -> Future[tuple[Any, str, float]]:
        try:
            return self._pool.submit(_run, voice, task, args)
        except BrokenProcessPool:
            self._pool = self._new()
            return self._pool.submit(_run, voice, task, args)

    def revive(self, one: _InPool) -> None:
        """Begin a task again whose process died; HwnasError from its result where that goes on and on."""
        if not isinstance(one.future.exception(), BrokenProcessPool):
            return
        one.deaths += 1
        if one.deaths < MOST_DEATHS:
            one.future = self._begun(one.voice, one.task, one.args)
            return
        error = HwnasError(
            f"{one.name}: the process that ran it was ended {one.deaths} times; is there enough memory?"
        )
        one.future = Future()
        one.future.set_result((error, "", 0.0))

    def wait(self, running: Sequence[Running]) -> None:
        """See `Executor.wait`."""
        mine = [one for one in running if isinstance(one, _InPool)]
        while mine and not any(one.done() for one in mine):
            wait([one.future for one in mine], timeout=HEAR_S, return_when=FIRST_COMPLETED)
            self._hear()
        self._hear()

    def _hear(self) -> None:
        for number, kind, fields in self._ear.heard():
            if 0 <= number < len(self._names):
                self._emit(kind, told(self._names[number], fields))

    def close(self) -> None:
        """See `Executor.close`."""
        processes = list((self._pool._processes or {}).values())
        self._pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.terminate()
        self._ear.close()


class _Ear:
    """Where the tasks of one executor speak to."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="hwnas-"))
        if len(str(self._folder)) > LONGEST_NAME:
            self._folder.rmdir()
            self._folder = Path(tempfile.mkdtemp(prefix="hwnas-", dir="/tmp"))
        self.path = self._folder / "ear"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self.path))
        self._socket.setblocking(False)

    def heard(self) -> list[tuple[int, str, dict[str, Any]]]:
        """What was told since the last time: number of the task, kind, fields."""
        found = []
        with suppress(BlockingIOError):
            while True:
                number, kind, fields = json.loads(self._socket.recv(1 << 16))
                found.append((number, kind, fields))
        return found

    def close(self) -> None:
        self._socket.close()
        shutil.rmtree(self._folder, ignore_errors=True)


@dataclass(frozen=True)
class _Voice:
    """How one task tells what it does; a value that travels to it."""

    path: str
    number: int

    def tell(self, kind: str, fields: Mapping[str, Any]) -> None:
        """Say something; it is lost where nobody listens any more."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out, suppress(OSError):
            out.settimeout(1.0)
            out.sendto(json.dumps([self.number, kind, dict(fields)], default=str).encode(), self.path)


def _share(threads: int) -> None:
    """In a process of the pool, before it imports torch, which reads this: all processes share the cores."""
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    torch = sys.modules.get("torch")  # which the user's own script has imported before anything else
    if torch is not None:
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


def _run(voice: _Voice, task: Work, args: tuple[Any, ...]) -> tuple[Any, str, float]:
    """In a process of the pool: the value or an error meant for the user, where, and how long."""
    where = f"{socket.gethostname()}, process {os.getpid()}"
    voice.tell("began", {"where": where})
    start = time.monotonic()
    try:
        value = task(*args, emit=voice.tell)
    except HwnasError as exc:
        value = exc
    voice.tell("ended", {"where": where})
    return value, where, time.monotonic() - start
