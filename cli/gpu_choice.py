"""Which NVIDIA GPU of this machine a command uses: ``--gpu``, refused beside a device of another machine."""

from __future__ import annotations

import os
import re
from typing import TypeVar

import click

_Devices = TypeVar("_Devices", str | None, tuple[str, ...])

_GPU = re.compile(r"[0-9]{1,3}|(GPU|MIG|MIG-GPU)-[0-9a-fA-F][0-9a-fA-F/-]*")
_CHOSEN = "hwnas.gpu"  # in the context: the GPU that was chosen


def _gpu_is_here(ctx: click.Context, *devices: str | tuple[str, ...] | None) -> None:
    """``--gpu`` chooses among this machine's; on another it would be left unheard."""
    if _CHOSEN not in ctx.meta:
        return
    from hwnas.measure.remote.names import address_of

    named = [n for d in devices for n in ((d,) if isinstance(d, str) else d or ())]
    if there := next((n for n in named if "://" in address_of(n)), None):
        raise click.UsageError(
            f"--gpu chooses a GPU of this machine, not of {there}; set CUDA_VISIBLE_DEVICES there", ctx
        )


def checked_device(ctx: click.Context, param: click.Parameter, value: _Devices) -> _Devices:
    """Callback of ``--device``: the options come in the order in which they were written."""
    _gpu_is_here(ctx, value)
    return value


def chosen_gpu(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    """Callback of ``--gpu``: show one to whatever opens CUDA in this process (TensorRT, torch, ...)."""
    if value is None:
        return
    if not _GPU.fullmatch(value):
        raise click.BadParameter(
            f"{value!r} is neither a number nor a UUID (GPU-..., MIG-...); `nvidia-smi -L` lists both",
            ctx,
            param,
        )
    from hwnas.backends.cuda import gpus  # brings numpy, which no help needs

    if value.isdigit() and (here := gpus.gpus()) and int(value) >= len(here):
        listed = ", ".join(f"{at}: {gpu.name}" for at, gpu in enumerate(here))
        raise click.BadParameter(f"there is no GPU {value} here, but {listed}", ctx, param)
    ctx.meta[_CHOSEN] = value
    _gpu_is_here(ctx, ctx.params.get("device"), ctx.params.get("devices"))
    os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # nvidia-smi's order; CUDA's own puts the fastest first
    os.environ["CUDA_VISIBLE_DEVICES"] = value
