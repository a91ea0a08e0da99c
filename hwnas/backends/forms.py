"""The int8 graph that each runtime's kernels want, as data; `quantize` writes it. Imports nothing heavy."""

from __future__ import annotations

import platform

from hwnas.backends.base import cpu_flags
from hwnas.protocols import Int8Form

# Sums of two products of 8-bit numbers fit 16 bits only where one of the factors has 7.
FULL_LEVELS, SAFE_LEVELS = 127, 63
WIDE_SUMS = {"avx512_vnni", "avx_vnni", "amx_int8"}

Range = tuple[float, float]  # least and largest value of a tensor


def weight_levels() -> int:
    """Levels of int8 weights at which this CPU's kernels do not saturate.

    x86 before VNNI multiplies unsigned by signed bytes and adds two neighbours in 16 bits
    (``vpmaddubsw``), which 255 * 127 * 2 exceeds. ONNX Runtime and OpenVINO both use it; with 7 bits
    in the weights nothing saturates, and the time is the same.
    """
    if platform.machine().lower() not in ("x86_64", "amd64", "i686"):
        return FULL_LEVELS
    return FULL_LEVELS if WIDE_SUMS & cpu_flags() else SAFE_LEVELS


def onnx_runtime() -> Int8Form:
    """ONNX Runtime's CPU kernels: everything between two convolutions in uint8, or nothing fuses."""
    return Int8Form(weight_levels=weight_levels())


def openvino() -> Int8Form:
    """OpenVINO's: it decides itself which sums stay in int8, and is faster than where they are given."""
    return Int8Form(weight_levels=weight_levels(), sums=False)


# Symmetric, zero point 0: the only form that TensorRT takes. It fuses a residual sum that reads the
# same int8 values as the convolution beside it.
TENSORRT = Int8Form(unsigned=False, sums=False, integers=False)
