"""Engines on a real GPU: right scores, files that load again, memory that comes back."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwnas.backends import images as host
from hwnas.backends.cuda.driver import GpuOutOfMemory, Owned
from hwnas.backends.cuda.kernels import Kernels, Preprocessor
from hwnas.backends.cuda.opening import open_driver
from hwnas.backends.trt.backend import Trt
from hwnas.backends.trt.build import cache_path
from hwnas.errors import InputError
from hwnas.nets import onnx as writer
from hwnas.nets import spaces

# Largest difference from ONNX Runtime on the CPU in float32, as a share of the largest score.
TOLERANCE = {"fp32": 1e-3, "fp16": 2e-2, "bf16": 1e-1, "int8": 2e-1}


def network(space: str, batch: int | None = 1) -> bytes:
    spec = spaces.make(space).uniform()[1]
    return writer.network(spec, batch=batch)


def pictures(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 3, 32, 32), dtype=np.float32)


def on_cpu(model: bytes, images: np.ndarray) -> np.ndarray:
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    scores: np.ndarray = session.run(None, {"input": images})[0]
    return scores


@pytest.mark.parametrize("precision", list(TOLERANCE))
@pytest.mark.parametrize("space", ["resnet-cifar", "mbv2-cifar"])
def test_parity_with_onnx_runtime(
    backend: Any, note: Callable[..., None], space: str, precision: str
) -> None:
    try:
        setting = backend.setting("gpu", precision, 8, 1)
    except InputError as refusal:
        pytest.skip(str(refusal))
    model, images = network(space, 8), pictures(8)
    engine = backend.build(model, setting)
    scores, reference = engine.run(images), on_cpu(model, images)
    engine.close()
    error = float(np.abs(scores - reference).max() / np.abs(reference).max())
    note(relative_error=error)
    assert error <= TOLERANCE[precision]


def test_an_open_batch(backend: Any) -> None:
    model = network("resnet-cifar", None)
    engine = backend.build(model, backend.setting("gpu", "fp32", 16, 1))
    for count in (1, 7, 16):
        reference = on_cpu(model, pictures(count))
        assert np.abs(engine.run(pictures(count)) - reference).max() <= 1e-3 * np.abs(reference).max()
    engine.close()


def test_an_engine_loads_again_and_scores_alike(backend: Any, tmp_path: Path) -> None:
    setting = backend.setting("gpu", "fp32", 4, 1)
    engine = backend.build(network("resnet-cifar", 4), setting)
    scores = engine.run(pictures(4))
    engine.save(tmp_path / "net.engine")
    engine.close()
    again = Trt().load(tmp_path / "net.engine", setting)
    assert np.array_equal(again.run(pictures(4)), scores)
    again.close()


def test_the_timing_cache_makes_the_second_build_faster(backend: Any, note: Callable[..., None]) -> None:
    setting, model = backend.setting("gpu", "fp32", 1, 1), network("mbv2-cifar")
    path = cache_path(setting)
    kept = path.read_bytes() if path.is_file() else None
    path.unlink(missing_ok=True)
    seconds = []
    for _ in range(2):
        begun = time.perf_counter()
        Trt().build(model, setting).close()
        seconds.append(time.perf_counter() - begun)
    if kept is not None:
        path.write_bytes(kept)
    note(first_s=seconds[0], second_s=seconds[1])
    assert seconds[1] < seconds[0]


def test_layers_have_names_and_kinds(backend: Any, note: Callable[..., None]) -> None:
    engine = backend.build(network("resnet-cifar"), backend.setting("gpu", "fp32", 1, 1))
    layers = engine.layers()
    engine.close()
    note(layers=len(layers), first=vars(layers[0]))
    assert all(layer.name and layer.kind for layer in layers)


def test_layer_times_add_up(backend: Any, note: Callable[..., None]) -> None:
    """Only hardware can show it: in the simulator every layer takes the same time, on the host's clock."""
    engine = backend.build(network("resnet-cifar"), backend.setting("gpu", "fp32", 1, 1))
    ms, whole = engine.layer_ms(), float(np.median(engine.time(50).wall_ms))
    engine.close()
    note(layer_sum_ms=sum(ms.values()), engine_ms=whole)
    assert 0.8 * whole < sum(ms.values()) < 3 * whole


def test_device_memory_comes_back(backend: Any, note: Callable[..., None]) -> None:
    setting, model = backend.setting("gpu", "fp32", 1, 1), network("resnet-cifar")
    backend.build(model, setting).close()  # whatever is kept for good is taken now
    before = free_bytes()
    for _ in range(20):
        backend.build(model, setting).close()
    note(lost_bytes=before - free_bytes())
    assert before - free_bytes() < 8 << 20


def free_bytes() -> int:
    """Free memory of the GPU, by NVML."""
    nvml = pytest.importorskip("pynvml")
    nvml.nvmlInit()
    handle = nvml.nvmlDeviceGetHandleByPciBusId(open_driver().properties.bus_id.encode())
    return int(nvml.nvmlDeviceGetMemoryInfo(handle).free)


def test_too_large_an_allocation_is_an_error_that_can_be_survived(backend: Any) -> None:
    driver = open_driver()
    with driver, Owned(driver) as owned:
        with pytest.raises(GpuOutOfMemory):
            owned.alloc(4 * driver.properties.memory_bytes)
        owned.alloc(1 << 20)


@pytest.mark.parametrize("half", [False, True])
def test_preprocessing_is_bit_equal_to_the_hosts(backend: Any, half: bool) -> None:
    shape, size = (4, 48, 40, 3), (32, 32)
    bytes_in = np.random.default_rng(3).integers(0, 256, shape, dtype=np.uint8)
    mean, std = np.array([0.49, 0.48, 0.45], np.float32), np.array([0.25, 0.24, 0.26], np.float32)
    out = np.zeros((4, 3, *size), np.float16 if half else np.float32)
    driver = open_driver()
    with driver, Owned(driver) as owned:
        prepare = Preprocessor(owned, Kernels(owned), shape, size, mean, std, half=half)
        address, stream = owned.alloc(out.nbytes), owned.stream()
        prepare(bytes_in, address, stream)
        driver.download(out, address, stream)
        driver.synchronize(stream)
    assert np.array_equal(out, host.prepare(bytes_in, size, mean, std).astype(out.dtype))


def test_largest_difference_on_the_device(backend: Any) -> None:
    a, b = np.random.default_rng(0).standard_normal((2, 100_000), dtype=np.float32)
    driver = open_driver()
    with driver, Owned(driver) as owned:
        kernels, stream = Kernels(owned), owned.stream()
        at = [owned.alloc(a.nbytes), owned.alloc(b.nbytes)]
        for address, array in zip(at, (a, b)):
            driver.upload(address, array, stream)
        assert kernels.max_abs_diff(at[0], at[1], a.size, stream) == np.abs(a - b).max()
