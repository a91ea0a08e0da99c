"""This machine as data: processor, caches, GPUs, and how busy others keep it."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np

from hwnas.backends.base import cores, cpu_model, host_system
from hwnas.backends.cuda.gpus import GpuInfo, gpus
from hwnas.records import Record

# Instruction sets that decide which kernels a runtime takes.
FLAGS = (
    *("sse4_2", "avx", "avx2", "fma", "f16c", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
    *("avx_vnni", "amx_tile", "amx_bf16", "amx_int8"),
    *("neon", "asimd", "asimdhp", "asimddp", "sve", "i8mm", "bf16"),
)
DEFAULT_LLC_BYTES = 32 << 20
# Columns of /proc/stat in which nothing runs: idle, iowait.
IDLE = (3, 4)


class DeviceInfo(Record):
    """This machine, as far as latency depends on it.

    `load` is the one-minute load average and `governor` the frequency policy; both may change and
    stay out of the fingerprint, as does the kernel.
    """

    cpu: str
    cores: int
    flags: tuple[str, ...]
    caches_bytes: dict[str, int]
    memory_bytes: int
    virtual: bool
    governor: str
    load: float
    system: str
    python: str
    gpus: tuple[GpuInfo, ...]

    @property
    def fingerprint(self) -> str:
        """Twelve hexadecimal digits: equal machines have equal ones."""
        body = self.model_dump_json(include={"cpu", "cores", "flags", "caches_bytes", "gpus"})
        return hashlib.sha256(body.encode()).hexdigest()[:12]


def detect() -> DeviceInfo:
    """Look at this machine."""
    text = _read("/proc/cpuinfo")
    found = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", text, re.MULTILINE)
    flags = set(found.group(1).split()) if found else set()
    memory = re.search(r"^MemTotal:\s*(\d+) kB", _read("/proc/meminfo"), re.MULTILINE)
    return DeviceInfo(
        cpu=cpu_model(),
        cores=len(cores()),
        flags=tuple(flag for flag in FLAGS if flag in flags),
        caches_bytes=_caches(),
        memory_bytes=int(memory.group(1)) * 1024 if memory else 0,
        virtual="hypervisor" in flags,
        governor=_read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").strip(),
        load=round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else 0.0,
        system=host_system(),
        python=platform.python_version(),
        gpus=gpus(),
    )


def llc_bytes() -> int:
    """Size of the last-level cache; 32 MiB where the system does not tell."""
    return max(_caches().values(), default=DEFAULT_LLC_BYTES)


def cpu_flush() -> Callable[[], None]:
    """A function that empties this CPU's caches, by writing twice the size of the last level."""
    buffer = np.zeros(2 * llc_bytes() // 8)

    def flush() -> None:
        np.add(buffer, 1.0, out=buffer)

    return flush


def others_load() -> Callable[[], float | None]:
    """Start to watch; the function returned gives the cores that other processes used since then.

    None where the system does not count (anything but Linux), or no time went by.
    """
    begun, own, busy = time.perf_counter(), time.process_time(), _busy_s()

    def used() -> float | None:
        elapsed, now = time.perf_counter() - begun, _busy_s()
        if busy is None or now is None or elapsed < 0.1:  # the counter ticks in hundredths of a second
            return None
        return max(0.0, (now - busy - (time.process_time() - own)) / elapsed)

    return used


def _busy_s() -> float | None:
    """CPU seconds that all processes have used on the cores that this one may run on, since start-up."""
    mine = {f"cpu{core}" for core in cores()}
    lines = [line.split() for line in _read("/proc/stat").splitlines() if line.startswith("cpu")]
    busy = [fields[1:9] for fields in lines if fields[0] in mine and len(fields) > 8]
    if not busy:
        return None
    ticks = sum(int(field) for fields in busy for i, field in enumerate(fields) if i not in IDLE)
    return ticks / float(os.sysconf("SC_CLK_TCK"))


@cache
def _caches() -> dict[str, int]:
    sizes: dict[str, int] = {}
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind = _read(folder / "level").strip(), _read(folder / "type").strip()
        size = re.fullmatch(r"(\d+)K", _read(folder / "size").strip())
        if size and kind != "Instruction":
            sizes[f"L{level}"] = int(size.group(1)) * 1024
    return sizes


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:
        return ""
