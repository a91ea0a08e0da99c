"""The kernels of ``kernels/kernels.cu``, compiled for the GPU that is there and cached as cubins."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwnas.arrays import Float32s, Uint8s
from hwnas.backends import images as host
from hwnas.backends.cuda import nvrtc
from hwnas.backends.cuda.driver import Argument, CudaDriver, GpuProperties, Grid, Owned
from hwnas.store import data_dir, home, write_bytes

NAMES = ("preprocess_f32", "preprocess_f16", "l2_flush", "delay", "max_abs_diff_f32", "max_abs_diff_f16")
THREADS = 256  # a block; max_abs_diff's shared memory is made for this number
BLOCKS_PER_MULTIPROCESSOR = 8


def cubin(properties: GpuProperties) -> bytes:
    """The kernels compiled for a GPU: from the cache, else compiled now.

    Raises:
        BackendUnavailable: nothing here compiles for this GPU and driver.
    """
    source = (data_dir("kernels") / "kernels.cu").read_text(encoding="utf-8")
    compiler = nvrtc.choose(properties.capability, properties.cuda_version)
    target = compiler.target(properties.capability)
    assert target is not None  # `choose` gives only compilers that have one
    digest = hashlib.sha256(f"{compiler.name}\n{source}".encode()).hexdigest()[:16]
    path: Path = home() / "kernels" / f"sm_{target[0]}{target[1]}-{digest}.cubin"
    if path.is_file():
        return path.read_bytes()
    image = compiler.compile(source, target)
    write_bytes(path, image)
    return image


class Kernels:
    """The loaded kernels of one owner. All calls need the driver's context to be current."""

    def __init__(self, owned: Owned) -> None:
        """Compile or fetch, and load."""
        self._driver: CudaDriver = owned.driver
        module = owned.module(cubin(self._driver.properties))
        self._functions = {name: self._driver.function(module, name) for name in NAMES}
        self._partial = np.zeros(self._driver.properties.multiprocessors, np.float32)
        self._partial_at = owned.alloc(self._partial.nbytes)

    def _launch(self, name: str, items: int, arguments: list[Argument], stream: int) -> None:
        """Launch over `items` with a grid that fills the GPU; the kernels stride over the rest."""
        most = self._driver.properties.multiprocessors * BLOCKS_PER_MULTIPROCESSOR
        grid: Grid = (max(1, min(most, -(-items // THREADS))), 1, 1)
        self._driver.launch(self._functions[name], grid, (THREADS, 1, 1), arguments, stream)

    def delay(self, delay_ns: int, stream: int) -> None:
        """Keep a stream busy for about `delay_ns` nanoseconds."""
        self._driver.launch(self._functions["delay"], (1, 1, 1), (1, 1, 1), [np.uint64(delay_ns)], stream)

    def flush_l2(self, address: int, size_bytes: int, stream: int) -> None:
        """Replace the contents of the L2 cache by those of a buffer (larger than the cache)."""
        words = size_bytes // 4
        self._launch("l2_flush", words, [np.uint64(address), np.uint64(words)], stream)

    def max_abs_diff(self, a: int, b: int, count: int, stream: int, *, half: bool = False) -> float:
        """Largest absolute difference of two buffers of float32, or of float16; NaN if any difference is.

        Waits for the stream.
        """
        blocks = max(1, min(len(self._partial), -(-count // THREADS)))
        arguments = [np.uint64(a), np.uint64(b), np.uint64(count), np.uint64(self._partial_at)]
        function = self._functions["max_abs_diff_f16" if half else "max_abs_diff_f32"]
        self._driver.launch(function, (blocks, 1, 1), (THREADS, 1, 1), arguments, stream)
        self._driver.download(self._partial, self._partial_at, stream)
        self._driver.synchronize(stream)
        return float(self._partial[:blocks].max())  # numpy's max keeps a NaN


class Preprocessor:
    """Fused pre-processing on the device, with the buffers for one shape of images.

    The same results as `images.prepare`, bit for bit (half precision: rounded once more).
    """

    def __init__(
        self,
        owned: Owned,
        kernels: Kernels,
        shape: tuple[int, ...],
        size: tuple[int, int],
        mean: Float32s,
        std: Float32s,
        *,
        swap_channels: bool = False,
        half: bool = False,
    ) -> None:
        """Upload the filters and reserve room for images of `shape` (n, H, W, C), uint8."""
        host.check(np.empty(shape, np.uint8), mean, std)
        self._driver, self._kernels = owned.driver, kernels
        self._name = "preprocess_f16" if half else "preprocess_f32"
        self.shape, self.size = shape, size
        self._images = owned.alloc(int(np.prod(shape)))
        rows, columns = host.taps(shape[1], size[0]), host.taps(shape[2], size[1])
        tables: list[NDArray[Any]] = [rows.first, rows.weight, columns.first, columns.weight]
        tables += [np.ascontiguousarray(mean, np.float32), np.ascontiguousarray(std, np.float32)]
        addresses = [np.uint64(_resident(owned, table)) for table in tables]
        self._filters: list[Argument] = [
            *addresses[:2],
            np.int32(rows.weight.shape[1]),
            *addresses[2:4],
            np.int32(columns.weight.shape[1]),
            *addresses[4:],
            np.int32(swap_channels),
        ]

    def __call__(self, images: Uint8s, out: int, stream: int) -> None:
        """Queue: upload `images` and write (n, C, height, width) floats at address `out`."""
        n, height, width, channels = self.shape
        if images.shape != self.shape or images.dtype != np.uint8:
            raise ValueError(
                f"images are {images.dtype} {images.shape}; this preprocessor takes {self.shape}"
            )
        self._driver.upload(self._images, images, stream)
        sizes = [np.int32(v) for v in (n, height, width * channels, channels, *self.size)]
        arguments = [np.uint64(self._images), np.uint64(out), *sizes, *self._filters]
        self._kernels._launch(self._name, n * self.size[0] * self.size[1], arguments, stream)


def _resident(owned: Owned, array: NDArray[Any]) -> int:
    """A copy of `array` on the device; returns when it is there."""
    address = owned.alloc(array.nbytes)
    with Owned(owned.driver) as passing:
        stream = passing.stream()
        owned.driver.upload(address, array, stream)
        owned.driver.synchronize(stream)
    return address
