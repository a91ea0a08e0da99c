"""The kernels compile for old and new GPUs without one; ``make test-sim`` compiles for every chip."""

import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from hwnas.backends.cuda import kernels, nvrtc
from hwnas.backends.cuda.driver import GpuProperties
from hwnas.errors import BackendUnavailable, BuildError
from hwnas.store import data_dir

SOURCE = (data_dir("kernels") / "kernels.cu").read_text()
FOUND = nvrtc.compilers()
EM_CUDA = 190  # the ELF machine number


def chip(cubin: bytes) -> int:
    """The chip that a cubin is for, from the ELF flags (another byte since ABI version 8)."""
    return cubin[49] if cubin[8] >= 8 else cubin[48]


@pytest.mark.skipif(not FOUND, reason="neither NVRTC nor nvcc is installed")
@pytest.mark.parametrize("compiler", FOUND, ids=lambda c: c.name.replace(" ", "-"))
def test_cubins_for_the_oldest_a_common_and_the_newest_chip(compiler: nvrtc.Compiler) -> None:
    served = sorted(c for c in compiler.capabilities if c >= (6, 0))
    for capability in (served[0], (8, 6), served[-1]):
        cubin = compiler.compile(SOURCE, capability)
        assert cubin[:4] == b"\x7fELF"
        assert struct.unpack_from("<H", cubin, 18)[0] == EM_CUDA
        assert chip(cubin) == capability[0] * 10 + capability[1]
        for name in kernels.NAMES:
            assert f".text.{name}\0".encode() in cubin


@pytest.mark.skipif(not FOUND, reason="neither NVRTC nor nvcc is installed")
def test_the_compilers_words_are_kept() -> None:
    with pytest.raises(BuildError, match="nowhere"):
        FOUND[0].compile('extern "C" __global__ void f() { nowhere(); }', (8, 0))


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")
def test_no_kernel_spills_registers(tmp_path: Path) -> None:
    path = Path(data_dir("kernels")) / "kernels.cu"
    command = ["nvcc", "-cubin", "-arch=sm_86", "-Xptxas", "-v", "-o", str(tmp_path / "k"), str(path)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    spills = [line for line in said.splitlines() if "spill" in line]
    assert len(spills) == len(kernels.NAMES)
    assert all("0 bytes spill stores, 0 bytes spill loads" in line for line in spills)


def made(name: str, version: tuple[int, int], *capabilities: tuple[int, int]) -> nvrtc.Compiler:
    return nvrtc.Compiler(
        name, version, frozenset(capabilities), lambda source, target: b"cubin of " + name.encode()
    )


OLD = made("old", (12, 9), (6, 1), (7, 5), (8, 0), (8, 6))
NEW = made("new", (13, 2), (7, 5), (8, 0), (8, 6), (12, 0))


@pytest.mark.parametrize(
    ("capability", "driver", "chosen"),
    [
        ((6, 1), (13, 0), "old"),
        ((8, 6), (13, 0), "new"),
        ((8, 6), (12, 4), "old"),  # a cubin of CUDA 13 does not load on a driver for 12
        ((8, 9), (13, 0), "new"),  # code for 8.6 runs on 8.9
        ((12, 1), (13, 0), "new"),
    ],
)
def test_the_newest_compiler_that_chip_and_driver_take(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], driver: tuple[int, int], chosen: str
) -> None:
    monkeypatch.setattr(nvrtc, "compilers", lambda: (OLD, NEW))
    assert nvrtc.choose(capability, driver).name == chosen


@pytest.mark.parametrize(
    ("capability", "driver", "wheel"),
    [
        ((6, 1), (13, 0), "nvidia-cuda-nvrtc-cu12"),
        ((12, 0), (12, 8), "nvidia-cuda-nvrtc-cu12"),
        ((9, 0), (13, 0), "nvidia-cuda-nvrtc"),
    ],
)
def test_without_one_the_wheel_is_named(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], driver: tuple[int, int], wheel: str
) -> None:
    only = made("other", (13, 2), (7, 5))
    monkeypatch.setattr(nvrtc, "compilers", lambda: (only,))
    with pytest.raises(BackendUnavailable, match=rf"found: other\): pip install {wheel}$"):
        nvrtc.choose(capability, driver)


def test_the_cubin_is_compiled_once_and_anew_when_the_source_changes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls = []

    def compiled(source: str, target: tuple[int, int]) -> bytes:
        calls.append(target)
        return b"cubin"

    compiler = nvrtc.Compiler("one", (13, 0), frozenset({(8, 6)}), compiled)
    monkeypatch.setattr(nvrtc, "compilers", lambda: (compiler,))
    monkeypatch.setenv("HWNAS_HOME", str(tmp_path))
    gpu = GpuProperties("GPU", (8, 9), 1 << 30, 1 << 20, 8, (13, 0), "0000:01:00.0")
    assert kernels.cubin(gpu) == b"cubin"
    assert kernels.cubin(gpu) == b"cubin"
    assert calls == [(8, 6)]
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "kernels.cu").write_text(SOURCE + "// changed\n")
    monkeypatch.setattr(kernels, "data_dir", lambda name: folder)
    kernels.cubin(gpu)
    assert len(calls) == 2
