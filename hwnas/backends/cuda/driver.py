"""The CUDA driver behind a small door: memory, streams, events, modules, launches.

Two packages serve it: cuda-python (`by_cuda_python`) and, where that is missing, PyCUDA
(`by_pycuda`). Every handle is an integer, so that callers know neither package, and everything
taken from a driver goes through `Owned`, which gives it back on every path out.

The context is the device's primary one, which TensorRT and torch share. A driver is a context
manager: inside its ``with`` block the context is current, outside it is not.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Union

import numpy as np
from numpy.typing import NDArray

from hwnas.errors import BuildError, HwnasError

Grid = tuple[int, int, int]
# Scalars of a kernel launch, each with its exact width; addresses travel as uint64.
Argument = Union[np.uint64, np.int32, np.float32]  # noqa: UP007  # a target of ssh may have Python 3.9


class GpuError(HwnasError):
    """A CUDA call failed; carries the driver's own words."""


class GpuOutOfMemory(GpuError, BuildError):
    """The device has no room. A network that needs more is one that cannot be built here."""


@dataclass(frozen=True)
class GpuProperties:
    """One GPU as its driver describes it.

    Attributes:
        name: as NVIDIA names it.
        capability: compute capability, major and minor.
        memory_bytes: device memory in all.
        l2_bytes: size of the second-level cache.
        multiprocessors: number of streaming multiprocessors.
        cuda_version: newest CUDA that the driver serves: (13, 0) for 13.0.
        bus_id: where it sits on the PCI bus, by which NVML finds the same GPU.
    """

    name: str
    capability: tuple[int, int]
    memory_bytes: int
    l2_bytes: int
    multiprocessors: int
    cuda_version: tuple[int, int]
    bus_id: str


class CudaDriver(Protocol):
    """What hwnas needs of CUDA. Copies and launches are queued on a stream and return at once.

    Every method but `__enter__` needs the context to be current. Failures raise GpuError, with
    GpuOutOfMemory for allocations.
    """

    name: str
    properties: GpuProperties
    graphs: bool  # whether `capture` is offered

    def __enter__(self) -> CudaDriver:
        """Make the primary context current; nests."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Restore what was current before."""
        ...

    def alloc(self, size_bytes: int) -> int:
        """Address of new device memory."""
        ...

    def free(self, address: int) -> None:
        """Give memory back; waits for work that is queued."""
        ...

    def upload(self, address: int, array: NDArray[Any], stream: int) -> None:
        """Copy a contiguous array to the device; it must stay as it is until the stream is done."""
        ...

    def download(self, array: NDArray[Any], address: int, stream: int) -> None:
        """Copy from the device into a contiguous array, which is filled once the stream is done."""
        ...

    def fill(self, address: int, byte: int, size_bytes: int, stream: int) -> None:
        """Set device memory to one byte value."""
        ...

    def stream(self) -> int:
        """A new stream; its number is the CUstream that other libraries take."""
        ...

    def free_stream(self, stream: int) -> None:
        """Destroy a stream."""
        ...

    def synchronize(self, stream: int) -> None:
        """Wait until all queued work of a stream is done; raises if any of it failed."""
        ...

    def event(self) -> int:
        """A new event that takes the time."""
        ...

    def free_event(self, event: int) -> None:
        """Destroy an event."""
        ...

    def record(self, event: int, stream: int) -> None:
        """Queue an event: it happens when the work before it is done."""
        ...

    def happened(self, event: int) -> bool:
        """Whether a recorded event has happened yet."""
        ...

    def elapsed_ms(self, start: int, end: int) -> float:
        """Device time between two events that have happened, in milliseconds."""
        ...

    def module(self, image: bytes) -> int:
        """Load compiled kernels (a cubin)."""
        ...

    def unload(self, module: int) -> None:
        """Unload a module."""
        ...

    def function(self, module: int, name: str) -> int:
        """A kernel of a module by name."""
        ...

    def launch(
        self, function: int, grid: Grid, block: Grid, arguments: Sequence[Argument], stream: int
    ) -> None:
        """Queue a kernel. `arguments` are copied before the call returns."""
        ...

    def capture(self, work: Callable[[], None], stream: int) -> int:
        """A graph of what `work` queues on a stream, which is noted and not run; replayed by `replay`."""
        ...

    def replay(self, graph: int, stream: int) -> None:
        """Queue a graph: one launch, however many kernels it holds."""
        ...

    def free_graph(self, graph: int) -> None:
        """Destroy a graph."""
        ...


class Owned:
    """What one owner has taken from a driver; `close` gives all of it back, last taken first."""

    def __init__(self, driver: CudaDriver) -> None:
        self.driver = driver
        self._stack = ExitStack()

    def alloc(self, size_bytes: int) -> int:
        """Device memory that lives as long as the owner."""
        address = self.driver.alloc(size_bytes)
        self._stack.callback(self.driver.free, address)
        return address

    def stream(self) -> int:
        """A stream that lives as long as the owner."""
        stream = self.driver.stream()
        self._stack.callback(self.driver.free_stream, stream)
        return stream

    def event(self) -> int:
        """An event that lives as long as the owner."""
        event = self.driver.event()
        self._stack.callback(self.driver.free_event, event)
        return event

    def graph(self, work: Callable[[], None], stream: int) -> int:
        """A graph that lives as long as the owner."""
        graph = self.driver.capture(work, stream)
        self._stack.callback(self.driver.free_graph, graph)
        return graph

    def module(self, image: bytes) -> int:
        """A module that lives as long as the owner."""
        module = self.driver.module(image)
        self._stack.callback(self.driver.unload, module)
        return module

    def close(self) -> None:
        """Free everything; a second call does nothing.

        While another error is on its way, a failure to free is not raised: after a fault on the GPU
        every call fails, and the first one says why.
        """
        on_its_way = sys.exc_info()[1]
        try:
            with self.driver:
                self._stack.close()
        except GpuError:
            if on_its_way is None:
                raise

    def __enter__(self) -> Owned:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
