"""Get what the simulated machines need into a cache outside the repository, once.

::

    python tests/sim/prepare.py        # about two minutes the first time, most of it PyCUDA

From PyPI come TensorRT's bindings of three majors (proprietary: downloaded, never kept in the
repository), PyCUDA's sources, cuda-python, NVML's package, CUDA 12's headers and NVRTC. PyCUDA is
built against the simulated driver, so no CUDA toolkit is needed. The stand-ins of
``tests/sim/native`` are compiled again whenever they change.

HWNAS_SIM_CACHE chooses the folder.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
NATIVE = HERE / "native"
KERNELS = HERE.parent.parent / "kernels"
BINDINGS = {
    8: "tensorrt-bindings==8.6.1",
    10: "tensorrt-cu12-bindings==10.13.3.9",
    11: "tensorrt-cu13-bindings==11.4.0.106",
}
PYCUDA = "pycuda==2026.1"
WHEELS = (
    *("pytools==2026.1.1", "siphash24==1.9", "nvidia-ml-py==13.615.71", "nvidia-cuda-nvrtc-cu12==12.9.86"),
    *("cuda-bindings==13.5.0", "cuda-pathfinder==1.9.0"),
)
HEADERS = "nvidia-cuda-runtime-cu12==12.9.79"
C_FLAGS = ("-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror")


@dataclass(frozen=True)
class Prepared:
    """Where everything lies.

    Attributes:
        site: folder for PYTHONPATH with PyCUDA, cuda-python, pynvml and NVRTC.
        bindings: TensorRT's bindings by major version.
        native: folder for LD_LIBRARY_PATH with the simulated driver and NVML.
        kernels: the kernels compiled for the host.
        trt: libnvinfer's stand-in by major version.
    """

    site: Path
    bindings: dict[int, Path]
    native: Path
    kernels: Path
    trt: dict[int, Path]


def cache_folder() -> Path:
    """Where everything is kept."""
    if "HWNAS_SIM_CACHE" in os.environ:
        return Path(os.environ["HWNAS_SIM_CACHE"]).expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("hwnas-sim", appauthor=False)


def prepared() -> Prepared:
    """Where everything is, or SystemExit with the command that gets it."""
    root = cache_folder()
    native = root / f"native-{_digest(NATIVE, KERNELS)}"
    found = Prepared(
        site=_site(root),
        bindings={major: root / "bindings" / spec.split("==")[1] for major, spec in BINDINGS.items()},
        native=native,
        kernels=native / "kernels.so",
        trt={major: native / f"trt{major}" / f"libnvinfer.so.{major}" for major in BINDINGS},
    )
    for path in (found.site, *found.bindings.values(), native):
        if not path.is_dir():
            raise SystemExit(f"{path} is missing: run `make test-sim`, which prepares it")
    return found


def main() -> None:
    """Download and compile what is missing."""
    _check_machine()
    root = cache_folder()
    root.mkdir(parents=True, exist_ok=True)
    for spec in BINDINGS.values():
        _bindings(root / "bindings" / spec.split("==")[1], spec)
    if not _site(root).is_dir():
        _make_site(root)
    _natives(root)
    print(f"simulated machines are ready in {root}")


def _check_machine() -> None:
    wrong = []
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        wrong.append(f"it answers virtual calls of x86-64 Linux, this is {platform.platform()}")
    if sys.version_info >= (3, 12):
        wrong.append("TensorRT 8.6's bindings end at Python 3.11: make PYTHON=python3.11 test-sim")
    wrong += [f"{tool} is not installed" for tool in ("gcc", "g++", "nm") if shutil.which(tool) is None]
    if wrong:
        raise SystemExit("the simulated machines cannot be made here: " + "; ".join(wrong))


def _site(root: Path) -> Path:
    digest = hashlib.sha256(" ".join((PYCUDA, HEADERS, *WHEELS)).encode()).hexdigest()[:12]
    return root / f"site-{sys.implementation.cache_tag}-{digest}"


def _pip(*arguments: str, env: dict[str, str] | None = None) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, env={**os.environ, **(env or {})}, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"pip {' '.join(arguments)} failed; is PyPI within reach?\n{done.stderr[-3000:]}")


def _bindings(target: Path, spec: str) -> None:
    if target.is_dir():
        return
    print(f"downloading {spec}", flush=True)
    _unpack(spec, target)


def _unpack(spec: str, target: Path) -> None:
    """Download one wheel and unpack it; the folder appears only when it is whole."""
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    _pip("download", "--no-deps", "--only-binary=:all:", "--dest", str(partial), spec)
    (wheel,) = partial.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(partial)
    wheel.unlink()
    partial.replace(target)


def _make_site(root: Path) -> None:
    """PyCUDA built against the simulated driver, and what goes with it."""
    site, work = _site(root), root / f".build-{os.getpid()}"
    shutil.rmtree(work, ignore_errors=True)
    partial = work / "site"
    partial.mkdir(parents=True)
    print(f"downloading {', '.join(WHEELS)}", flush=True)
    _pip("install", "--no-deps", "--only-binary=:all:", "--target", str(partial), *WHEELS)
    _unpack(HEADERS, work / "headers")
    cuda = work / "cuda"
    shutil.copytree(work / "headers" / "nvidia" / "cuda_runtime" / "include", cuda / "include")
    shutil.copy(NATIVE / "cudaProfiler.h", cuda / "include")
    (cuda / "lib").mkdir()
    _compile(cuda / "lib" / "libcuda.so.1", [NATIVE / "fakecuda.c"], "-Wl,-soname,libcuda.so.1", "-ldl")
    (cuda / "lib" / "libcuda.so").symlink_to("libcuda.so.1")
    # PyCUDA reads its configuration from the home folder.
    (work / ".aksetup-defaults.py").write_text(
        f"CUDA_ROOT={str(cuda)!r}\nCUDADRV_LIB_DIR=[{str(cuda / 'lib')!r}]\n"
        "CUDA_ENABLE_CURAND=False\nCUDA_ENABLE_GL=False\n"
    )
    print(f"building {PYCUDA}: a minute or two", flush=True)
    home = {"HOME": str(work), "PATH": "/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin"}
    _pip("install", "--no-deps", "--no-binary=pycuda", "--target", str(partial), PYCUDA, env=home)
    partial.replace(site)
    shutil.rmtree(work)


def _natives(root: Path) -> None:
    """Compile the stand-ins; the folder's name is the digest of their sources."""
    target = root / f"native-{_digest(NATIVE, KERNELS)}"
    if target.is_dir():
        return
    print("compiling the stand-ins", flush=True)
    partial = root / f".native-{os.getpid()}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    rest = partial / "unsupported.c"
    rest.write_text(_unsupported(_site(root)))
    _compile(partial / "libcuda.so.1", [NATIVE / "fakecuda.c", rest], "-Wl,-soname,libcuda.so.1", "-ldl")
    _compile(partial / "libnvidia-ml.so.1", [NATIVE / "fakenvml.c"], "-ldl")
    for major in BINDINGS:
        _stand_in(partial / f"trt{major}", major)
    shim = ["-x", "c++", "-std=c++17", "-ffp-contract=off", "-DHWNAS_ON_HOST", f"-I{KERNELS}"]
    shim += ["-include", str(NATIVE / "host_shim.h"), "-Wno-unknown-pragmas"]
    _run("g++", *C_FLAGS, *shim, str(NATIVE / "host_kernels.cpp"), "-o", str(partial / "kernels.so"))
    partial.replace(target)


def _stand_in(folder: Path, major: int) -> None:
    """libnvinfer of one major version, and the empty libraries that the bindings ask for besides."""
    folder.mkdir()
    old = ["-DWITH_CAFFE_AND_UFF"] if major == 8 else []
    name = f"libnvinfer.so.{major}"
    _compile(
        folder / name, [NATIVE / "trtsim.c"], f"-Wl,-soname,{name}", "-Wl,--no-as-needed", "-lstdc++", *old
    )
    nothing = folder / "nothing.c"
    nothing.write_text("typedef int nothing;\n")
    needs: list[str] = []
    if major == 8:
        # As in the real one, 8.6's plugins are linked to cuDNN 8, which pip puts where no loader looks.
        cudnn = folder / "wheels" / "nvidia" / "cudnn" / "lib" / "libcudnn.so.8"
        cudnn.parent.mkdir(parents=True)
        _compile(cudnn, [nothing], f"-Wl,-soname,{cudnn.name}")
        needs = ["-Wl,--no-as-needed", str(cudnn)]
    for library in ("nvinfer_plugin", "nvonnxparser", "nvparsers"):
        name = f"lib{library}.so.{major}"
        more = needs if library == "nvinfer_plugin" else []
        _compile(folder / name, [nothing], f"-Wl,-soname,{name}", *more)


def _unsupported(site: Path) -> str:
    """Functions of the driver that PyCUDA links to and the simulated driver does not offer."""
    (extension,) = (site / "pycuda").glob("_driver*.so")
    wanted = _symbols("--undefined-only", extension)
    with_lib = site.parent / f".probe-{os.getpid()}.so"
    _compile(with_lib, [NATIVE / "fakecuda.c"], "-ldl")
    offered = _symbols("--defined-only", with_lib)
    with_lib.unlink()
    return "".join(
        f"int {name}(void);\nint {name}(void) {{ return 801; /* CUDA_ERROR_NOT_SUPPORTED */ }}\n"
        for name in sorted(wanted - offered)
    )


def _symbols(which: str, library: Path) -> set[str]:
    listed = subprocess.run(["nm", "-D", which, str(library)], capture_output=True, text=True, check=True)
    names = (line.split()[-1].split("@")[0] for line in listed.stdout.splitlines())
    return {name for name in names if name.startswith("cu") and name[2:3].isupper()}


def _compile(target: Path, sources: list[Path], *flags: str) -> None:
    _run("gcc", *C_FLAGS, "-o", str(target), *map(str, sources), *flags)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")


def _digest(*folders: Path) -> str:
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for folder in folders:
        for path in sorted(folder.glob("*.*")):
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:12]


if __name__ == "__main__":
    main()
