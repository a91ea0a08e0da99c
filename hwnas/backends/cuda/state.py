"""What a GPU is doing: clocks, temperature, why it is slow, who else is on it; through NVML."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from importlib.util import find_spec
from statistics import median
from typing import Any

from hwnas.lazy import lazy_import

nvml = lazy_import("pynvml")


@dataclass(frozen=True)
class GpuState:
    """What a GPU is doing at one moment, as NVML tells it.

    Attributes:
        sm_mhz, memory_mhz: running clocks.
        temperature_c: of the chip.
        power_limit_w: what it may draw.
        reasons: why the clocks are held down, in NVML's words; idleness is not among them.
        others: other processes that compute on it.

    What a GPU does not tell is None: integrated ones, virtual machines, containers and slices (MIG) keep
    some of it back.
    """

    sm_mhz: int | None
    memory_mhz: int | None
    temperature_c: int | None
    power_limit_w: float | None
    reasons: tuple[str, ...] | None
    others: int | None


# Of the median of the last clocks seen. A warm card boosts less, by a step every few degrees, and more than
# 10 % below a cold one in the end: that is its state, not a disturbance.
SLOW_CLOCK, SEEN = 0.95, 15
# A clock that somebody fixed is a condition, not a fault; everything else slows a GPU down unasked.
BENIGN = frozenset({"GpuIdle", "ApplicationsClocksSetting", "UserDefinedClocks", "None", "All"})


class Watcher:
    """Reads the state of one GPU, never while something is timed (reading disturbs)."""

    def __init__(self, bus_id: str) -> None:
        """Find the GPU by its PCI bus: CUDA and NVML count devices differently."""
        self._nvml = nvml
        nvml.nvmlInit()
        self._handle = nvml.nvmlDeviceGetHandleByPciBusId(bus_id.encode())

    def state(self) -> GpuState:
        """The state now."""
        return read_state(self._nvml, self._handle)

    def free_bytes(self) -> int:
        """Free device memory."""
        return int(self._nvml.nvmlDeviceGetMemoryInfo(self._handle).free)

    def close(self) -> None:
        """Let NVML go."""
        self._nvml.nvmlShutdown()


def read_state(nvml: Any, handle: Any) -> GpuState:
    """The state of a GPU by its NVML handle.

    Other processes are counted, not compared by number: in a container NVML shows the host's
    numbers. One is taken to be this process, which holds a context while it times.
    """

    def told(ask: Callable[..., Any], *about: Any) -> Any:
        try:
            return ask(handle, *about)
        except nvml.NVMLError:  # not supported, or not permitted (a container, a MIG slice)
            return None

    limit_mw = told(nvml.nvmlDeviceGetPowerManagementLimit)
    mask = told(nvml.nvmlDeviceGetCurrentClocksThrottleReasons)
    processes = told(nvml.nvmlDeviceGetComputeRunningProcesses)
    return GpuState(
        sm_mhz=told(nvml.nvmlDeviceGetClockInfo, nvml.NVML_CLOCK_SM),
        memory_mhz=told(nvml.nvmlDeviceGetClockInfo, nvml.NVML_CLOCK_MEM),
        temperature_c=told(nvml.nvmlDeviceGetTemperature, nvml.NVML_TEMPERATURE_GPU),
        power_limit_w=None if limit_mw is None else limit_mw / 1e3,
        reasons=None if mask is None else reasons(nvml, mask),
        others=None if processes is None else max(0, len(processes) - 1),
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
    """A watcher of one GPU; None where NVML is not available."""
    if find_spec("pynvml") is None:
        return None
    try:
        return Watcher(bus_id)
    except nvml.NVMLError:
        return None


class Judge:
    """Judges the state of one GPU against the clocks that this process saw on it last."""

    def __init__(self, source: Watcher) -> None:
        self._source = source
        self._seen_mhz: deque[int] = deque(maxlen=SEEN)

    def gates(self) -> tuple[str, ...]:
        """Names of what is wrong now."""
        state: GpuState = self._source.state()
        fired = [f"throttle:{reason}" for reason in state.reasons or ()]
        if state.sm_mhz is not None:
            if self._seen_mhz and state.sm_mhz < SLOW_CLOCK * median(self._seen_mhz):
                fired.append("clock")
            self._seen_mhz.append(state.sm_mhz)
        if state.others:
            fired.append("gpu-shared")
        return tuple(fired)


@cache
def gpu_judge(bus_id: str) -> Judge | None:
    """The judge of one GPU, kept for the process; None where NVML is not available."""
    found = watcher(bus_id)
    return None if found is None else Judge(found)


def conditions(device_arch: str) -> dict[str, Any]:
    """Clocks, temperature and throttle reasons of the GPU that a setting names, for a table's header.

    Empty where `device_arch` is no NVIDIA GPU of this machine, or NVML is not available.
    """
    if find_spec("pynvml") is None:
        return {}
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return {}
    try:
        for index in range(nvml.nvmlDeviceGetCount()):
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            name = nvml.nvmlDeviceGetName(handle)
            text = name.decode() if isinstance(name, bytes) else name
            if device_arch.startswith((f"{text}, compute", f"{text} MIG ")):  # CUDA names the slice too
                return {"gpu": asdict(read_state(nvml, handle))}
        return {}
    except nvml.NVMLError:
        return {}
    finally:
        nvml.nvmlShutdown()
