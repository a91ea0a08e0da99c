"""Executor ``local``: processes of this machine."""

from __future__ import annotations

import multiprocessing
import os
import socket
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

from hwnas.errors import HwnasError, InputError
from hwnas.protocols import Emit, Needs, Running, Work

# A task that ends its process so often is at fault itself.
MOST_DEATHS = 5


@dataclass(eq=False)
class _InPool:
    """A task of `Local`."""

    owner: Local
    name: str
    task: Work
    args: tuple[Any, ...]
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
        self.jobs = jobs
        self._pool = self._new()

    @classmethod
    def unavailable(cls) -> str | None:
        """None: it is always here."""
        return None

    def _new(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(self.jobs, mp_context=multiprocessing.get_context("spawn"))

    def apart(self, device: str) -> bool:
        """There is one machine."""
        return False

    def share(self, value: Any) -> Any:
        """Values travel with each task."""
        return value

    def submit(self, name: str, needs: Needs, task: Work, *args: Any) -> Running:
        """See `Executor.submit`; the needs are those of a machine that has all there is."""
        return _InPool(self, name, task, args, self._begun(task, args))

    def _begun(self, task: Work, args: tuple[Any, ...]) -> Future[tuple[Any, str, float]]:
        try:
            return self._pool.submit(_run, task, args)
        except BrokenProcessPool:
            self._pool = self._new()
            return self._pool.submit(_run, task, args)

    def revive(self, one: _InPool) -> None:
        """Begin a task again whose process died; HwnasError from its result where that goes on and on."""
        if not isinstance(one.future.exception(), BrokenProcessPool):
            return
        one.deaths += 1
        if one.deaths < MOST_DEATHS:
            one.future = self._begun(one.task, one.args)
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
            wait([one.future for one in mine], return_when=FIRST_COMPLETED)

    def close(self) -> None:
        """See `Executor.close`."""
        processes = list((self._pool._processes or {}).values())
        self._pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.terminate()


def _run(task: Work, args: tuple[Any, ...]) -> tuple[Any, str, float]:
    """In a process of the pool: the value or an error meant for the user, where, and how long."""
    start = time.monotonic()
    try:
        value = task(*args, emit=_silent)
    except HwnasError as exc:
        value = exc
    return value, f"{socket.gethostname()}, process {os.getpid()}", time.monotonic() - start


def _silent(kind: str, fields: object) -> None:
    """Progress of one of several processes, which nobody hears yet."""
