"""The int8 graphs that each runtime's kernels want, as data; `quantize` writes them. Imports nothing heavy.

Which of a runtime's forms is the fastest is a matter of the network (`jobs.export.forms`,
`jobs.profile.choose`): that is left to the clock.
"""

from __future__ import annotations

import platform

from hwnas.backends.base import cpu_flags
from hwnas.errors import InputError
from hwnas.protocols import Backend, Int8Form

# Sums of two products of 8-bit numbers fit 16 bits only where one of the factors has 7.
FULL_LEVELS, SAFE_LEVELS = 127, 63
WIDE_SUMS = {"avx512_vnni", "avx_vnni", "amx_int8"}
BF16_UNITS = {"avx512_bf16", "amx_bf16", "avx_ne_convert", "bf16"}  # x86, x86, x86, ARM
MULTIPLY_BF16 = {"avx512_bf16", "amx_bf16"}  # what OpenVINO's kernels on x86 multiply in

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


def onnx_runtime() -> tuple[Int8Form, ...]:
    """ONNX Runtime's CPU kernels: everything between two convolutions in uint8, or nothing fuses."""
    return (Int8Form(weight_levels=weight_levels()),)


def openvino() -> tuple[Int8Form, ...]:
    """OpenVINO's: weighted operators alone, with zero points or without; what sums and gates read, too; or
    all, as in ONNX Runtime's. Where the processor multiplies in bfloat16, weighted operators but depthwise
    ones, and the rest in bfloat16.
    """
    found = all_of_openvino()
    return found if MULTIPLY_BF16 & cpu_flags() else tuple(form for form in found if form.rest == "fp32")


def all_of_openvino() -> tuple[Int8Form, ...]:
    """Its forms on any processor: an engine may come from another one."""
    levels = weight_levels()
    return (
        Int8Form(weight_levels=levels, sums="none"),
        Int8Form("by sign", activations="by sign", weight_levels=levels, sums="none"),
        Int8Form("sums", activations="by sign", weight_levels=levels, sums="inputs"),
        Int8Form("all", weight_levels=levels),
        Int8Form("beside bf16", weight_levels=levels, sums="none", depthwise=False, rest="bf16"),
    )


def form_of(backend: Backend, name: str = "") -> Int8Form | None:
    """A runtime's int8 form by name, its usual one without; None where it computes no int8.

    Raises:
        InputError: it has no such form, as when a table or an engine is of another version of hwnas.
    """
    forms = backend.forms()
    if not name:
        return forms[0] if forms else None
    for form in forms:
        if form.name == name:
            return form
    known = ", ".join(form.name for form in forms if form.name) or "none with a name"
    raise InputError(
        f"the backend {backend.name} writes no int8 graphs in the form {name!r} (known: {known}); profile or "
        "export again"
    )


# Symmetric, zero point 0: the only form that TensorRT takes. It fuses a residual sum that reads the
# same int8 values as the convolution beside it.
TENSORRT = Int8Form(activations="int8", sums="none", integers=False)
