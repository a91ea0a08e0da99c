"""What the backends share: the host's processor, checks of input, a base class that handles `close`."""

from __future__ import annotations

import os
import platform
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from hwnas.arrays import Float32s
from hwnas.errors import BackendUnavailable, BuildError, HwnasError, InputError
from hwnas.protocols import CallTimes
from hwnas.records import Precision, Setting

INPUT_SEED = 0  # of the resident input that is timed; zeros could take a shorter path


@cache
def cpu_model() -> str:
    """Processor name with family and model where the system tells them (virtual ones share names)."""
    fields: dict[str, str] = {}
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            fields.setdefault(key.strip(), value.strip())
    except OSError:
        pass
    name = fields.get("model name") or platform.processor() or platform.machine()
    if "cpu family" in fields:
        name += f" (family {fields['cpu family']}, model {fields.get('model', '?')})"
    return re.sub(r"\s+", " ", name)


@cache
def cpu_flags() -> frozenset[str]:
    """Instruction sets of the processor, as Linux names them; empty elsewhere."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return frozenset()
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    return frozenset(found.group(1).split()) if found else frozenset()


def cores() -> tuple[int, ...]:
    """Cores that this process may use, by the scheduler's numbers."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def check_cpu(backend: str, device: str, threads: int) -> None:
    """Refuse a device that is not this CPU, and more threads than there are cores.

    Raises:
        BackendUnavailable: `device` is not "cpu".
        InputError: more threads than this process may use cores.
    """
    if device != "cpu":
        raise BackendUnavailable(f"backend {backend!r} runs on the CPU of this machine, not on {device!r}")
    if threads > len(cores()):
        raise InputError(
            f"--threads {threads}: this process may use {len(cores())} cores; use at most that many"
        )


def host_system() -> str:
    """Operating system and kernel release, the closest thing to a CPU's driver."""
    return f"{platform.system()} {platform.release()}"


def cpu_setting(
    backend: str,
    version: str,
    device: str,
    precision: Precision,
    batch: int,
    threads: int,
    *,
    spin: bool = False,
) -> Setting:
    """The conditions of a runtime on this machine's processor."""
    return Setting(
        device=device,
        device_arch=cpu_model(),
        backend=backend,
        backend_version=version,
        driver=host_system(),
        precision=precision,
        batch=batch,
        threads=threads,
        spin=spin,
    )


def time_calls(call: Callable[[], object], calls: int, setting: Setting) -> CallTimes:
    """Wall time of each of `calls` calls on the CPU, and the CPU time of all."""
    # A single thread is the calling one, and its own CPU clock knows nothing of other threads of
    # this process (a progress display, say); several threads need the clock of the process.
    cpu_clock = time.thread_time if setting.threads == 1 else time.process_time
    clock, marks = time.perf_counter, np.empty(calls + 1)
    with bound(setting.affinity):
        cpu_s = cpu_clock()
        marks[0] = clock()
        for i in range(1, calls + 1):
            call()
            marks[i] = clock()
        cpu_s = cpu_clock() - cpu_s
    return CallTimes(np.diff(marks) * 1e3, cpu_s * 1e3)


@contextmanager
def bound(affinity: tuple[int, ...] | None) -> Iterator[None]:
    """Bind the calling thread to the first core of `affinity` for the time of the block."""
    if affinity is None:
        yield
        return
    if not hasattr(os, "sched_setaffinity"):
        raise InputError("binding threads to cores needs Linux; leave the affinity unset here")
    if not set(affinity) <= set(cores()):
        raise InputError(f"affinity names the cores {affinity}, but this process may use only {cores()}")
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {affinity[0]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def refusals_of(runtime: str) -> Iterator[None]:
    """What a runtime raises inside the block becomes a BuildError with its words, in one line.

    Runtimes have classes of their own without a common base, and refuse some models only when they run.
    """
    try:
        yield
    except (HwnasError, MemoryError):
        raise
    except Exception as exc:
        raise BuildError(f"{runtime} refused the model: {' '.join(str(exc).split())}") from exc


def random_input(shape: tuple[int, ...]) -> Float32s:
    """Seeded standard normal values of `shape`, float32."""
    return np.random.default_rng(INPUT_SEED).standard_normal(shape, dtype=np.float32)


class Life:
    """Base of the engines: checks its input and refuses calls after `close`."""

    shape: tuple[int, ...]
    _open = True

    def _check_open(self) -> None:
        if not self._open:
            raise InputError("this engine is closed; build or load it again")

    def _check_calls(self, calls: int) -> None:
        self._check_open()
        if calls < 1:
            raise InputError(f"time() needs at least one call, not {calls}")

    def _check_images(self, images: Any) -> Float32s:
        """`images` as contiguous float32 of the engine's own shape (0 there means any)."""
        self._check_open()
        array = np.ascontiguousarray(images, dtype=np.float32)
        fits = array.ndim == len(self.shape) and all(
            want in (0, got) for want, got in zip(self.shape, array.shape)
        )
        if not fits:
            want = "x".join(str(n) if n else "any" for n in self.shape)
            raise InputError(f"this engine takes images of {want}, not {'x'.join(map(str, array.shape))}")
        return array
