"""What a GPU is doing: clocks, temperature, why it is slow, who else is on it; through NVML."""

from __future__ import annotations

from dataclasses import asdict, dataclass
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


SLOW_CLOCK = 0.97  # of the fastest clock seen
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
        return read_state(self._nvml, self._handle)

    def close(self) -> None:
        """Let NVML go."""
        self._nvml.nvmlShutdown()


def read_state(nvml: Any, handle: Any) -> GpuState:
    """The state of a GPU by its NVML handle.

    Other processes are counted, not compared by number: in a container NVML shows the host's
    numbers. One is taken to be this process, which holds a context while it times.
    """
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
        others=max(0, len(nvml.nvmlDeviceGetComputeRunningProcesses(handle)) - 1),
    )


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


class Judge:
    """Judges the state of one GPU against the fastest clock that this process saw on it."""

    def __init__(self, source: Watcher) -> None:
        self._source = source
        self._fastest_mhz = 0

    def gates(self) -> tuple[str, ...]:
        """Names of what is wrong now."""
        state: GpuState = self._source.state()
        self._fastest_mhz = max(self._fastest_mhz, state.sm_mhz)
        fired = [f"throttle:{reason}" for reason in state.reasons]
        if state.sm_mhz < SLOW_CLOCK * self._fastest_mhz:
            fired.append("clock")
        if state.others:
            fired.append("gpu-shared")
        return tuple(fired)


@cache
def gpu_judge(bus_id: str) -> Judge | None:
    """The judge of one GPU, kept for the process; None where NVML is not to be had."""
    found = watcher(bus_id)
    return None if found is None else Judge(found)


def conditions(device_arch: str) -> dict[str, Any]:
    """Clocks, temperature and throttle reasons of the GPU that a setting names, for a table's header.

    Empty where `device_arch` is no NVIDIA GPU of this machine, or NVML is not to be had.
    """
    if find_spec("pynvml") is None:
        return {}
    import pynvml as nvml

    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return {}
    try:
        for index in range(nvml.nvmlDeviceGetCount()):
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            name = nvml.nvmlDeviceGetName(handle)
            if (name.decode() if isinstance(name, bytes) else name) in device_arch:
                return {"gpu": asdict(read_state(nvml, handle))}
        return {}
    finally:
        nvml.nvmlShutdown()
