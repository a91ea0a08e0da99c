"""``--format onnx``: plain ONNX for any runtime, which runs it as it was asked for.

In fp16 and int8 it is made for targets that compute in the types of the graph (TensorRT 11, NPUs).
ONNX Runtime's CPU computes such graphs rightly, so that scores can be compared here, but its time
says nothing about the target's: no budget is judged on these files.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hwnas.arrays import Float32s
from hwnas.backends import package_version
from hwnas.backends.base import Life, cpu_model, refusals_of
from hwnas.backends.formats import PORTABLE, Format, TrainedNetwork, Written
from hwnas.backends.forms import TENSORRT
from hwnas.backends.onnx_file import read_model
from hwnas.errors import BackendUnavailable, BuildError, DataFormatError, InputError
from hwnas.lazy import lazy_import
from hwnas.protocols import Backend, CallTimes, Engine, Int8Form
from hwnas.records import Precision, Setting
from hwnas.spec import NetworkSpec
from hwnas.store import write_bytes

if TYPE_CHECKING:
    import onnxruntime

onnxruntime = lazy_import("onnxruntime")

SUFFIX = ".onnx"


class TypedOnnx:
    """Runs a typed ONNX file on the CPU to compare scores. It times nothing."""

    name = PORTABLE
    suffix = SUFFIX
    devices: tuple[str, ...] = ("cpu",)

    def unavailable(self) -> str | None:
        """Whether ONNX Runtime is missing."""
        return None if find_spec("onnxruntime") else "onnxruntime is not installed: pip install onnxruntime"

    def setting(self, device: str, precision: Precision, batch: int, threads: int) -> Setting:
        """Conditions of the comparison: this CPU."""
        if reason := self.unavailable():
            raise BackendUnavailable(reason)
        return Setting(
            device="cpu",
            device_arch=cpu_model(),
            backend=self.name,
            backend_version=package_version("onnxruntime", "onnxruntime-gpu"),
            precision=precision,
            batch=batch,
            threads=threads,
        )

    def forms(self) -> tuple[Int8Form, ...]:
        """Symmetric, as accelerators take it; a CPU's runtime names its own."""
        return (TENSORRT,)

    def build(self, model: bytes, setting: Setting) -> TypedEngine:
        """Open a model; BuildError with the runtime's words if it refuses."""
        return TypedEngine(model, setting)

    def load(self, path: Path, setting: Setting) -> TypedEngine:
        """Open a file; DataFormatError if it is damaged."""
        try:
            return TypedEngine(path.read_bytes(), setting)
        except BuildError as exc:
            raise DataFormatError(f"{path} cannot be loaded: {exc}") from exc


class TypedEngine(Life):
    """A session without graph optimisation: scores as the graph's own types give them."""

    def __init__(self, model: bytes, setting: Setting) -> None:
        self.setting, self._model = setting, model
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = setting.threads
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        with refusals_of(f"ONNX Runtime {onnxruntime.__version__}"):
            self._session: onnxruntime.InferenceSession | None = onnxruntime.InferenceSession(
                model, options, providers=["CPUExecutionProvider"]
            )
        port = self._session.get_inputs()[0]
        self._input = port.name
        self.shape = tuple(size if isinstance(size, int) else 0 for size in port.shape)

    def run(self, images: Float32s) -> Float32s:
        """Scores of `images` (batch, channels, height, width)."""
        array = self._check_images(images)
        assert self._session is not None
        with refusals_of(f"ONNX Runtime {onnxruntime.__version__}"):
            scores: Float32s = np.asarray(self._session.run(None, {self._input: array})[0], np.float32)
        return scores

    def time(self, calls: int) -> CallTimes:
        """Not available: it would be this CPU's time, not the target's."""
        raise InputError("a typed ONNX file is timed on its target, not here")

    def save(self, path: Path) -> None:
        """Write the model."""
        self._check_open()
        write_bytes(path, self._model)

    def close(self) -> None:
        """Drop the session."""
        self._open = False
        self._session = None


class OnnxFormat(Format):
    """Plain ONNX; a runtime builds it once, to know that it can, and the file is what it was given."""

    def stand_in(self, spec: NetworkSpec, precision: Precision) -> Backend | None:
        """In fp32 and bf16 the runtime that was asked for; else, where that one does not compute in the
        precision (`runtimes`), whatever computes in the graph's types.
        """
        return None if precision in ("fp32", "bf16") else TypedOnnx()

    def write(self, network: TrainedNetwork, backend: Backend, setting: Setting, path: Path) -> Written:
        """Build from the model, then write the model itself."""
        # bf16 is computed from the float32 graph by the runtimes that offer it.
        model = network.onnx("fp32" if network.precision == "bf16" else network.precision)
        engine = backend.build(model, setting)
        try:
            write_bytes(path, model)
        except BaseException:
            engine.close()
            raise
        return Written(engine, model, network.dynamic_batch)

    def load(self, path: Path, backend: Backend, setting: Setting) -> Engine:
        """Build from the file; weights may lie beside it."""
        return backend.build(read_model(path), setting)


ONNX = OnnxFormat(
    PORTABLE, "plain ONNX, for any runtime", SUFFIX, bound_to=(), any_batch=True, runtimes=("int8",)
)
