"""ExecuTorch on the CPU: XNNPACK, the runtime of PyTorch for phones and boards, float32.

The model is read back into torch (`nets.model.from_onnx`), exported and handed to XNNPACK, which does most
of it; what it does not take, ExecuTorch's portable kernels compute, slowly. Engine files (``.pte``) are
ExecuTorch programs, portable between processors; `load` also takes an ``.onnx``.

One pool of threads serves a process, and every engine holds on to it: its size can change only while no
engine is open.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from weakref import WeakSet

from hwnas.arrays import Float32s
from hwnas.backends import package_version
from hwnas.backends.base import Life, check_cpu, cpu_setting, random_input, refusals_of, time_calls
from hwnas.backends.compiled import Compiled
from hwnas.backends.formats import Format
from hwnas.backends.onnx_file import read_model
from hwnas.errors import BuildError, DataFormatError, InputError
from hwnas.lazy import lazy_import
from hwnas.protocols import CallTimes, Int8Form
from hwnas.records import Precision, Setting
from hwnas.store import write_bytes

torch: Any = lazy_import("torch")
from_onnx: Any = lazy_import("hwnas.nets.model.from_onnx")
graphs: Any = lazy_import("hwnas.backends.graphs")
exir: Any = lazy_import("executorch.exir")
xnnpack: Any = lazy_import("executorch.backends.xnnpack.partition.xnnpack_partitioner")
runtime: Any = lazy_import("executorch.runtime")
bindings: Any = lazy_import("executorch.extension.pybindings.portable_lib")


class ExecuTorch:
    """ExecuTorch with XNNPACK on this machine's CPU."""

    name = "executorch"
    suffix = ".pte"
    devices: tuple[str, ...] = ("cpu",)

    def __init__(self) -> None:
        self._compiled = Compiled()

    @property
    def version(self) -> str:
        """Installed version."""
        return package_version("executorch")

    def unavailable(self) -> str | None:
        """Whether the package is missing, with the line that installs it."""
        if find_spec("executorch"):
            return None
        return "executorch is not installed: pip install 'hwnas[executorch]'"

    def setting(self, device: str, precision: Precision, batch: int, threads: int) -> Setting:
        """Conditions of a run here; InputError for a precision that is not computed."""
        check_cpu(self.name, device, threads)
        if precision != "fp32":
            raise InputError(
                f"--precision {precision}: the executorch backend runs fp32; use fp32, or another backend"
            )
        return cpu_setting(self.name, self.version, device, precision, batch, threads)

    def forms(self) -> tuple[Int8Form, ...]:
        """None: XNNPACK's int8 comes from a quantizer of its own, not from ONNX."""
        return ()

    def build(self, model: bytes, setting: Setting) -> ExecuTorchEngine:
        """Export and lower an ONNX model; BuildError with the words of what refuses it."""
        program = self._compiled.get(model, setting)
        if program is None:
            program = _lower(model, setting)
            self._compiled.keep(model, setting, program)
        return ExecuTorchEngine(program, setting)

    def load(self, path: Path, setting: Setting) -> ExecuTorchEngine:
        """Load a ``.pte`` or ``.onnx`` file; DataFormatError if it is damaged or of another version."""
        if not path.is_file():
            raise InputError(f"engine {path} does not exist")
        try:
            if path.suffix == ".onnx":
                return self.build(read_model(path), setting)
            return ExecuTorchEngine(path.read_bytes(), setting)
        except BuildError as exc:
            raise DataFormatError(
                f"engine {path} cannot be loaded by ExecuTorch {self.version}; it may be damaged or of "
                f"another version: {exc}"
            ) from exc


FORMAT = Format(
    ExecuTorch.name,
    "an ExecuTorch program",
    ExecuTorch.suffix,
    backend=ExecuTorch.name,
    bound_to=("backend_version",),
)

_live: WeakSet[ExecuTorchEngine] = WeakSet()


class ExecuTorchEngine(Life):
    """One method of one program, its input resident."""

    def __init__(self, program: bytes, setting: Setting) -> None:
        self.setting = setting
        self._program = program
        _threads(setting.threads)
        with refusals_of(f"ExecuTorch {setting.backend_version}"), _quietly():
            loaded = runtime.Runtime.get().load_program(program)
            self._method: Any = loaded.load_method("forward")
            about = self._method.metadata
            if (about.num_inputs(), about.num_outputs()) != (1, 1):
                raise BuildError("the program takes or gives more than one tensor; one of images is expected")
            self.shape = tuple(int(n) for n in about.input_tensor_meta(0).sizes())
        if len(self.shape) != 4 or self.shape[0] != setting.batch:
            raise InputError(f"the model takes {self.shape}, the setting has batch {setting.batch}")
        self._resident = [torch.from_numpy(random_input(self.shape))]
        _live.add(self)

    def run(self, images: Float32s) -> Float32s:
        """Scores of `images` (batch, channels, height, width)."""
        array = self._check_images(images)
        with refusals_of("ExecuTorch"):
            scores: Float32s = self._method.execute([torch.from_numpy(array)])[0].numpy().copy()
        return scores

    def time(self, calls: int) -> CallTimes:
        """Time single calls on the resident input."""
        self._check_calls(calls)
        method, resident = self._method, self._resident
        with refusals_of("ExecuTorch"):
            return time_calls(lambda: method.execute(resident), calls, self.setting)

    def save(self, path: Path) -> None:
        """Write the program."""
        self._check_open()
        write_bytes(path, self._program)

    def close(self) -> None:
        """Drop the program."""
        self._open = False
        self._method = None
        _live.discard(self)


def _lower(model: bytes, setting: Setting) -> bytes:
    """The program of an ONNX model with XNNPACK's parts in it."""
    batch = graphs.read(model).graph.input[0].type.tensor_type.shape.dim[0].dim_value
    if batch not in (0, setting.batch):
        raise InputError(f"the model has batch {batch}, the setting has batch {setting.batch}")
    with refusals_of(f"ExecuTorch {setting.backend_version}"), _quietly():
        try:
            network, image = from_onnx.network(model, Path("given to executorch"))
        except (InputError, DataFormatError) as exc:
            raise BuildError(str(exc)) from exc
        if image is None:
            raise BuildError("the model's input has unknown sizes besides the batch")
        example = (torch.from_numpy(random_input((setting.batch, *image))),)
        with torch.no_grad():
            exported = torch.export.export(network.eval(), example)
        lowered = exir.to_edge_transform_and_lower(exported, partitioner=[xnnpack.XnnpackPartitioner()])
        return bytes(lowered.to_executorch().buffer)


def _threads(threads: int) -> None:
    """Give the process' pool so many threads.

    Raises:
        InputError: an open engine holds on to a pool of another size.
    """
    with _quietly():
        if bindings._threadpool_get_thread_count() == threads:
            return
        if _live:
            raise InputError(
                f"--threads {threads}: ExecuTorch has one pool of threads for a process, and an open engine "
                "uses it with another number; close that engine first"
            )
        bindings._unsafe_reset_threadpool(threads)


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep what the libraries print while they load and lower from the user's terminal.

    The C++ part writes about files of ARM processors straight to the error stream, torchao warns about its
    own use of torch. What goes wrong is raised.
    """
    noisy = [logging.getLogger(name) for name in ("torch.utils._pytree", "torchao", "root")]
    levels = [log.level for log in noisy]
    for log in noisy:
        log.setLevel(logging.ERROR)
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # libraries about each other's versions
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
        for log, level in zip(noisy, levels):
            log.setLevel(level)
