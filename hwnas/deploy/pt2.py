"""``--format pt2``: torch.export's ExportedProgram, for torch's own ways to a device.

It is not a runtime but what AOTInductor, ExecuTorch and others start from, so no budget is judged
on it: its manifest holds the parity and no latency.
"""

from __future__ import annotations

import time
import zipfile
from pathlib import Path

import numpy as np

from hwnas.backends import package_version
from hwnas.backends.base import Life, cpu_model, random_input
from hwnas.deploy.manifest import EngineManifest, Weights, describe, engine_name, write_manifest
from hwnas.errors import BackendUnavailable, BuildError, DataFormatError
from hwnas.protocols import CallTimes, Floats
from hwnas.records import Precision, Setting
from hwnas.spec import NetworkSpec
from hwnas.store import atomic_path

SUFFIX = ".pt2"


class Pt2:
    """Loads an ExportedProgram and runs it by torch on the CPU, to compare its scores."""

    name = "torch"
    suffix = SUFFIX
    devices: tuple[str, ...] = ("cpu",)

    def unavailable(self) -> str | None:
        """None: torch is always here."""
        return None

    def setting(self, device: str, precision: Precision, batch: int, threads: int) -> Setting:
        """Conditions of a run on this CPU; BackendUnavailable for a precision other than fp32."""
        if precision != "fp32":
            raise BackendUnavailable(
                f"--format pt2 writes fp32, not {precision}; what compiles it for the target converts it"
            )
        return Setting(
            device="cpu",
            device_arch=cpu_model(),
            backend=self.name,
            backend_version=package_version("torch"),
            batch=batch,
            threads=threads,
        )

    def build(self, model: bytes, setting: Setting) -> Pt2Engine:
        """Not to be had: an ExportedProgram is made from the network, see `export`."""
        raise BuildError("an ExportedProgram is made from the network and its weights, not from ONNX")

    def load(self, path: Path, setting: Setting) -> Pt2Engine:
        """Load a file that `export` wrote; DataFormatError if torch cannot read it."""
        return Pt2Engine(path, setting)


class Pt2Engine(Life):
    """A loaded ExportedProgram; any batch size."""

    def __init__(self, path: Path, setting: Setting) -> None:
        import torch

        self.setting = setting
        self._path = path
        if not zipfile.is_zipfile(path):  # torch would log a page of traceback first
            raise DataFormatError(f"{path} is no ExportedProgram; is it cut short?")
        try:
            program = torch.export.load(path)
            self._module: torch.nn.Module | None = program.module()
        except (RuntimeError, ValueError, KeyError, OSError) as exc:
            raise DataFormatError(f"{path} cannot be loaded by torch {torch.__version__}: {exc}") from exc
        user_input = program.graph_signature.user_inputs[0]
        node = next(n for n in program.graph.nodes if n.name == user_input)
        self.shape = (0, *(int(size) for size in node.meta["val"].shape[1:]))

    def run(self, images: Floats) -> Floats:
        """Scores of `images` (batch, channels, height, width)."""
        import torch

        array = self._check_images(images)
        assert self._module is not None
        with torch.inference_mode():
            scores: Floats = self._module(torch.from_numpy(array)).numpy()
        return scores

    def time(self, calls: int) -> CallTimes:
        """Time of single calls of the graph as torch interprets it; no compiler has seen it."""
        self._check_calls(calls)
        images = random_input((self.setting.batch, *self.shape[1:]))
        marks = np.empty(calls + 1)
        marks[0] = time.perf_counter()
        for at in range(1, calls + 1):
            self.run(images)
            marks[at] = time.perf_counter()
        return CallTimes(np.diff(marks) * 1e3)

    def save(self, path: Path) -> None:
        """Copy the file: there is nothing that this engine knows and the file does not."""
        self._check_open()
        with atomic_path(path) as temporary:
            temporary.write_bytes(self._path.read_bytes())

    def close(self) -> None:
        """Drop the module."""
        self._open = False
        self._module = None


def export(
    spec: NetworkSpec, weights: Weights, setting: Setting, folder: Path, **about: object
) -> EngineManifest:
    """Write ``engine.pt2`` and its manifest: the network in eval mode, any batch size."""
    import torch

    from hwnas.nets import build

    module = build.build(spec, seed=0)
    build.load_weights(module, weights)
    example = torch.zeros(2, *spec.input_shape)
    batch = torch.export.Dim("batch")
    program = torch.export.export(module.eval(), (example,), dynamic_shapes=({0: batch},))
    path = folder / engine_name(SUFFIX, setting.precision)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        torch.export.save(program, file)
    manifest = describe(path, "pt2", spec, weights, setting, onnx=None, **about)
    write_manifest(folder, manifest)
    return manifest
