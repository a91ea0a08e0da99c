"""The CUDA driver of a GPU, by whichever package serves it; opened once a process.

cuda-python comes first: it installs as a wheel and has CUDA graphs. PyCUDA serves where it is what there is.
"""

from __future__ import annotations

from importlib.util import find_spec

from hwnas.backends.cuda.by_cuda_python import CudaPythonDriver
from hwnas.backends.cuda.by_pycuda import PyCudaDriver
from hwnas.backends.cuda.driver import CudaDriver
from hwnas.errors import BackendUnavailable

_open: dict[int, CudaDriver] = {}


def installed() -> str | None:
    """Name of the package that would serve, cuda-python first; None where neither is installed."""
    return next(iter(_packages()), None)


def _packages() -> list[str]:
    found = []
    if find_spec("cuda") is not None and find_spec("cuda.bindings") is not None:
        found.append("cuda-python")
    if find_spec("pycuda") is not None:
        found.append("pycuda")
    return found


def open_driver(index: int = 0) -> CudaDriver:
    """The driver of one GPU, opened once a process; the second package where the first does not load.

    Raises:
        BackendUnavailable: no package, no driver library or no such GPU; says what each said.
    """
    if index not in _open:
        said = []
        for package in _packages():
            try:
                _open[index] = _opened(package, index)
                break
            except BackendUnavailable as exc:
                said.append(str(exc))
        else:
            missing = "neither cuda-python nor pycuda is installed: pip install cuda-python (or pycuda)"
            raise BackendUnavailable("; ".join(said) or missing)
    return _open[index]


def _opened(package: str, index: int) -> CudaDriver:
    if package == "pycuda":
        return PyCudaDriver(index)
    return CudaPythonDriver(index)
