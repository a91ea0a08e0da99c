"""The .cu file compiled for the CPU: every kernel bit-equal to numpy."""

import ctypes
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwnas.backends.images import prepare, taps

ROOT = Path(__file__).resolve().parents[3]
NATIVE = ROOT / "tests" / "sim" / "native"
F32, I32, U64 = ctypes.c_float, ctypes.c_int, ctypes.c_uint64

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed (apt install g++)")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    built = tmp_path_factory.mktemp("kernels") / "kernels.so"
    flags = ["-x", "c++", "-std=c++17", "-O1", "-fPIC", "-shared", "-ffp-contract=off", "-DHWNAS_ON_HOST"]
    command = ["g++", *flags, "-include", str(NATIVE / "host_shim.h"), f"-I{ROOT / 'kernels'}"]
    subprocess.run([*command, str(NATIVE / "host_kernels.cpp"), "-o", str(built)], check=True)
    return ctypes.CDLL(str(built))


def launch(library: ctypes.CDLL, name: str, grid: int, block: int, *arguments: Any) -> int:
    """Run a kernel; arrays are passed by address, numbers as the ctypes objects that they are."""
    values = [U64(a.ctypes.data) if isinstance(a, np.ndarray) else a for a in arguments]
    at = (ctypes.c_void_p * len(values))(*[ctypes.addressof(v) for v in values])
    packed = ctypes.create_string_buffer(512)
    getattr(library, f"{name}_pack")(at, packed)
    shape = ctypes.c_uint * 3
    return int(getattr(library, f"{name}_on_host")(shape(grid, 1, 1), shape(block, 1, 1), packed))


def preprocess(
    library: ctypes.CDLL,
    name: str,
    images: np.ndarray,
    size: tuple[int, int],
    mean: np.ndarray,
    std: np.ndarray,
    *,
    swap: bool = False,
    padding: int = 0,
    out: type[np.floating[Any]] = np.float32,
) -> np.ndarray:
    n, height, width, channels = images.shape
    rows, columns = taps(height, size[0]), taps(width, size[1])
    pitch = width * channels + padding
    source = np.full((n, height, pitch), 77, np.uint8)  # what lies in the padding must not matter
    source[:, :, : width * channels] = images.reshape(n, height, -1)
    result = np.full((n, channels, *size), np.nan, out)
    numbers = [I32(v) for v in (n, height, pitch, channels, *size)]
    filters = [rows.first, rows.weight, I32(rows.weight.shape[1])]
    filters += [columns.first, columns.weight, I32(columns.weight.shape[1])]
    assert launch(library, name, 3, 64, source, result, *numbers, *filters, mean, std, I32(swap)) == 0
    return result


MEAN = np.array([0.4914, 0.4822, 0.4465], np.float32)
STD = np.array([0.2470, 0.2435, 0.2616], np.float32)


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize(
    ("shape", "size", "padding"),
    [
        ((1, 32, 32, 3), (32, 32), 0),  # no resize
        ((2, 7, 5, 3), (7, 5), 3),  # padded rows
        ((2, 8, 8, 3), (32, 32), 0),  # up
        ((1, 50, 37, 3), (16, 24), 5),  # down with antialias, two ratios
        ((3, 9, 9, 1), (4, 20), 0),  # one channel, down and up
        ((1, 1, 1, 3), (5, 5), 0),
    ],
)
def test_preprocess_is_bit_equal_to_numpy(
    library: ctypes.CDLL, shape: tuple[int, int, int, int], size: tuple[int, int], padding: int, swap: bool
) -> None:
    images = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    mean, std = MEAN[: shape[3]].copy(), STD[: shape[3]].copy()
    expected = prepare(images, size, mean, std, swap_channels=swap)
    got = preprocess(library, "preprocess_f32", images, size, mean, std, swap=swap, padding=padding)
    assert np.array_equal(got, expected)
    half = preprocess(
        library, "preprocess_f16", images, size, mean, std, swap=swap, padding=padding, out=np.float16
    )
    assert np.array_equal(half, expected.astype(np.float16))


def test_half_rounds_like_numpy(library: ctypes.CDLL) -> None:
    special = [65504, 65519.996, 65520, 1e9, -1e9, 6e-8, 2.9e-8, 0.0, -0.0, np.inf, -np.inf, np.nan]
    ties = [1.00048828125, 1.00146484375]  # half way between two halves
    values = np.concatenate([np.random.default_rng(1).normal(0, 300, 20000), special, ties]).astype(
        np.float32
    )
    out = np.zeros(values.size, np.float16)
    assert launch(library, "to_half", 1, 32, values, out, I32(values.size)) == 0
    with np.errstate(over="ignore"):
        expected = values.astype(np.float16)
    number = ~np.isnan(expected)
    assert np.array_equal(out.view(np.uint16)[number], expected.view(np.uint16)[number])
    assert np.isnan(out[~number]).all()


def test_l2_flush_touches_every_word_once(library: ctypes.CDLL) -> None:
    buffer = np.arange(1000, dtype=np.uint32)
    assert launch(library, "l2_flush", 3, 32, buffer, U64(1000)) == 0
    assert np.array_equal(buffer, np.arange(1, 1001, dtype=np.uint32))


def test_delay_lasts_as_long_as_asked(library: ctypes.CDLL) -> None:
    start = time.perf_counter()
    assert launch(library, "delay", 1, 1, U64(5_000_000)) == 0
    assert time.perf_counter() - start >= 5e-3


def max_abs_diff(library: ctypes.CDLL, a: np.ndarray, b: np.ndarray, blocks: int = 4) -> float:
    partial = np.full(blocks, -1, np.float32)
    name = "max_abs_diff_f16" if a.dtype == np.float16 else "max_abs_diff_f32"
    assert launch(library, name, blocks, 256, a, b, U64(a.size), partial) == 0
    return float(partial.max())


@pytest.mark.parametrize("count", [1, 255, 256, 257, 5000])
def test_max_abs_diff_is_bit_equal_to_numpy(library: ctypes.CDLL, count: int) -> None:
    rng = np.random.default_rng(count)
    a = rng.normal(size=count).astype(np.float32)
    b = a + rng.normal(size=count).astype(np.float32)
    assert max_abs_diff(library, a, b) == np.abs(a - b).max()


def test_max_abs_diff_of_halves_is_that_of_their_values(library: ctypes.CDLL) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 1000)).astype(np.float16)
    assert max_abs_diff(library, a, b) == np.abs(a.astype(np.float32) - b.astype(np.float32)).max()
    b[700] = np.nan
    assert np.isnan(max_abs_diff(library, a, b))


@pytest.mark.parametrize("at", [0, 300, 999])
def test_one_nan_makes_the_difference_nan(library: ctypes.CDLL, at: int) -> None:
    a = np.ones(1000, np.float32)
    b = np.zeros(1000, np.float32)
    b[at] = np.nan
    assert np.isnan(max_abs_diff(library, a, b))
    a[at] = np.inf
    b[at] = 0.0
    assert max_abs_diff(library, a, b) == np.inf


def test_a_barrier_that_not_all_threads_reach_is_reported(library: ctypes.CDLL) -> None:
    out = np.zeros(8, np.int32)
    assert launch(library, "divergent_barrier", 1, 8, out) == 1
    assert launch(library, "divergent_barrier", 1, 3, out) == 0
