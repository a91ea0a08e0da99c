"""NVIDIA GPUs: which are here, what they are doing, and which TensorRT still serves them.

Asking goes through NVML (package nvidia-ml-py) where it is installed, else through nvidia-smi, which
comes with every driver; so a machine without the `trt` extra can still say what it needs.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any

from hwnas.documents import read_json
from hwnas.errors import BackendUnavailable, DeviceUnavailable, InputError
from hwnas.lazy import lazy_import
from hwnas.record import Record
from hwnas.records import Precision
from hwnas.store import data_dir

nvml = lazy_import("pynvml")

Capability = tuple[int, int]


class GpuInfo(Record):
    """One NVIDIA GPU as its driver describes it; memory is None where it is the host's (Jetson, GB10).

    `slices` says that it is cut into slices (MIG), of which CUDA shows one under a name of its own.
    """

    name: str
    compute_capability: str
    memory_bytes: int | None
    driver: str
    slices: bool = False

    @property
    def capability(self) -> Capability:
        """Compute capability as numbers."""
        return parse_capability(self.compute_capability)


def parse_capability(text: str) -> Capability:
    """``8.6`` as (8, 6)."""
    major, _, minor = text.partition(".")
    return int(major), int(minor)


@dataclass(frozen=True)
class Support:
    """What still serves a compute capability.

    Attributes:
        capability: major and minor.
        tensorrt: versions in words; "" where none does.
        extra: the extra of hwnas that installs it; "" also where a Jetson's system brings it.
        python: versions of Python that it runs on, in words.
        precisions: what the chip computes fast, besides fp32.
    """

    capability: Capability
    tensorrt: str
    extra: str
    python: str
    precisions: tuple[Precision, ...]

    def refuses(self, version: str) -> str | None:
        """Why an installed TensorRT does not serve this chip; None where it does.

        None also for an unknown version (""): the library itself will tell then.
        """
        if not version:
            return None
        major, minor = (int(part) for part in [*version.split("."), "0"][:2])
        first = (8, 6) if major < 9 else (10, 0)
        if (major, minor) < first:
            return f"TensorRT {version} is not supported; hwnas supports 8.6 and 10.0 or later"
        lowest = _lowest(major, minor)
        if self.capability < lowest:
            return (
                f"TensorRT {version} needs compute capability {_dotted(lowest)} or later; this GPU has "
                f"{_dotted(self.capability)} and needs {self.tensorrt or 'a version before 8.6'}"
            )
        if major == 8 and self.capability >= (10, 0):
            return f"TensorRT {version} is older than this GPU ({_dotted(self.capability)}); {self.install}"
        return None

    @property
    def install(self) -> str:
        """The line that installs what serves this chip."""
        if self.extra:
            return f"pip install 'hwnas[{self.extra}]'"
        return JETPACK if self.tensorrt else "no supported TensorRT runs on this GPU"

    def describe(self) -> str:
        """One line for display: "TensorRT 8.6, Python <= 3.11, fp16 not fast, int8 yes"."""
        if not self.tensorrt:
            return f"compute capability {_dotted(self.capability)}: no supported TensorRT runs on it"
        asked: tuple[Precision, ...] = ("fp16", "int8")
        fast = ", ".join(f"{p} {'yes' if p in self.precisions else 'not fast'}" for p in asked)
        return f"{self.tensorrt}, {self.python}, {fast}"


# Of Jetsons, whose TensorRT no package of PyPI stands for. Xavier's ends at 8.5, with JetPack 5.
ORIN, XAVIER = (8, 7), (7, 2)
JETPACK = (
    "JetPack brings TensorRT: make the environment by python3 -m venv --system-site-packages, and there "
    "pip install hwnas 'cuda-bindings<13'"
)
CU13_DRIVER = 580  # the first driver branch that serves CUDA 13


def serves(capability: Capability, driver: str = "") -> Support:
    """Which TensorRT serves a compute capability, with Python versions and fast precisions.

    An older driver than CUDA 13's (`driver`, where it is known) takes the extra with nothing of CUDA 13.

    Sources: NVIDIA's TensorRT support matrices; 8.6 is the last for Pascal, Volta left with 10.5.
    fp16 arithmetic on 6.1 runs at 1/64 of fp32's rate; int8 dot products came with 6.1 and are
    missing on 6.0 and 6.2; bf16 came with 8.0.
    """
    fast: list[Precision] = []
    if capability >= (5, 3) and capability != (6, 1):
        fast.append("fp16")
    if capability >= (6, 1) and capability != (6, 2):
        fast.append("int8")
    if capability >= (8, 0):
        fast.append("bf16")
    if capability < (6, 0) or capability == XAVIER:
        return Support(capability, "", "", "", tuple(fast))
    if capability == ORIN:
        return Support(capability, "TensorRT 8.6 or 10 of JetPack 6", "", "JetPack's Python", tuple(fast))
    branch = driver.partition(".")[0]
    older = branch.isdigit() and int(branch) < CU13_DRIVER
    if capability < (7, 5):
        extra = "trt8-train" if older else "trt8"
        return Support(capability, "TensorRT 8.6", extra, "Python <= 3.11", tuple(fast))
    extra = "trt-cu12" if older else "trt"
    return Support(capability, "TensorRT 10.13 to 11", extra, "Python >= 3.10", tuple(fast))


def _lowest(major: int, minor: int) -> Capability:
    """Lowest compute capability that a TensorRT release serves."""
    if major < 10:
        return (6, 0)
    return (7, 0) if (major, minor) < (10, 5) else (7, 5)


def _dotted(capability: Capability) -> str:
    return f"{capability[0]}.{capability[1]}"


@cache
def gpus() -> tuple[GpuInfo, ...]:
    """NVIDIA GPUs that the driver of this machine shows; none where there is no driver."""
    if find_spec("pynvml") is not None:
        found = _ask_nvml()
        if found is not None:
            return found
    return _ask_smi()


def driver_version(cuda_version: tuple[int, int]) -> str:
    """Version of this machine's driver, one for all GPUs; where nobody tells, the CUDA that it serves."""
    found = gpus()
    return found[0].driver if found else f"CUDA {_dotted(cuda_version)}"


def _ask_nvml() -> tuple[GpuInfo, ...] | None:
    """GPUs through NVML; None where its library is not here (a container without it, say)."""
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return None

    def memory_bytes(handle: Any) -> int | None:
        try:
            return int(nvml.nvmlDeviceGetMemoryInfo(handle).total)
        except nvml.NVMLError:
            return None

    def slices(handle: Any) -> bool:
        try:
            return bool(nvml.nvmlDeviceGetMigMode(handle)[0] == nvml.NVML_DEVICE_MIG_ENABLE)
        except nvml.NVMLError:  # most GPUs have none
            return False

    def told(index: int, driver: str) -> GpuInfo | None:
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
            name = _text(nvml.nvmlDeviceGetName(handle))
        except nvml.NVMLError:  # a container shows all, and lets only its own be asked
            return None
        return GpuInfo(
            name=name,
            compute_capability=f"{major}.{minor}",
            memory_bytes=memory_bytes(handle),
            driver=driver,
            slices=slices(handle),
        )

    try:
        driver = _text(nvml.nvmlSystemGetDriverVersion())
        found = [told(index, driver) for index in range(nvml.nvmlDeviceGetCount())]
        return tuple(gpu for gpu in found if gpu is not None)
    except nvml.NVMLError:
        return None
    finally:
        nvml.nvmlShutdown()


def _ask_smi() -> tuple[GpuInfo, ...]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    for mig in (",mig.mode.current", ""):  # nvidia-smi refuses a query whole that names a field it lacks
        query = f"--query-gpu=name,compute_cap,memory.total,driver_version{mig}"
        try:
            answer = subprocess.run(
                [program, query, "--format=csv,noheader,nounits"], capture_output=True, text=True, timeout=20
            )
        except (OSError, subprocess.TimeoutExpired):
            return ()
        if answer.returncode == 0:
            return parse_gpus(answer.stdout)
    return ()


def parse_gpus(text: str) -> tuple[GpuInfo, ...]:
    """GPUs from the lines of ``nvidia-smi --query-gpu=name,compute_cap,memory.total,driver_version``, and
    of ``mig.mode.current`` behind them where it knows that.
    """
    found = []
    for line in text.splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) in (4, 5) and re.fullmatch(r"\d+\.\d+", fields[1]):
            name, capability, memory, driver, *mig = fields
            found.append(
                GpuInfo(
                    name=name,
                    compute_capability=capability,
                    memory_bytes=int(memory) << 20 if memory.isdigit() else None,  # "[N/A]": the host's
                    driver=driver,
                    slices=mig == ["Enabled"],  # "[N/A]" on GPUs that have none
                )
            )
    return tuple(found)


def check_device(device: str, first: str, found: tuple[GpuInfo, ...]) -> None:
    """Refuse to time one GPU under the name of another.

    Raises:
        DeviceUnavailable: `device` is no GPU of this machine.
        BackendUnavailable: it is, but CUDA would run on another one.
    """
    if device == "gpu" or _means(device, first):
        return
    here = ", ".join(dict.fromkeys([first, *(gpu.name for gpu in found)]))
    if any(_means(device, gpu.name) for gpu in found):
        raise BackendUnavailable(
            f"{device!r} is in this machine ({here}), but CUDA's first GPU is {first}; choose it with "
            "--gpu (or CUDA_VISIBLE_DEVICES)"
        )
    raise DeviceUnavailable(f"the device {device!r} is not in this machine; its GPU is {here}")


def _means(device: str, model: str) -> bool:
    """Whether a device name, or an alias in its description, is part of a GPU's name."""
    path = data_dir("profiles") / "devices" / f"{device}.json"
    aliases = read_json(path, "device description").get("aliases", []) if path.is_file() else []
    return any(same_model(name, model) for name in (device, *aliases))


def same_model(name: str, model: str) -> bool:
    """Whether a name means a GPU's model: equal, or equal up to words for memory size and form.

    "a100" means "NVIDIA A100-SXM4-40GB" and each of its slices ("... MIG 1g.5gb"), and "titanxp" the
    "TITAN Xp COLLECTORS EDITION"; "a100" means neither "NVIDIA RTX A1000" nor "A100X", and "rtx3090"
    not "RTX 3090 Ti".
    """
    words = [word for word in _WORD.findall(model.lower()) if word not in _VENDOR]
    while words:
        if "".join(words) == plain_name(name):
            return True
        if not _FORM.fullmatch(words.pop()):
            break
    return False


_VENDOR = ("nvidia", "geforce", "tesla")
_WORD = re.compile(r"[a-z0-9]+")
# Of memory, slot, slice (MIG 1g.5gb+me) and box; not "ti", "super", "laptop", "max", which are other chips.
_FORM = re.compile(r"\d+gb|pcie|sxm\d*|hbm\w*|nvl|mig|\d+g|me|gfx|collectors|edition")


def plain_name(text: str) -> str:
    """A name without vendor words, punctuation and case: "NVIDIA TITAN Xp" is "titanxp"."""
    return re.sub(rf"{'|'.join(_VENDOR)}|[^a-z0-9]", "", text.lower())


def check_precision(name: str, capability: Capability, precision: Precision) -> None:
    """Refuse a precision that a chip does not compute any faster than fp32; InputError with the reason."""
    support = serves(capability)
    if precision != "fp32" and precision not in support.precisions:
        fast = ", ".join(("fp32", *support.precisions))
        raise InputError(
            f"--precision {precision}: {name} (compute capability {_dotted(capability)}) does not compute "
            f"faster in it; use one of {fast}"
        )


def python_fits(support: Support) -> bool:
    """Whether this Python can run the TensorRT that serves a chip."""
    return not support.extra.startswith("trt8") or sys.version_info < (3, 12)


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
