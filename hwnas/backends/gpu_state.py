"""What a GPU is doing: clocks, temperature, why it is slow, who else is on it; through NVML."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any


@dataclass(frozen=True)
class GpuState:
    """What a GPU is doing at one moment, as NVML tells it.

    Attributes:
        sm_mhz, memory_mhz: running clocks.
        temperature_c: of the chip.
        power_limit_w: what it may draw; None where it does not say.
        reasons: why the clocks are held down, in NVML's words; idleness is not among them.
        others: other processes that compute on it.
    """

    sm_mhz: int
    memory_mhz: int
    temperature_c: int
    power_limit_w: float | None
    reasons: tuple[str, ...]
    others: int


# A clock that somebody fixed is a condition, not a fault; everything else slows a GPU down unasked.
BENIGN = frozenset({"GpuIdle", "ApplicationsClocksSetting", "UserDefinedClocks", "None", "All"})


class Watcher:
    """Reads the state of one GPU between timings, never during (reading disturbs)."""

    def __init__(self, bus_id: str) -> None:
        """Find the GPU by its PCI bus: CUDA and NVML count devices differently."""
        import pynvml as nvml

        self._nvml = nvml
        nvml.nvmlInit()
        self._handle = nvml.nvmlDeviceGetHandleByPciBusId(bus_id.encode())

    def state(self) -> GpuState:
        """The state now."""
        nvml, handle = self._nvml, self._handle
        mask = nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)
        try:
            limit_w = nvml.nvmlDeviceGetPowerManagementLimit(handle) / 1e3
        except nvml.NVMLError:  # integrated GPUs have none
            limit_w = None
        return GpuState(
            sm_mhz=nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM),
            memory_mhz=nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM),
            temperature_c=nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU),
            power_limit_w=limit_w,
            reasons=reasons(nvml, mask),
            others=self._others(),
        )

    def _others(self) -> int:
        running = self._nvml.nvmlDeviceGetComputeRunningProcesses(self._handle)
        return sum(process.pid != os.getpid() for process in running)

    def close(self) -> None:
        """Let NVML go."""
        self._nvml.nvmlShutdown()


def reasons(nvml: Any, mask: int) -> tuple[str, ...]:
    """Names of the throttle reasons in a mask, without the benign ones."""
    prefix = "nvmlClocksThrottleReason"
    found = {
        name.removeprefix(prefix)
        for name in dir(nvml)
        if name.startswith(prefix) and (bit := getattr(nvml, name)) and mask & bit == bit
    }
    return tuple(sorted(found - BENIGN))


@cache
def watcher(bus_id: str) -> Watcher | None:
    """A watcher of one GPU; None where NVML is not to be had."""
    if find_spec("pynvml") is None:
        return None
    import pynvml as nvml

    try:
        return Watcher(bus_id)
    except nvml.NVMLError:
        return None
