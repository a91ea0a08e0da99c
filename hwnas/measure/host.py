"""This machine as data: processor, caches, GPUs, and how busy others keep it."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from hwnas.backends.base import cores, cpu_model, host_system
from hwnas.backends.cuda.gpus import GpuInfo, gpus
from hwnas.record import Record

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


CPUFREQ = Path("/sys/devices/system/cpu/cpufreq")
NVPMODEL_S = 5


def power() -> dict[str, Any]:
    """What holds this machine's clocks: governors, clocks in MHz, the power mode of a Jetson.

    What the system does not tell is left out: most virtual machines tell nothing.
    """
    policies = sorted(CPUFREQ.glob("policy*"))
    told: dict[str, Any] = {}
    for name, file in (("governors", "scaling_governor"), ("limits_mhz", "scaling_max_freq")):
        values = [_read(policy / file).strip() for policy in policies]
        if any(values):
            told[name] = [int(v) // 1000 if v.isdigit() else v for v in values]
    clocks = [_read(policy / "scaling_cur_freq").strip() for policy in policies]
    if clocks and all(value.isdigit() for value in clocks):
        told["clocks_mhz"] = [int(value) // 1000 for value in clocks]
    if (mode := _nvpmodel()) is not None:
        told["power_mode"] = mode
    return told


def _nvpmodel() -> str | None:
    """The power mode of a Jetson ("MODE_15W"); None on other machines."""
    tool = shutil.which("nvpmodel", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if tool is None:
        return None
    try:
        done = subprocess.run([tool, "-q"], capture_output=True, text=True, timeout=NVPMODEL_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"Power Mode:\s*(\S{1,40})", done.stdout)
    return found.group(1) if found else None


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
