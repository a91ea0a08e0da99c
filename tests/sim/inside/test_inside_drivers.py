"""Both driver packages on the simulated driver: bounds, leaks, kernels."""

import functools
import os
import sys
from collections.abc import Callable

import numpy as np
import pytest
from driver_state import by_pycuda

from hwnas.backends import images
from hwnas.backends.cuda import nvrtc, opening
from hwnas.backends.cuda.by_cuda_python import CudaPythonDriver
from hwnas.backends.cuda.by_pycuda import PyCudaDriver
from hwnas.backends.cuda.driver import CudaDriver, GpuError, GpuOutOfMemory, Owned
from hwnas.backends.cuda.kernels import Kernels, Preprocessor, cubin
from hwnas.errors import BackendUnavailable

MEAN = np.array([0.4914, 0.4822, 0.4465], np.float32)
STD = np.array([0.2470, 0.2435, 0.2616], np.float32)


@pytest.fixture(params=[by_pycuda, CudaPythonDriver], ids=["pycuda", "cuda-python"])
def driver(request: pytest.FixtureRequest) -> CudaDriver:
    return opened(request.param)


@functools.cache
def opened(kind: Callable[[], CudaDriver]) -> CudaDriver:
    """One driver object a process, as `open_driver` keeps it."""
    return kind()


def test_it_describes_its_gpu(driver: CudaDriver) -> None:
    have = driver.properties
    assert have.name == os.environ["FAKECUDA_NAME"]
    assert ".".join(map(str, have.capability)) == os.environ["FAKECUDA_CAPABILITY"]
    assert (have.l2_bytes, have.multiprocessors, have.cuda_version) == (3 << 20, 30, (13, 0))
    assert have.memory_bytes == 1024 << 20


def test_copies_wait_for_the_stream_and_arrive(driver: CudaDriver) -> None:
    source, back = np.arange(1000, dtype=np.float32), np.zeros(1000, np.float32)
    with driver, Owned(driver) as owned:
        address, stream = owned.alloc(source.nbytes), owned.stream()
        driver.upload(address, source, stream)
        driver.download(back, address, stream)
        assert not back.any()  # nothing has waited yet
        driver.synchronize(stream)
        assert np.array_equal(back, source)
        driver.fill(address, 0, source.nbytes, stream)
        driver.download(back, address, stream)
        driver.synchronize(stream)
        assert not back.any()


def test_events_take_the_time_of_the_stream(driver: CudaDriver) -> None:
    with driver, Owned(driver) as owned:
        stream, start, end = owned.stream(), owned.event(), owned.event()
        kernels = Kernels(owned)
        driver.record(start, stream)
        kernels.delay(3_000_000, stream)
        driver.record(end, stream)
        assert not driver.happened(end)
        driver.synchronize(stream)
        assert driver.happened(end)
        assert driver.elapsed_ms(start, end) >= 3.0


def test_mistakes_are_refused(driver: CudaDriver) -> None:
    with driver, Owned(driver) as owned:
        address, stream = owned.alloc(64), owned.stream()
        with pytest.raises(GpuError, match="copy to the device"):
            driver.upload(address, np.zeros(65, np.uint8), stream)
        with pytest.raises(GpuError, match="copy from the device"):
            driver.download(np.zeros(65, np.uint8), address, stream)
        with pytest.raises(GpuOutOfMemory, match="not enough memory"):
            driver.alloc(1 << 40)
        module = owned.module(cubin(driver.properties))
        with pytest.raises(GpuError, match="nothing"):
            driver.function(module, "nothing")
        delay, too_large = driver.function(module, "delay"), (2048, 1, 1)
        with pytest.raises(GpuError, match="launching"):
            driver.launch(delay, (1, 1, 1), too_large, [np.uint64(1)], stream)
        with pytest.raises(GpuError, match="loading kernels"):
            driver.module(b"not a cubin")


def test_code_for_another_chip_does_not_load(driver: CudaDriver) -> None:
    other = (9, 0)
    compiler = next(c for c in nvrtc.compilers() if other in c.capabilities)
    image = compiler.compile('extern "C" __global__ void nothing() {}', other)
    with driver, pytest.raises(GpuError, match="no kernel image"):
        driver.module(image)


def test_pycuda_counts_the_bytes_of_arguments() -> None:
    driver = opened(by_pycuda)
    with driver, Owned(driver) as owned:
        stream, module = owned.stream(), owned.module(cubin(driver.properties))
        delay = driver.function(module, "delay")
        with pytest.raises(GpuError, match="launching"):
            driver.launch(delay, (1, 1, 1), (1, 1, 1), [np.int32(1)], stream)


def test_an_error_on_the_way_gives_everything_back(driver: CudaDriver) -> None:
    def take_too_much() -> None:
        with driver, Owned(driver) as owned:
            owned.alloc(1 << 20)
            owned.stream()
            owned.event()
            owned.alloc(1 << 40)

    with pytest.raises(GpuOutOfMemory):
        take_too_much()


def test_a_failure_to_free_does_not_hide_the_first_error(
    driver: CudaDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dead(address: int) -> None:
        raise GpuError("freeing memory failed: an illegal memory access was encountered")

    monkeypatch.setattr(driver, "free", dead)
    owned = Owned(driver)
    with driver:
        address = owned.alloc(64)
    with pytest.raises(ValueError, match="the first error"), owned:
        raise ValueError("the first error")
    with driver:
        other = owned.alloc(64)
    with pytest.raises(GpuError, match="freeing memory failed"):
        owned.close()
    monkeypatch.undo()
    with driver:
        driver.free(address)
        driver.free(other)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("swap", [False, True])
def test_preprocessing_on_the_device_is_bit_equal_to_the_host(
    driver: CudaDriver, half: bool, swap: bool
) -> None:
    shape, size = (3, 20, 13, 3), (8, 16)
    pictures = np.random.default_rng(2).integers(0, 256, shape, dtype=np.uint8)
    out = np.zeros((3, 3, *size), np.float16 if half else np.float32)
    with driver, Owned(driver) as owned:
        prepare = Preprocessor(owned, Kernels(owned), shape, size, MEAN, STD, swap_channels=swap, half=half)
        address, stream = owned.alloc(out.nbytes), owned.stream()
        prepare(pictures, address, stream)
        driver.download(out, address, stream)
        driver.synchronize(stream)
    expected = images.prepare(pictures, size, MEAN, STD, swap_channels=swap)
    assert np.array_equal(out, expected.astype(out.dtype))


def test_largest_difference_on_the_device(driver: CudaDriver) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 9000), dtype=np.float32)
    with driver, Owned(driver) as owned:
        kernels, stream = Kernels(owned), owned.stream()
        at = [owned.alloc(a.nbytes), owned.alloc(b.nbytes)]
        driver.upload(at[0], a, stream)
        driver.upload(at[1], b, stream)
        assert kernels.max_abs_diff(at[0], at[1], a.size, stream) == np.abs(a - b).max()
        b[4321] = np.nan
        driver.upload(at[1], b, stream)
        assert np.isnan(kernels.max_abs_diff(at[0], at[1], a.size, stream))


@pytest.mark.parametrize(
    ("missing", "serves"),
    [("pycuda", CudaPythonDriver), ("cuda.bindings.driver", PyCudaDriver)],
)
def test_b5_either_package_serves_where_the_other_is_missing(
    monkeypatch: pytest.MonkeyPatch, missing: str, serves: type
) -> None:
    """The first is what `pip install 'hwnas[trt]'` gives: wheels only, no toolkit, no PyCUDA."""
    package, _, module = missing.rpartition(".")
    if package:  # what was imported before is an attribute of its package, too
        monkeypatch.delattr(f"{package}.{module}", raising=False)
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.setattr(opening, "_open", {})
    monkeypatch.setattr(opening, "PyCudaDriver", lambda _: by_pycuda())
    assert type(opening.open_driver()) is serves


def test_b5_bindings_newer_than_the_driver_are_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bindings of CUDA 13 on a driver of CUDA 12 (535), which lacks their call for event times and others."""
    monkeypatch.setenv("FAKECUDA_DRIVER", "12020")
    with pytest.raises(BackendUnavailable, match=r"driver serves up to 12\.2.*'cuda-bindings<13'"):
        CudaPythonDriver()
    monkeypatch.setattr(opening, "_open", {})
    monkeypatch.setattr(opening, "PyCudaDriver", lambda _: by_pycuda())
    assert type(opening.open_driver()) is PyCudaDriver
