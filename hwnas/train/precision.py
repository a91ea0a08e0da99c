"""Where, in which precision and on how many threads to train: chosen by the hardware, not by a timing test.

Measured on ResNet-20 at 32x32, batch 256, two cores with avx512_bf16: 657 images/s in float32,
899 with channels last, 1676 with bfloat16 as well. A timing probe would find the same, but noise
could then change the result of a resumed training.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch

from hwnas.errors import DeviceUnavailable
from hwnas.measure.host import detect
from hwnas.train.options import Recipe

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Compute:
    """Device, precision ("fp32", "bf16" or "fp16") and CPU threads of a training."""

    device: torch.device
    precision: str
    threads: int

    def autocast(self) -> torch.autocast:
        """Context in which the forward pass runs."""
        dtype = _DTYPES[self.precision]
        return torch.autocast(self.device.type, dtype=dtype, enabled=self.precision != "fp32")

    @property
    def scales(self) -> bool:
        """Whether gradients need a scale, since half precision would lose the small ones."""
        return self.precision == "fp16"


def choose(options: Recipe) -> Compute:
    """Where and how to train; DeviceUnavailable where a GPU is asked for and missing."""
    if options.device == "cuda" and not torch.cuda.is_available():
        raise DeviceUnavailable(
            "torch sees no CUDA device here; train with device cpu, or install torch for your CUDA version"
        )
    cuda = options.device != "cpu" and torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    precision: str = options.precision
    if precision == "auto":
        precision = _cuda_precision() if cuda else cpu_precision(detect().flags)
    return Compute(device, precision, options.threads or default_threads())


def cpu_precision(flags: tuple[str, ...]) -> str:
    """bfloat16 pays only where the processor multiplies in it."""
    return "bf16" if {"avx512_bf16", "amx_bf16"} & set(flags) else "fp32"


def _cuda_precision() -> str:
    """By compute capability: bfloat16 from Ampere, half with tensor cores, else float32 (Pascal)."""
    major, _ = torch.cuda.get_device_capability()
    return "bf16" if major >= 8 else "fp16" if major == 7 else "fp32"


def default_threads(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Torch's own number, but no more than the container is given: threads beyond that only wait.

    Args:
        cgroup: where the kernel shows the limits, version 2 (``cpu.max``) or 1 (``cpu/cpu.cfs_*``).
    """
    threads = torch.get_num_threads()
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            quota, period = " ".join((cgroup / name).read_text() for name in names).split()
            if quota not in ("max", "-1"):
                threads = min(threads, max(1, math.ceil(int(quota) / int(period))))
        except (OSError, ValueError):
            continue  # not this version, or no limit
    return threads
