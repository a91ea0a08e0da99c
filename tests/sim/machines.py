"""The simulated machines: one GPU and one major version of TensorRT each."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from prepare import HERE, prepared

ROOT = HERE.parent.parent


@dataclass(frozen=True)
class Machine:
    """One GPU with the TensorRT that somebody who has it would install."""

    device: str
    gpu: str
    capability: str
    tensorrt: int


MACHINES = {
    m.device: m
    for m in (
        Machine("titanxp", "NVIDIA TITAN Xp", "6.1", 8),
        Machine("rtx2080ti", "NVIDIA GeForce RTX 2080 Ti", "7.5", 10),
        Machine("rtx3090", "NVIDIA GeForce RTX 3090", "8.6", 11),
    )
}


def environment(machine: Machine, home: Path, library: Path = ROOT, **more: str) -> dict[str, str]:
    """Environment in which a process finds itself on a machine.

    Args:
        machine: which.
        home: empty folder for tables and caches.
        library: folder that holds the `hwnas` to import.
        more: further variables (faults).
    """
    here = prepared()
    path = [library, HERE / "site", here.site, here.bindings[machine.tensorrt]]
    path += [here.trt[machine.tensorrt].parent / "wheels"]  # libraries that pip installs
    kept = ("PATH", "HOME", "LANG", "TMPDIR", "HWNAS_SIM_CACHE", "HWNAS_TEST_DATA")
    return {
        **{name: os.environ[name] for name in kept if name in os.environ},
        "PYTHONPATH": os.pathsep.join(map(str, path)),
        "LD_LIBRARY_PATH": str(here.native),
        "HWNAS_HOME": str(home),
        "HWNAS_SIM_MACHINE": machine.device,
        "OMP_NUM_THREADS": "1",
        "FAKECUDA_NAME": machine.gpu,
        "FAKECUDA_CAPABILITY": machine.capability,
        "FAKECUDA_MEMORY_MB": "1024",
        "FAKECUDA_KERNELS": str(here.kernels),
        "TRTSIM_LIBRARY": str(here.trt[machine.tensorrt]),
        "TRTSIM_BINDINGS": str(here.bindings[machine.tensorrt]),
        **more,
    }
