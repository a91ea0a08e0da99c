"""CUDA's libraries as pip installs them: folders of `nvidia`, where the system's loader does not look."""

from __future__ import annotations

import ctypes
import re
from importlib.util import find_spec
from pathlib import Path

# Wheel by the name of a library that a loader misses.
_WHEELS = {
    "libcudnn.so.8": "'nvidia-cudnn-cu12>=8.9,<9'",
    "libcudnn.so.9": "nvidia-cudnn-cu12 (or -cu13)",
    "libcublas.so.12": "nvidia-cublas-cu12",
    "libcublasLt.so.12": "nvidia-cublas-cu12",
    "libcublas.so.13": "nvidia-cublas",
    "libcudart.so.12": "nvidia-cuda-runtime-cu12",
    "libnvrtc.so.12": "nvidia-cuda-nvrtc-cu12",
}
_MISSING = re.compile(r"(lib[\w+-]+\.so(?:\.\d+)*): cannot open shared object")


def preload(**releases: int) -> list[str]:
    """Load the libraries of wheels, so that what is linked to them by name finds them; gives their names.

    Of other releases nothing is loaded: torch puts cuDNN 9 into the folder of cuDNN 8, and whichever is
    loaded first for all would answer for both, as they have the same functions.

    Args:
        releases: folders of `nvidia`, in the order in which they need each other ("cublas" before "cudnn"),
            and the number after ".so." in the names of their libraries.
    """
    package = find_spec("nvidia")  # a namespace of many wheels
    roots = [Path(p) for p in (package.submodule_search_locations or ())] if package else []
    waiting = [
        path
        for folder, release in releases.items()
        for root in roots
        for path in sorted(root.glob(f"{folder}/lib/lib*.so.*"))
        if path.name.split(".so.")[1].split(".")[0] == str(release)
    ]
    loaded: list[str] = []
    # Libraries of one wheel need each other in an order of their own: those that fail are tried again.
    for _ in range(3):
        for path in list(waiting):
            try:
                ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
            except OSError:
                continue
            loaded.append(path.name)
            waiting.remove(path)
    return loaded


def cure(words: str) -> str:
    """What to install where a loader says that a library is missing; empty where it says something else."""
    found = _MISSING.search(words)
    if found is None:
        return ""
    name = found.group(1)
    if name.startswith(("libnvinfer", "libnvonnxparser", "libnvparsers")):
        return f"{name} is TensorRT's own: its libraries come from NVIDIA's package index (docs/gpu.md)"
    if name.startswith("libcuda.so"):
        return (
            "the driver's library is missing: install NVIDIA's driver, or run the container with --gpus all"
        )
    return f"pip install {_WHEELS[name]}" if name in _WHEELS else f"install what holds {name}"
