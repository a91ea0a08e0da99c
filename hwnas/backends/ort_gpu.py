"""ONNX Runtime on an NVIDIA GPU: its CUDA provider (`ort-cuda`) and its TensorRT provider (`ort-trt`).

The package is ``onnxruntime-gpu``. ONNX Runtime runs a session on the CPU, with no more than a log
line, when a provider does not load; every session here is checked, and refuses to be built so.
Calls are timed by the host's clock around a run that waits for the GPU, launches included: what a
program that uses ONNX Runtime waits for. The backend `trt` times the device alone.

Engine files are ONNX in the types that are computed in.
"""

from __future__ import annotations

import ctypes.util
import hashlib
import io
import json
import os
import time
from collections.abc import Mapping
from contextlib import redirect_stdout
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from hwnas.arrays import Float32s
from hwnas.backends import package_version
from hwnas.backends.base import Life, random_input, refusals_of
from hwnas.backends.cuda import opening as cuda
from hwnas.backends.cuda.gpus import GpuInfo, check_device, check_precision, gpus
from hwnas.backends.forms import TENSORRT
from hwnas.backends.ort import check_provider
from hwnas.backends.trt.build import typed_model
from hwnas.errors import BackendUnavailable, BuildError, DataFormatError, InputError
from hwnas.lazy import lazy_import
from hwnas.protocols import CallTimes, Int8Form
from hwnas.records import Precision, Setting
from hwnas.store import home, write_bytes

ort = lazy_import("onnxruntime")
onnx = lazy_import("onnx")

INSTALL = "pip uninstall -y onnxruntime && pip install onnxruntime-gpu"
WORKSPACE_BYTES = 2 << 30
FELL_BACK = "fallback to CPU EP has been explicitly disabled"  # ONNX Runtime's words
NO_TF32 = {"NVIDIA_TF32_OVERRIDE": "0"}  # NVIDIA's libraries read it from the environment
ProviderOptions = Mapping[str, str]


class OrtCuda:
    """ONNX Runtime's CUDA provider on the first GPU that CUDA shows."""

    name = "ort-cuda"
    suffix = ".cuda.onnx"
    devices: tuple[str, ...] = ("gpu",)
    provider = "CUDAExecutionProvider"
    precisions: tuple[Precision, ...] = ("fp32", "fp16")

    @property
    def version(self) -> str:
        """Installed version."""
        return package_version("onnxruntime-gpu")

    def unavailable(self) -> str | None:
        """What is missing: a GPU, or the package, which must not stand beside ``onnxruntime``."""
        if not gpus():
            return "no NVIDIA GPU found (neither NVML nor nvidia-smi lists one)"
        if not self.version or find_spec("onnxruntime") is None:
            return f"onnxruntime-gpu is not installed: {INSTALL}"
        if package_version("onnxruntime"):
            return f"onnxruntime and onnxruntime-gpu are both installed and overwrite each other: {INSTALL}"
        return None

    def load_runtime(self) -> None:
        """Open a session that does nothing; BackendUnavailable or BuildError with the runtime's words."""
        helper, kind = onnx.helper, onnx.TensorProto.FLOAT
        ports = [helper.make_tensor_value_info(name, kind, [1]) for name in ("x", "y")]
        graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "nothing", ports[:1], ports[1:])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        session(model.SerializeToString(), self.provider, {"device_id": "0"})

    def setting(self, device: str, precision: Precision, batch: int, threads: int) -> Setting:
        """Conditions of a run on this GPU.

        Raises:
            InputError: a precision that provider or chip do not offer; threads.
            BackendUnavailable: `device` is not this GPU, or the GPU cannot be identified.
        """
        first = _first_gpu()
        check_device(device, first.name, gpus())
        if precision not in self.precisions:
            raise InputError(f"--precision {precision}: {self.name} runs {' and '.join(self.precisions)}")
        check_precision(first.name, first.capability, precision)
        if threads != 1:
            raise InputError(f"--threads {threads} does not apply to a GPU; leave it at 1")
        return Setting(
            device=device,
            device_arch=f"{first.name}, compute capability {first.compute_capability}",
            backend=self.name,
            backend_version=self.version,
            driver=first.driver,
            precision=precision,
            batch=batch,
        )

    def options(self, setting: Setting, graph: bytes) -> ProviderOptions:
        """Provider options for a graph in the types that are computed in."""
        return {
            "device_id": "0",
            "cudnn_conv_algo_search": "EXHAUSTIVE",  # time the algorithms once, keep the fastest
            "use_tf32": "0",  # fp32 means IEEE float32
        }

    def typed(self, model: bytes, setting: Setting) -> bytes:
        """The graph in the types that are computed in."""
        from hwnas.backends import typed

        return typed.to_half(model) if setting.precision == "fp16" else model

    def forms(self) -> tuple[Int8Form, ...]:
        """TensorRT's where this provider offers int8."""
        return (TENSORRT,) if "int8" in self.precisions else ()

    def build(self, model: bytes, setting: Setting) -> OrtGpuEngine:
        """Open a session; BuildError with the runtime's words, BackendUnavailable if it fell back."""
        return self._open(self.typed(model, setting), setting)

    def _open(self, graph: bytes, setting: Setting) -> OrtGpuEngine:
        return OrtGpuEngine(graph, setting, self.provider, self.options(setting, graph))

    def load(self, path: Path, setting: Setting) -> OrtGpuEngine:
        """Load a file written by `OrtGpuEngine.save`; DataFormatError if it is damaged."""
        if not path.is_file():
            raise InputError(f"engine {path} does not exist")
        try:
            return self._open(path.read_bytes(), setting)
        except BuildError as exc:
            raise DataFormatError(f"engine {path} cannot be loaded: {exc}") from exc


def _first_gpu() -> GpuInfo:
    """The GPU that CUDA shows first.

    NVML lists all of them in an order of its own, whatever CUDA_VISIBLE_DEVICES says, and names a slice
    (MIG) after the whole GPU; so where they differ or one may be cut into slices, CUDA itself is asked.
    """
    found = gpus()
    sliced = any(gpu.slices for gpu in found)
    if len({gpu.name for gpu in found}) == 1 and not sliced:
        return found[0]
    if cuda.installed() is None:
        what = "a GPU that is cut into slices (MIG)" if sliced else "several GPUs"
        raise BackendUnavailable(
            f"this machine has {what} ({', '.join(gpu.name for gpu in found)}), and without pycuda or "
            "cuda-python hwnas cannot tell which of them CUDA shows first: pip install cuda-python"
        )
    shown = cuda.open_driver().properties
    return GpuInfo(
        name=shown.name,
        compute_capability=".".join(map(str, shown.capability)),
        memory_bytes=shown.memory_bytes,
        driver=found[0].driver,
    )


class OrtTrt(OrtCuda):
    """ONNX Runtime's TensorRT provider, which is linked to TensorRT 10."""

    name = "ort-trt"
    suffix = ".trt.onnx"
    provider = "TensorrtExecutionProvider"
    precisions: tuple[Precision, ...] = ("fp32", "fp16", "int8")

    def unavailable(self) -> str | None:
        """Besides what `ort-cuda` needs: TensorRT 10's library (the provider does not load with 11)."""
        missing = super().unavailable()
        if missing is None and not (find_spec("tensorrt_libs") or ctypes.util.find_library("nvinfer")):
            return "TensorRT 10's libraries are not installed: pip install 'tensorrt-cu13<11'"
        return missing

    def options(self, setting: Setting, graph: bytes) -> ProviderOptions:
        """Provider options for a graph: precision, one stream, caches shared between sessions.

        The provider names a kept engine after names in the graph alone, neither weights nor shapes, and
        would take another network's (onnxruntime issues 6455 and 32254). The prefix holds everything else.
        """
        cache = home() / "ort-trt"
        cache.mkdir(parents=True, exist_ok=True)
        built_by = {
            "trt_fp16_enable": str(setting.precision == "fp16"),
            "trt_int8_enable": str(setting.precision == "int8"),
            "trt_max_workspace_size": str(WORKSPACE_BYTES),
            "trt_builder_optimization_level": "3",
            "trt_auxiliary_streams": "0",
        }
        return {
            "device_id": "0",
            **built_by,
            "trt_engine_cache_enable": "True",
            "trt_engine_cache_path": str(cache),
            "trt_engine_cache_prefix": content_key(graph, setting, {**built_by, **NO_TF32}),
            "trt_timing_cache_enable": "True",
            "trt_timing_cache_path": str(cache),
        }

    def _open(self, graph: bytes, setting: Setting) -> OrtGpuEngine:
        # fp32 means IEEE float32, and the provider has no option for it (onnxruntime issue 26029). The
        # libraries look at this once a process: so it is there before the first session, of whatever
        # precision, and stays, for torch on this GPU as well.
        os.environ.update(NO_TF32)
        return super()._open(graph, setting)

    def typed(self, model: bytes, setting: Setting) -> bytes:
        """The graph as TensorRT takes it; fp16 by the provider's flag, int8 by Q/DQ pairs."""

        return typed_model(model, setting.precision)


def content_key(graph: bytes, setting: Setting, built_by: Mapping[str, str]) -> str:
    """SHA-256 of a graph with its weights, of the conditions and of the options that engines are built by."""
    told = f"{setting.model_dump_json()}\0{json.dumps(dict(built_by), sort_keys=True)}"
    return hashlib.sha256(graph + b"\0" + told.encode()).hexdigest()


class OrtGpuEngine(Life):
    """One session whose input and output stay in device memory."""

    warms = True

    memory = "cuda"  # where they stay, as ONNX Runtime names it

    def __init__(self, model: bytes, setting: Setting, provider: str, options: ProviderOptions) -> None:
        self.setting, self._model = setting, model
        self._session = session(model, provider, options)
        ports, outputs = self._session.get_inputs(), self._session.get_outputs()
        if len(ports) != 1 or ports[0].type != "tensor(float)":
            raise BuildError(f"expected one float32 input, found {[(p.name, p.type) for p in ports]}")
        self._input, self._output = ports[0].name, outputs[0].name
        self.shape = tuple(n if isinstance(n, int) else 0 for n in ports[0].shape)
        if self.shape[0] not in (0, setting.batch):
            raise InputError(f"the model has batch {self.shape[0]}, the setting has batch {setting.batch}")
        self._binding = self._bind((setting.batch, *self.shape[1:]))

    def _bind(self, shape: tuple[int, ...]) -> Any:
        binding = self._session.io_binding()
        resident = ort.OrtValue.ortvalue_from_numpy(random_input(shape), self.memory, 0)
        binding.bind_ortvalue_input(self._input, resident)
        binding.bind_output(self._output, self.memory, 0)
        return binding

    def run(self, images: Float32s) -> Float32s:
        """Scores of `images` (batch, channels, height, width)."""
        array = self._check_images(images)
        with refusals_of("ONNX Runtime"):
            scores: Float32s = self._session.run([self._output], {self._input: array})[0]
        return scores

    def time(self, calls: int) -> CallTimes:
        """Time single calls on resident input, until the GPU is done with each."""
        self._check_calls(calls)
        marks = np.empty(calls + 1)
        with refusals_of("ONNX Runtime"):
            marks[0] = time.perf_counter()
            for i in range(1, calls + 1):
                self._session.run_with_iobinding(self._binding)
                self._binding.synchronize_outputs()
                marks[i] = time.perf_counter()
        return CallTimes(np.diff(marks) * 1e3)

    def save(self, path: Path) -> None:
        """Write the graph that it runs."""
        self._check_open()
        write_bytes(path, self._model)

    def close(self) -> None:
        """Drop the session and what it holds on the device."""
        self._open = False
        self._session = self._binding = None


@cache
def preload() -> None:
    """Load the CUDA and cuDNN libraries that pip installed, where no loader looks; once a process."""
    load = getattr(ort, "preload_dlls", None)  # since 1.21
    if load is not None and package_version("onnxruntime-gpu"):
        with redirect_stdout(io.StringIO()):  # it prints what it does not find, which may lie elsewhere
            load()


def session(model: bytes, provider: str, options: ProviderOptions) -> Any:
    """A session that runs on `provider` and nowhere else.

    Raises:
        BuildError: the runtime refused the model.
        BackendUnavailable: all or part of it would run on the CPU.
    """
    preload()
    if provider not in ort.get_available_providers():
        raise BackendUnavailable(f"ONNX Runtime {ort.__version__} has no {provider} here: {INSTALL}")
    wanted = ort.SessionOptions()
    wanted.log_severity_level = 3
    if provider != "CPUExecutionProvider":
        wanted.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    try:
        # Python's own fallback would try the CPU, which contradicts the entry above: its words on that
        # would hide why the provider failed.
        with refusals_of(f"ONNX Runtime {ort.__version__}"):
            made = ort.InferenceSession(
                model, wanted, providers=[(provider, dict(options))], enable_fallback=0
            )
    except BuildError as exc:
        if FELL_BACK in str(exc):
            raise BackendUnavailable(
                f"ONNX Runtime would run this on the CPU: {provider} did not load (CUDA, cuDNN or TensorRT "
                f"libraries are missing), or lacks an operator: {exc}"
            ) from exc
        raise
    check_provider(made.get_providers(), provider)
    return made
