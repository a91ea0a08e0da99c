"""Where, in which precision and on how many threads to train: chosen by the hardware, not by a timing test.

Measured on ResNet-20 at 32x32, batch 256, two cores with avx512_bf16: 657 images/s in float32,
899 with channels last, 1676 with bfloat16 as well. A timing probe would find the same, but noise
could then change the result of a resumed training.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

import hwnas
from hwnas import container
from hwnas.errors import DeviceUnavailable
from hwnas.measure.host import detect
from hwnas.protocols import Emit
from hwnas.train.options import Recipe

# Of a step on several threads: a few milliseconds of one.
LEAST_MACS = 5e7
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Compute:
    """Device, precision ("fp32", "bf16" or "fp16") and CPU threads of a training.

    `note` says why a GPU that is here is not used; empty where there is nothing to say.
    """

    device: torch.device
    precision: str
    threads: int
    note: str = ""

    def autocast(self) -> torch.autocast:
        """Context in which the forward pass runs."""
        dtype = _DTYPES[self.precision]
        return torch.autocast(self.device.type, dtype=dtype, enabled=self.precision != "fp32")

    @property
    def scales(self) -> bool:
        """Whether gradients need a scale, since half precision would lose the small ones."""
        return self.precision == "fp16"


def choose(options: Recipe, jobs: int = 1, step_macs: float = math.inf) -> Compute:
    """Where and how to train.

    Args:
        options: of the training.
        jobs: processes of this machine that share it, and its cores.
        step_macs: multiply-accumulates of a forward pass over the images of a step; threads would mostly wait
            for each other where they are few.

    Raises:
        DeviceUnavailable: a GPU is asked for and cannot be used.
    """
    missing, words = _cuda_missing()
    if options.device == "cuda" and missing:
        raise DeviceUnavailable(
            f"torch sees no CUDA device here{f' ({words})' if words else ''}; train with device cpu, or "
            "install torch for your CUDA version"
        )
    unserved = "" if missing or options.device == "cpu" else cuda_refusal()
    if words and options.device != "cpu":
        unserved = f"torch {torch.__version__} cannot use the GPU: {words}"
    if options.device == "cuda" and unserved:
        raise DeviceUnavailable(unserved)
    cuda = options.device != "cpu" and not missing and not unserved
    device = torch.device("cuda" if cuda else "cpu")
    precision: str = options.precision
    if precision == "auto":
        precision = _cuda_precision() if cuda else cpu_precision(detect().flags)
    note = f"training runs on the CPU: {unserved}" if unserved else ""
    usual = max(1, default_threads() // jobs) if step_macs >= LEAST_MACS else 1
    threads = options.threads or usual
    return Compute(device, precision, threads, note)


def _cuda_missing() -> tuple[bool, str]:
    """Whether torch sees no GPU; and its own words where that is for another reason than having none.

    A driver that is too old for torch's CUDA is such a reason: torch only warns of it.
    """
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        missing = not torch.cuda.is_available()
    words = " ".join(str(said[0].message).split()) if missing and said else ""
    return missing, words.partition(" (Triggered internally")[0]


def cuda_refusal() -> str:
    """Why the installed torch cannot compute on the GPU that it sees; empty where it can.

    `torch.cuda.is_available` is true on cards that a wheel has no code for (those for CUDA 13 start at
    compute capability 7.5); the first kernel then fails with "no kernel image is available".
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own words on the same, once for every architecture
        capability, name = torch.cuda.get_device_capability(), torch.cuda.get_device_name()
    built = torch.cuda.get_arch_list()
    if torch.version.cuda is None or not built or code_fits(built, capability):
        return ""
    dotted = f"{capability[0]}.{capability[1]}"
    return (
        f"torch {torch.__version__} has no code for {name} (compute capability {dotted}; it has "
        f"{', '.join(built)}); install a torch that has, or train with device cpu (docs/gpu.md)"
    )


def code_fits(built: Iterable[str], capability: tuple[int, int]) -> bool:
    """Whether code for architectures ("sm_86", "compute_90") runs on a chip.

    Machine code runs on its own major version from its own minor version on, PTX on every later chip. Code
    whose name ends in a letter is for that very chip.
    """
    for entry in built:
        kind, _, number = entry.partition("_")
        digits = number.rstrip("af")
        if not digits.isdigit():
            continue
        target = divmod(int(digits), 10)
        if number.endswith("a"):
            fits = target == capability
        elif kind == "compute":
            fits = target <= capability
        else:
            fits = target[0] == capability[0] and target[1] <= capability[1]
        if fits:
            return True
    return False


_said: set[str] = set()


def say(compute: Compute, emit: Emit | None) -> None:
    """Tell why the GPU is not used, once a process: every trial of a search would say the same."""
    if compute.note and emit is not None and compute.note not in _said:
        _said.add(compute.note)
        emit("note", {"text": compute.note})


def cpu_precision(flags: tuple[str, ...]) -> str:
    """bfloat16 pays only where the processor multiplies in it."""
    return "bf16" if {"avx512_bf16", "amx_bf16"} & set(flags) else "fp32"


def _cuda_precision() -> str:
    """By compute capability: bfloat16 from Ampere, half with tensor cores, else float32 (Pascal)."""
    major, _ = torch.cuda.get_device_capability()
    return "bf16" if major >= 8 else "fp16" if major == 7 else "fp32"


def default_threads() -> int:
    """Torch's own number, but no more than the container is given.

    One where torch was imported before hwnas, as its threads then wait with busy cores: beside other work
    trainings take a hundred times as long. ``GOMP_SPINCOUNT=1000`` in the environment mends that.
    """
    if hwnas.THREADS_WAIT_LONG:
        return 1
    return int(min(torch.get_num_threads(), container.most_cores()))


@contextmanager
def on_threads(number: int) -> Iterator[None]:
    """So many threads of torch; afterwards as many as before."""
    before = torch.get_num_threads()
    set_threads: Callable[[int], None] = torch.set_num_threads
    set_threads(number)
    try:
        yield
    finally:
        set_threads(before)
