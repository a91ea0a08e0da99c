"""Compile CUDA C to a cubin at run time: NVIDIA's NVRTC library, or nvcc where that is all there is.

Both work without a GPU. NVRTC comes as a wheel (``nvidia-cuda-nvrtc``, also a dependency of torch's
CUDA builds) and is called here through ctypes: it is nine C functions. Which compiler serves which
GPU: CUDA 13 starts at compute capability 7.5; 6.1 (TITAN Xp) needs NVRTC 12. A cubin of a newer
major CUDA than the driver's does not load, so such compilers are passed over.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from hwnas.errors import BackendUnavailable, BuildError
from hwnas.store import scratch

OPTIONS = ("--std=c++17",)


@dataclass(frozen=True)
class Compiler:
    """One compiler of CUDA C.

    Attributes:
        name: "NVRTC 12.9" or "nvcc 13.0".
        version: major and minor version of CUDA.
        capabilities: compute capabilities that it compiles for, as (major, minor).
        compile: source and capability to a cubin; BuildError with the compiler's log.
    """

    name: str
    version: tuple[int, int]
    capabilities: frozenset[tuple[int, int]]
    compile: Callable[[str, tuple[int, int]], bytes]

    def target(self, capability: tuple[int, int]) -> tuple[int, int] | None:
        """The newest capability whose code runs on `capability`: same major, no newer minor."""
        return max(
            (c for c in self.capabilities if c[0] == capability[0] and c[1] <= capability[1]), default=None
        )


@cache
def compilers() -> tuple[Compiler, ...]:
    """Every compiler found here: NVRTC of installed wheels, NVRTC of the system, nvcc.

    Looked for once a process: every engine needs the kernels, and asking nvcc starts two programs.
    """
    return tuple(_look())


def _look() -> Iterator[Compiler]:
    for path in _nvrtc_libraries():
        try:
            yield _nvrtc(path)
        except OSError:
            continue  # a library of another platform, or without its companions
    nvcc = shutil.which("nvcc")
    if nvcc is not None:
        compiler = _nvcc(nvcc)
        if compiler is not None:
            yield compiler


def choose(capability: tuple[int, int], cuda_version: tuple[int, int]) -> Compiler:
    """The newest compiler for a GPU whose cubins its driver can load.

    Args:
        capability: compute capability of the GPU.
        cuda_version: newest CUDA that the driver serves.

    Raises:
        BackendUnavailable: none is here; names the wheel to install.
    """
    found = compilers()
    fit = [c for c in found if c.target(capability) and c.version[0] <= cuda_version[0]]
    if fit:
        return max(fit, key=lambda c: c.version)
    wheel = "nvidia-cuda-nvrtc-cu12" if capability < (7, 5) or cuda_version < (13, 0) else "nvidia-cuda-nvrtc"
    here = ", ".join(c.name for c in found) or "none"
    raise BackendUnavailable(
        f"no CUDA compiler found that supports compute capability {capability[0]}.{capability[1]} on a "
        "driver for "
        f"CUDA {cuda_version[0]} (found: {here}): pip install {wheel}"
    )


def _nvrtc_libraries() -> list[Path | str]:
    found: list[Path | str] = []
    wheels = find_spec("nvidia")  # a namespace of many wheels
    for folder in (wheels.submodule_search_locations or ()) if wheels else ():
        found += sorted(p for p in Path(folder).glob("*/lib/libnvrtc.so.*") if p.suffix[1:].isdigit())
    system = ctypes.util.find_library("nvrtc")
    return [*found, system] if system else found


def _nvrtc(path: Path | str) -> Compiler:
    if isinstance(path, Path):
        # NVRTC opens its built-in functions by bare name when it compiles, which finds no file in a wheel's
        # folder unless it is loaded already.
        for companion in sorted(path.parent.glob("libnvrtc-builtins.so.*")):
            ctypes.CDLL(str(companion), mode=ctypes.RTLD_GLOBAL)
    library = ctypes.CDLL(str(path))
    library.nvrtcGetErrorString.restype = ctypes.c_char_p

    def call(name: str, *arguments: object) -> None:
        status = getattr(library, name)(*arguments)
        if status:
            raise BuildError(f"{name}: {library.nvrtcGetErrorString(status).decode()}")

    def text(name: str, program: ctypes.c_void_p) -> bytes:
        size = ctypes.c_size_t()
        call(f"nvrtcGet{name}Size", program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        call(f"nvrtcGet{name}", program, buffer)
        return buffer.raw

    def compile_source(source: str, capability: tuple[int, int]) -> bytes:
        options = [f"--gpu-architecture=sm_{capability[0]}{capability[1]}", *OPTIONS]
        array = (ctypes.c_char_p * len(options))(*[o.encode() for o in options])
        program = ctypes.c_void_p()
        call("nvrtcCreateProgram", ctypes.byref(program), source.encode(), b"kernels.cu", 0, None, None)
        try:
            status = library.nvrtcCompileProgram(program, len(options), array)
            if status:
                log = text("ProgramLog", program).rstrip(b"\0").decode(errors="replace").strip()
                raise BuildError(f"{compiler.name} refused the CUDA source: {log}")
            return text("CUBIN", program)
        finally:
            call("nvrtcDestroyProgram", ctypes.byref(program))

    major, minor, count = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    call("nvrtcVersion", ctypes.byref(major), ctypes.byref(minor))
    call("nvrtcGetNumSupportedArchs", ctypes.byref(count))
    numbers = (ctypes.c_int * count.value)()
    call("nvrtcGetSupportedArchs", numbers)
    compiler = Compiler(
        f"NVRTC {major.value}.{minor.value}",
        (major.value, minor.value),
        frozenset(divmod(n, 10) for n in numbers),
        compile_source,
    )
    return compiler


def _nvcc(path: str) -> Compiler | None:
    version = re.search(r"release (\d+)\.(\d+)", _output([path, "--version"]))
    codes = re.findall(r"sm_(\d+)$", _output([path, "--list-gpu-code"]), re.MULTILINE)
    if version is None or not codes:
        return None
    release = (int(version.group(1)), int(version.group(2)))
    name = f"nvcc {release[0]}.{release[1]}"

    def compile_source(source: str, capability: tuple[int, int]) -> bytes:
        with scratch() as folder:
            made, written = folder / "kernels.cubin", folder / "kernels.cu"
            written.write_text(source, encoding="utf-8")
            arch = f"-arch=sm_{capability[0]}{capability[1]}"
            command = [path, "-cubin", arch, *OPTIONS, "-o", str(made), str(written)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise BuildError(f"{name} refused the CUDA source: {done.stderr.strip()}")
            return made.read_bytes()

    return Compiler(name, release, frozenset(divmod(int(c), 10) for c in codes), compile_source)


def _output(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
