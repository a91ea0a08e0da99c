"""`CudaDriver` by NVIDIA's own cuda-python (package ``cuda.bindings``)."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwnas.backends.cuda.driver import Argument, GpuError, GpuOutOfMemory, GpuProperties, Grid
from hwnas.errors import BackendUnavailable


class CudaPythonDriver:
    """The primary context of one GPU, through cuda-python."""

    name = "cuda-python"
    graphs = True

    def __init__(self, index: int = 0) -> None:
        """Open GPU `index`; BackendUnavailable says what is missing."""
        try:
            from cuda.bindings import driver as cuda
        except ImportError as exc:
            raise BackendUnavailable(f"cuda-python cannot be loaded: {exc}") from exc
        self._cuda = cuda
        try:
            self._call("starting CUDA", cuda.cuInit(0))
            device = self._call("opening the GPU", cuda.cuDeviceGet(index))
            self._context = self._call("opening its context", cuda.cuDevicePrimaryCtxRetain(device))
            self.properties = self._describe(device)
        # RuntimeError is what the package raises where libcuda.so.1 cannot be found.
        except (GpuError, RuntimeError) as exc:
            raise BackendUnavailable(f"CUDA cannot open GPU {index}: {exc}") from exc

    def _call(self, doing: str, answer: tuple[Any, ...]) -> Any:
        """The result of a call ``(status, result)``; GpuError with the driver's words if it failed."""
        status = answer[0]
        if status == self._cuda.CUresult.CUDA_SUCCESS:
            return answer[1] if len(answer) > 1 else None
        _, words = self._cuda.cuGetErrorString(status)
        text = words.decode() if isinstance(words, bytes) else str(words)
        if status == self._cuda.CUresult.CUDA_ERROR_OUT_OF_MEMORY:
            raise GpuOutOfMemory(f"the GPU has not enough memory for {doing}: {text}")
        raise GpuError(f"{doing} failed: {status.name}: {text}")

    def _describe(self, device: Any) -> GpuProperties:
        cuda, attribute = self._cuda, self._cuda.CUdevice_attribute

        def number(name: str) -> int:
            key = getattr(attribute, f"CU_DEVICE_ATTRIBUTE_{name}")
            return int(self._call("reading an attribute", cuda.cuDeviceGetAttribute(key, device)))

        name = self._call("reading its name", cuda.cuDeviceGetName(256, device))
        bus = self._call("reading its PCI address", cuda.cuDeviceGetPCIBusId(32, device))
        version = self._call("reading the driver's version", cuda.cuDriverGetVersion())
        if version // 1000 < cuda.CUDA_VERSION // 1000:
            # It would serve some calls, and fail in the midst of timing for want of others.
            raise GpuError(
                f"the installed cuda-bindings are of CUDA {_dotted(cuda.CUDA_VERSION)}, the driver serves up "
                f"to {_dotted(version)}; update the driver, or pip install 'cuda-bindings<"
                f"{version // 1000 + 1}'"
            )
        return GpuProperties(
            name=name.split(b"\0")[0].decode(),
            capability=(number("COMPUTE_CAPABILITY_MAJOR"), number("COMPUTE_CAPABILITY_MINOR")),
            memory_bytes=int(self._call("reading its memory", cuda.cuDeviceTotalMem(device))),
            l2_bytes=number("L2_CACHE_SIZE"),
            multiprocessors=number("MULTIPROCESSOR_COUNT"),
            cuda_version=_release(version),
            bus_id=bus.split(b"\0")[0].decode(),
        )

    def __enter__(self) -> CudaPythonDriver:
        self._call("entering the context", self._cuda.cuCtxPushCurrent(self._context))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._call("leaving the context", self._cuda.cuCtxPopCurrent())

    def alloc(self, size_bytes: int) -> int:
        """Address of new device memory."""
        doing = f"an allocation of {size_bytes} bytes"
        return int(self._call(doing, self._cuda.cuMemAlloc(size_bytes)))

    def free(self, address: int) -> None:
        """Give memory back."""
        self._call("freeing memory", self._cuda.cuMemFree(address))

    def upload(self, address: int, array: NDArray[Any], stream: int) -> None:
        """Queue a copy to the device."""
        copied = self._cuda.cuMemcpyHtoDAsync(address, _data(array), array.nbytes, stream)
        self._call("a copy to the device", copied)

    def download(self, array: NDArray[Any], address: int, stream: int) -> None:
        """Queue a copy from the device."""
        copied = self._cuda.cuMemcpyDtoHAsync(_data(array), address, array.nbytes, stream)
        self._call("a copy from the device", copied)

    def fill(self, address: int, byte: int, size_bytes: int, stream: int) -> None:
        """Queue setting memory to one byte value."""
        self._call("filling memory", self._cuda.cuMemsetD8Async(address, byte, size_bytes, stream))

    def stream(self) -> int:
        """A new stream."""
        # Torch's legacy stream would otherwise wait for this one, and this one for it.
        flags = self._cuda.CUstream_flags.CU_STREAM_NON_BLOCKING
        return int(self._call("creating a stream", self._cuda.cuStreamCreate(flags)))

    def free_stream(self, stream: int) -> None:
        """Destroy a stream."""
        self._call("destroying a stream", self._cuda.cuStreamDestroy(stream))

    def synchronize(self, stream: int) -> None:
        """Wait for all queued work of a stream."""
        self._call("work on the GPU", self._cuda.cuStreamSynchronize(stream))

    def event(self) -> int:
        """A new event."""
        return int(self._call("creating an event", self._cuda.cuEventCreate(0)))

    def free_event(self, event: int) -> None:
        """Destroy an event."""
        self._call("destroying an event", self._cuda.cuEventDestroy(event))

    def record(self, event: int, stream: int) -> None:
        """Queue an event."""
        self._call("recording an event", self._cuda.cuEventRecord(event, stream))

    def happened(self, event: int) -> bool:
        """Whether an event has happened."""
        answer = self._cuda.cuEventQuery(event)
        if answer[0] == self._cuda.CUresult.CUDA_ERROR_NOT_READY:
            return False
        self._call("work on the GPU", answer)
        return True

    def elapsed_ms(self, start: int, end: int) -> float:
        """Device time between two events."""
        return float(self._call("reading an event", self._cuda.cuEventElapsedTime(start, end)))

    def module(self, image: bytes) -> int:
        """Load a cubin."""
        return int(self._call("loading kernels", self._cuda.cuModuleLoadData(image)))

    def unload(self, module: int) -> None:
        """Unload a module."""
        self._call("unloading kernels", self._cuda.cuModuleUnload(module))

    def function(self, module: int, name: str) -> int:
        """A kernel by name; its handle lives as long as its module."""
        found = self._cuda.cuModuleGetFunction(module, name.encode())
        return int(self._call(f"finding the kernel {name}", found))

    def launch(
        self, function: int, grid: Grid, block: Grid, arguments: Sequence[Argument], stream: int
    ) -> None:
        """Queue a kernel."""
        holders = [np.array(a) for a in arguments]  # keep the values alive until they are copied
        addresses = (ctypes.c_void_p * len(holders))(*[h.ctypes.data for h in holders])
        packed = ctypes.addressof(addresses)
        launched = self._cuda.cuLaunchKernel(function, *grid, *block, 0, stream, packed, 0)
        self._call("launching a kernel", launched)

    def capture(self, work: Callable[[], None], stream: int) -> int:
        """A graph of what `work` queues on a stream."""
        cuda = self._cuda
        mode = cuda.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL  # other threads go on as they are
        self._call("starting a capture", cuda.cuStreamBeginCapture(stream, mode))
        try:
            work()
        except BaseException:
            cuda.cuStreamEndCapture(stream)  # the capture is void; its own error would hide the first one
            raise
        noted = self._call("ending a capture", cuda.cuStreamEndCapture(stream))
        try:
            return int(self._call("making a graph", cuda.cuGraphInstantiate(noted, 0)))
        finally:
            self._call("freeing a capture", cuda.cuGraphDestroy(noted))

    def replay(self, graph: int, stream: int) -> None:
        """Queue a graph."""
        self._call("launching a graph", self._cuda.cuGraphLaunch(graph, stream))

    def free_graph(self, graph: int) -> None:
        """Destroy a graph."""
        self._call("destroying a graph", self._cuda.cuGraphExecDestroy(graph))


def _release(version: int) -> tuple[int, int]:
    return version // 1000, version % 1000 // 10


def _dotted(version: int) -> str:
    return ".".join(map(str, _release(version)))


def _data(array: NDArray[Any]) -> int:
    """Address of a contiguous array's first byte."""
    if not array.flags.c_contiguous:
        raise ValueError("only contiguous arrays can be copied to or from a device")
    return int(array.ctypes.data)
