"""``--format pt2``: torch.export's ExportedProgram, for torch's own ways to a device.

It is not a runtime but what AOTInductor, ExecuTorch and others start from, so no budget is judged
on it: its manifest holds the parity and no latency.

An archive of torch.export holds pickles, a graph whose names become Python code and expressions that are
evaluated: `torch.export.load` runs any code in the file. So no such file is handed to torch here. The
network of the manifest is exported again, everything in the file but the weights must be the same to the
byte, and the weights, which are plain numbers, are read into the fresh program.
"""

from __future__ import annotations

import io
import json
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hwnas.arrays import Float32s
from hwnas.backends import package_version
from hwnas.backends.base import Life, cpu_model, random_input
from hwnas.backends.formats import Format, TrainedNetwork, Written
from hwnas.errors import BackendUnavailable, BuildError, DataFormatError
from hwnas.lazy import lazy_import
from hwnas.protocols import Backend, CallTimes, Int8Form
from hwnas.records import Precision, Setting
from hwnas.spec import NetworkSpec
from hwnas.store import atomic_path, write_bytes

if TYPE_CHECKING:
    import torch
else:
    torch = lazy_import("torch")

SUFFIX = ".pt2"
WEIGHTS = "/data/weights/weight_"  # members with this in their name are the bytes of one tensor
UNREAD = "/.data/serialization_id"  # a hash over the rest


class Pt2:
    """Loads an ExportedProgram of a network and runs it by torch on the CPU, to compare its scores."""

    name = "torch"
    suffix = SUFFIX
    devices: tuple[str, ...] = ("cpu",)

    def __init__(self, spec: NetworkSpec) -> None:
        self.spec = spec

    def unavailable(self) -> str | None:
        """None: torch is always here."""
        return None

    def setting(self, device: str, precision: Precision, batch: int, threads: int) -> Setting:
        """Conditions of a run on this CPU; BackendUnavailable for a precision other than fp32."""
        if precision != "fp32":
            raise BackendUnavailable(
                f"--format pt2 writes fp32, not {precision}; the target's compiler converts it"
            )
        return Setting(
            device="cpu",
            device_arch=cpu_model(),
            backend=self.name,
            backend_version=package_version("torch"),
            batch=batch,
            threads=threads,
        )

    def forms(self) -> tuple[Int8Form, ...]:
        """None: an ExportedProgram is fp32."""
        return ()

    def build(self, model: bytes, setting: Setting) -> Pt2Engine:
        """Not available: an ExportedProgram is made from the network, see `Pt2Format`."""
        raise BuildError("an ExportedProgram is made from the network and its weights, not from ONNX")

    def load(self, path: Path, setting: Setting) -> Pt2Engine:
        """Load a file of this very network; DataFormatError where it is not what `Pt2Format` writes."""
        return Pt2Engine(path, self.spec, setting)


class Pt2Engine(Life):
    """A loaded ExportedProgram; any batch size."""

    def __init__(self, path: Path, spec: NetworkSpec, setting: Setting) -> None:
        self.setting = setting
        self._path = path
        program = _program(spec, None)
        state = _checked_state(path, program)
        module = program.module()
        module.load_state_dict(state)
        self._module: torch.nn.Module | None = module
        self.shape = (0, *spec.input_shape)

    def run(self, images: Float32s) -> Float32s:
        """Scores of `images` (batch, channels, height, width)."""
        array = self._check_images(images)
        assert self._module is not None
        with torch.inference_mode():
            scores: Float32s = self._module(torch.from_numpy(array)).numpy()
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


class Pt2Format(Format):
    """An ExportedProgram of the network in eval mode; it always takes any number of images."""

    def stand_in(self, spec: NetworkSpec, precision: Precision) -> Backend | None:
        """Torch itself."""
        return Pt2(spec)

    def write(self, network: TrainedNetwork, backend: Backend, setting: Setting, path: Path) -> Written:
        """Export the module by torch; no ONNX model and no engine comes from it."""
        write_bytes(path, _archive(_program(network.spec, network.weights)))
        return Written(dynamic_batch=True)


PT2 = Pt2Format(
    "pt2", "torch.export's ExportedProgram", SUFFIX, bound_to=("backend_version",), any_batch=True
)


def _program(spec: NetworkSpec, weights: Mapping[str, Float32s] | None) -> torch.export.ExportedProgram:
    """A network as torch exports it; None leaves its weights as they are born."""
    from hwnas.nets import build

    module = build.build(spec, seed=0)
    if weights is not None:
        build.load_weights(module, weights)
    example = torch.zeros(2, *spec.input_shape)
    batch = torch.export.Dim("batch")
    program = torch.export.export(module.eval(), (example,), dynamic_shapes=({0: batch},))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # file names of this machine
    return program


def _archive(program: torch.export.ExportedProgram) -> bytes:
    """The file of a program; the same bytes for the same program and version of torch."""
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    return buffer.getvalue()


def _checked_state(path: Path, program: torch.export.ExportedProgram) -> dict[str, torch.Tensor]:
    """Weights and statistics by name out of a file of which all the rest is that of `program`.

    Raises:
        DataFormatError: the file is no archive, or holds anything else.
    """

    own = _members(zipfile.ZipFile(io.BytesIO(_archive(program))))
    sizes = {name: len(data) for name, data in own.items()}
    try:
        with zipfile.ZipFile(path) as archive:
            found = _members(archive, sizes)
    # zipfile raises NotImplementedError for a way of packing that it does not know.
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError) as exc:
        raise DataFormatError(f"{path} is not an ExportedProgram, or is truncated ({exc})") from exc
    for name, data in own.items():
        if WEIGHTS not in name and not name.endswith(UNREAD) and found[name] != data:
            raise DataFormatError(
                f"{path}: its part {name} is not what torch {torch.__version__} writes of the network in the "
                "manifest. Such files hold pickles, which run code when they are loaded, so this one is not "
                "loaded; export it again"
            )
    config = next(name for name in own if name.endswith("/model_weights_config.json"))
    members = {
        name: f"{Path(config).parent}/{entry['path_name']}"
        for name, entry in json.loads(own[config])["config"].items()
    }
    return {
        name: torch.frombuffer(bytearray(found[members[name]]), dtype=value.dtype).reshape(value.shape)
        for name, value in program.state_dict.items()
    }


def _members(archive: zipfile.ZipFile, sizes: dict[str, int] | None = None) -> dict[str, bytes]:
    """Contents by name; ValueError unless names and sizes are those expected, before anything is read."""
    listed = {info.filename: info.file_size for info in archive.infolist()}
    if sizes is not None and (listed != sizes or len(archive.infolist()) != len(sizes)):
        other = sorted(name for name in listed.keys() | sizes.keys() if listed.get(name) != sizes.get(name))
        raise ValueError(f"its parts are not those of the network in its manifest: {', '.join(other[:3])}")
    return {name: archive.read(name) for name in listed}
