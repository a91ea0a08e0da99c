"""`CudaDriver` by PyCUDA.

PyCUDA's objects free themselves when nothing refers to them. They are kept here under integer
handles, so that freeing happens when it is asked for and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from numpy.typing import NDArray

from hwnas.backends.cuda.driver import Argument, GpuError, GpuOutOfMemory, GpuProperties, Grid
from hwnas.errors import BackendUnavailable

NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING, for which PyCUDA has no name: waits for no legacy stream (torch's)


class PyCudaDriver:
    """The primary context of one GPU, through PyCUDA."""

    name = "pycuda"
    graphs = False  # PyCUDA has no stream capture

    def __init__(self, index: int = 0) -> None:
        """Open GPU `index`; BackendUnavailable says what is missing."""
        try:
            import pycuda.driver as cuda
        except ImportError as exc:  # also where libcuda.so.1 is missing
            raise BackendUnavailable(f"PyCUDA cannot be loaded: {exc}") from exc
        self._cuda = cuda
        try:
            cuda.init()
            device = cuda.Device(index)
            self._context = device.retain_primary_context()
            self.properties = self._describe(device)
        except cuda.Error as exc:
            raise BackendUnavailable(f"CUDA cannot open GPU {index}: {exc}") from exc
        self._memory: dict[int, Any] = {}
        self._streams: dict[int, Any] = {}
        self._events: dict[int, Any] = {}
        self._modules: dict[int, Any] = {}
        self._functions: dict[int, tuple[int, Any]] = {}

    def _describe(self, device: Any) -> GpuProperties:
        attribute = self._cuda.device_attribute
        version = self._cuda.get_driver_version()
        return GpuProperties(
            name=device.name(),
            capability=tuple(device.compute_capability()),
            memory_bytes=device.total_memory(),
            l2_bytes=device.get_attribute(attribute.L2_CACHE_SIZE),
            multiprocessors=device.get_attribute(attribute.MULTIPROCESSOR_COUNT),
            cuda_version=(version // 1000, version % 1000 // 10),
            bus_id=device.pci_bus_id(),
        )

    def __enter__(self) -> PyCudaDriver:
        with self._errors("entering the context"):
            self._context.push()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._errors("leaving the context"):
            self._cuda.Context.pop()

    @contextmanager
    def _errors(self, doing: str) -> Iterator[None]:
        try:
            yield
        except self._cuda.MemoryError as exc:
            raise GpuOutOfMemory(f"the GPU has not enough memory for {doing}: {exc}") from exc
        except self._cuda.Error as exc:
            raise GpuError(f"{doing} failed: {exc}") from exc

    def alloc(self, size_bytes: int) -> int:
        """Address of new device memory."""
        with self._errors(f"an allocation of {size_bytes} bytes"):
            memory = self._cuda.mem_alloc(size_bytes)
        self._memory[int(memory)] = memory
        return int(memory)

    def free(self, address: int) -> None:
        """Give memory back."""
        with self._errors("freeing memory"):
            self._memory.pop(address).free()

    def upload(self, address: int, array: NDArray[Any], stream: int) -> None:
        """Queue a copy to the device."""
        with self._errors("a copy to the device"):
            self._cuda.memcpy_htod_async(address, array, self._streams[stream])

    def download(self, array: NDArray[Any], address: int, stream: int) -> None:
        """Queue a copy from the device."""
        with self._errors("a copy from the device"):
            self._cuda.memcpy_dtoh_async(array, address, self._streams[stream])

    def fill(self, address: int, byte: int, size_bytes: int, stream: int) -> None:
        """Queue setting memory to one byte value."""
        with self._errors("filling memory"):
            self._cuda.memset_d8_async(address, byte, size_bytes, self._streams[stream])

    def stream(self) -> int:
        """A new stream."""
        with self._errors("creating a stream"):
            stream = self._cuda.Stream(NON_BLOCKING)
        self._streams[stream.handle] = stream
        return int(stream.handle)

    def free_stream(self, stream: int) -> None:
        """Destroy a stream."""
        del self._streams[stream]

    def synchronize(self, stream: int) -> None:
        """Wait for all queued work of a stream."""
        with self._errors("work on the GPU"):
            self._streams[stream].synchronize()

    def event(self) -> int:
        """A new event."""
        with self._errors("creating an event"):
            event = self._cuda.Event()
        self._events[id(event)] = event
        return id(event)

    def free_event(self, event: int) -> None:
        """Destroy an event."""
        del self._events[event]

    def record(self, event: int, stream: int) -> None:
        """Queue an event."""
        with self._errors("recording an event"):
            self._events[event].record(self._streams[stream])

    def happened(self, event: int) -> bool:
        """Whether an event has happened."""
        with self._errors("work on the GPU"):
            return bool(self._events[event].query())

    def elapsed_ms(self, start: int, end: int) -> float:
        """Device time between two events."""
        with self._errors("reading an event"):
            return float(self._events[start].time_till(self._events[end]))

    def module(self, image: bytes) -> int:
        """Load a cubin."""
        with self._errors("loading kernels"):
            module = self._cuda.module_from_buffer(image)
        self._modules[id(module)] = module
        return id(module)

    def unload(self, module: int) -> None:
        """Unload a module; its functions go with it, since PyCUDA's keep their module alive."""
        self._functions = {f: (m, found) for f, (m, found) in self._functions.items() if m != module}
        del self._modules[module]

    def function(self, module: int, name: str) -> int:
        """A kernel by name; its handle lives as long as its module."""
        with self._errors(f"finding the kernel {name}"):
            function = self._modules[module].get_function(name)
        self._functions[id(function)] = module, function
        return id(function)

    def launch(
        self, function: int, grid: Grid, block: Grid, arguments: Sequence[Argument], stream: int
    ) -> None:
        """Queue a kernel."""
        with self._errors("launching a kernel"):
            self._functions[function][1](
                *arguments,
                grid=grid,
                block=block,
                stream=self._streams[stream],
            )

    def capture(self, work: Callable[[], None], stream: int) -> int:
        """Not offered."""
        raise GpuError("PyCUDA has no CUDA graphs: pip install cuda-python")

    def replay(self, graph: int, stream: int) -> None:
        """Not offered."""
        raise GpuError("PyCUDA has no CUDA graphs: pip install cuda-python")

    def free_graph(self, graph: int) -> None:
        """Nothing to free."""
