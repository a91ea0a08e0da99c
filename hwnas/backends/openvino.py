"""OpenVINO on the CPU: one stream, latency hint, the inference precision set explicitly.

The precision is never left to the runtime: on processors with bf16 units OpenVINO computes in
bfloat16 unless it is told otherwise, which would compare one runtime's bf16 with another's fp32.
Threads are not pinned unless the setting has an affinity, and infer requests run synchronously.

Engine files (``.blob``) are OpenVINO's compiled models; they hold for one version of it on one
kind of processor. `load` also takes a portable ``.onnx``.
"""

from __future__ import annotations

import importlib
import io
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hwnas.arrays import Float32s
from hwnas.backends import package_version
from hwnas.backends.base import (
    Life,
    check_cpu,
    cpu_flags,
    cpu_model,
    cpu_setting,
    random_input,
    refusals_of,
    time_calls,
)
from hwnas.backends.compiled import Compiled
from hwnas.backends.formats import Format
from hwnas.backends.forms import BF16_UNITS, all_of_openvino, form_of
from hwnas.backends.forms import openvino as openvino_forms
from hwnas.backends.onnx_file import read_model
from hwnas.backends.quantized import Quantized
from hwnas.errors import BackendUnavailable, BuildError, DataFormatError, InputError
from hwnas.protocols import CallTimes, Int8Form
from hwnas.records import Precision, Setting
from hwnas.store import write_bytes

PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "int8")
# A precision of floats as OpenVINO's INFERENCE_PRECISION_HINT, and the name that it answers with.
HINTS: dict[Precision, tuple[str, str]] = {"fp32": ("f32", "float32"), "bf16": ("bf16", "bfloat16")}


class OpenVino:
    """OpenVINO on this machine's CPU."""

    name = "openvino"
    suffix = ".blob"
    devices: tuple[str, ...] = ("cpu",)

    def __init__(self) -> None:
        self._compiled = Compiled()  # a fresh session takes 20 ms then, and 100 where it is compiled
        self._quantized = Quantized()

    @property
    def version(self) -> str:
        """Installed version."""
        return package_version("openvino")

    def unavailable(self) -> str | None:
        """Whether the package is missing, with the line that installs it."""
        if find_spec("openvino"):
            return None
        return "openvino is not installed: pip install 'hwnas[openvino]'"

    def setting(self, device: str, precision: Precision, batch: int, threads: int) -> Setting:
        """Conditions of a run here; InputError for a precision that it would replace by another."""
        check_cpu(self.name, device, threads)
        if precision not in PRECISIONS:
            raise InputError(
                f"--precision {precision}: on a CPU the openvino backend runs {', '.join(PRECISIONS)} "
                "(fp16 is computed as bf16); use one of these"
            )
        if precision == "bf16" and (flags := cpu_flags()) and not BF16_UNITS & flags:
            raise BackendUnavailable(
                f"--precision bf16: this processor ({cpu_model()}) has no bfloat16 units, so OpenVINO would "
                "compute in fp32; use --precision fp32 or int8"
            )
        return cpu_setting(self.name, self.version, device, precision, batch, threads)

    def forms(self) -> tuple[Int8Form, ...]:
        """Weighted operators alone, with what residual sums read, or all; beside float32 or bfloat16."""
        return openvino_forms()

    def build(self, model: bytes, setting: Setting) -> OpenVinoEngine:
        """Compile an ONNX model; BuildError with the runtime's words if it refuses."""
        if setting.precision == "int8":
            model = self._quantized(model, form_of(self, setting.form))
        if (kept := self._compiled.get(model, setting)) is not None:
            return self._import(kept, setting)
        core = _core()
        with refusals_of(f"OpenVINO {self.version}"):
            graph = core.read_model(model)
            shape = graph.inputs[0].partial_shape
            if shape[0].is_dynamic:
                graph.reshape([setting.batch, *shape[1:]])
            compiled = core.compile_model(graph, "CPU", _properties(setting))
            engine = OpenVinoEngine(compiled, setting)
        self._compiled.keep(model, setting, compiled.export_model().getvalue())
        return engine

    def _import(self, blob: bytes, setting: Setting) -> OpenVinoEngine:
        return OpenVinoEngine(
            _core().import_model(io.BytesIO(blob), "CPU", _properties(setting)), setting, blob
        )

    def load(self, path: Path, setting: Setting) -> OpenVinoEngine:
        """Load a ``.blob`` or ``.onnx`` file; DataFormatError if it is damaged or of another version."""
        if not path.is_file():
            raise InputError(f"engine {path} does not exist")
        try:
            if path.suffix == ".onnx":
                return self.build(read_model(path), setting)
            return self._import(path.read_bytes(), setting)
        except (RuntimeError, BuildError) as exc:
            raise DataFormatError(
                f"engine {path} cannot be loaded by OpenVINO {self.version}; it may be damaged or of another "
                f"version: {exc}"
            ) from exc


FORMAT = Format(OpenVino.name, "OpenVINO's own model", OpenVino.suffix, backend=OpenVino.name)


class OpenVinoEngine(Life):
    """One compiled model with one infer request, its input resident."""

    def __init__(self, compiled: Any, setting: Setting, blob: bytes | None = None) -> None:
        openvino = package()
        if setting.affinity is not None and (setting.threads > 1 or len(setting.affinity) != 1):
            raise InputError("OpenVINO can be bound to a core with one thread only; leave the affinity unset")
        realised = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        hint, wanted = HINTS[_floats(setting)]
        if wanted not in realised and hint != realised:
            raise BackendUnavailable(
                f"OpenVINO would compute in {realised}, not in {_floats(setting)}: this processor "
                "does not support it; use --precision fp32"
            )
        self.setting = setting
        self._compiled = compiled
        self._blob = blob  # as it was loaded: OpenVINO does not export what it imported
        self.shape = tuple(int(n) for n in compiled.inputs[0].shape)
        if self.shape[0] != setting.batch:
            raise InputError(f"the model has batch {self.shape[0]}, the setting has batch {setting.batch}")
        self._request = compiled.create_infer_request()
        # The request that is timed keeps its own input, so that `run` does not touch it.
        self._timed = compiled.create_infer_request()
        self._timed.set_input_tensor(openvino.Tensor(random_input(self.shape)))

    def run(self, images: Float32s) -> Float32s:
        """Scores of `images` (batch, channels, height, width)."""
        openvino = package()
        array = self._check_images(images)
        self._request.set_input_tensor(openvino.Tensor(array))
        with refusals_of("OpenVINO"):
            self._request.infer()
        scores: Float32s = self._request.get_output_tensor().data.copy()
        return scores

    def time(self, calls: int) -> CallTimes:
        """Time single synchronous calls on the resident input."""
        self._check_calls(calls)
        with refusals_of("OpenVINO"):
            return time_calls(self._timed.infer, calls, self.setting)

    def save(self, path: Path) -> None:
        """Write the compiled model."""
        self._check_open()
        write_bytes(path, self._blob or self._compiled.export_model().getvalue())

    def close(self) -> None:
        """Drop the requests and the compiled model."""
        self._open = False
        self._request = self._timed = self._compiled = None


def _core() -> Any:
    return package().Core()


def package() -> Any:
    """The package, without its telemetry.

    On import it reports to an analytics host, writes ``~/intel`` and forks, unless the package
    `openvino_telemetry` cannot be imported: then it takes its own stub, which does nothing. That is its
    only switch inside one process; the other one, a file in the user's home, holds for all programs.
    """
    if "openvino" not in sys.modules:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # an import of it fails
    return importlib.import_module("openvino")


def _floats(setting: Setting) -> Precision:
    """What is computed in where nothing is quantized."""
    if setting.precision != "int8":
        return setting.precision
    return next((form.rest for form in all_of_openvino() if form.name == setting.form), "fp32")


def _properties(setting: Setting) -> dict[str, Any]:
    if setting.precision not in PRECISIONS:
        raise InputError(f"the openvino backend runs {' and '.join(PRECISIONS)}, not {setting.precision}")
    return {
        "INFERENCE_PRECISION_HINT": HINTS[_floats(setting)][0],
        "INFERENCE_NUM_THREADS": setting.threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,
    }
