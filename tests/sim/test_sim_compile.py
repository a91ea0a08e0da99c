"""The kernels compile for every chip, the TITAN Xp's among them (NVRTC 12.9, which prepare.py gets)."""

import pytest
from prepare import prepared

from hwnas.backends.cuda import kernels, nvrtc
from hwnas.store import data_dir

SOURCE = (data_dir("kernels") / "kernels.cu").read_text()

pytestmark = pytest.mark.sim


def compiles_for_all(compiler: nvrtc.Compiler) -> None:
    for capability in sorted(c for c in compiler.capabilities if c >= (6, 0)):
        cubin = compiler.compile(SOURCE, capability)
        chip = cubin[49] if cubin[8] >= 8 else cubin[48]
        assert chip == capability[0] * 10 + capability[1]
        assert all(f".text.{name}\0".encode() in cubin for name in kernels.NAMES)


def test_nvrtc_12_from_pascal_to_blackwell() -> None:
    library = prepared().site / "nvidia" / "cuda_nvrtc" / "lib" / "libnvrtc.so.12"
    compiler = nvrtc._nvrtc(library)
    assert compiler.version == (12, 9)
    assert {(6, 1), (7, 0), (7, 5), (8, 6), (12, 1)} <= compiler.capabilities
    compiles_for_all(compiler)


def test_every_other_compiler_here() -> None:
    """None where torch came without CUDA and there is no nvcc."""
    for compiler in nvrtc.compilers():
        compiles_for_all(compiler)
