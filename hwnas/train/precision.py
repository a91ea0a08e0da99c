"""Where and in which precision to train, decided by what the processor is; the same every time.

Measured on ResNet-20 at 32x32, batch 256, two cores with avx512_bf16: 657 images/s in float32,
899 with channels last, 1676 with bfloat16 as well. A timing probe would find the same, but noise
could then change the result of a resumed training.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hwnas.errors import DeviceUnavailable
from hwnas.measure.host import detect
from hwnas.train.options import TrainOptions

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Compute:
    """Device and precision of a training; `precision` is "fp32", "bf16" or "fp16"."""

    device: torch.device
    precision: str

    def autocast(self) -> torch.autocast:
        """Context in which the forward pass runs."""
        dtype = _DTYPES[self.precision]
        return torch.autocast(self.device.type, dtype=dtype, enabled=self.precision != "fp32")

    @property
    def scales(self) -> bool:
        """Whether gradients need a scale, since half precision would lose the small ones."""
        return self.precision == "fp16"


def choose(options: TrainOptions) -> Compute:
    """Device and precision for a training; DeviceUnavailable where a GPU is asked for and missing."""
    if options.device == "cuda" and not torch.cuda.is_available():
        raise DeviceUnavailable(
            "torch sees no CUDA device here; train with device cpu, or install torch for your CUDA version"
        )
    cuda = options.device != "cpu" and torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    if options.precision != "auto":
        return Compute(device, options.precision)
    return Compute(device, _cuda_precision() if cuda else cpu_precision(detect().flags))


def cpu_precision(flags: tuple[str, ...]) -> str:
    """bfloat16 pays only where the processor multiplies in it."""
    return "bf16" if {"avx512_bf16", "amx_bf16"} & set(flags) else "fp32"


def _cuda_precision() -> str:
    """By compute capability: bfloat16 from Ampere, half with tensor cores, else float32 (Pascal)."""
    major, _ = torch.cuda.get_device_capability()
    return "bf16" if major >= 8 else "fp16" if major == 7 else "fp32"
