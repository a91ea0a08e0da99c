"""ONNX Runtime's TensorRT provider without a GPU, as far as what is kept and what falls back goes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import onnxruntime

TENSORRT, CUDA, CPU = "TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"
REAL = onnxruntime.InferenceSession


def cache_names(model: bytes) -> tuple[str, ...]:
    """What ONNX Runtime makes the name of a kept engine of: names in the graph, no weights and no shapes
    (`TRTGenerateId` of its TensorRT provider).
    """
    graph = onnx.load_model_from_string(model).graph
    return (graph.name, *(i.name for i in graph.input), *(o for n in graph.node for o in n.output))


def in_tf32(model: bytes) -> bytes:
    """A model whose weights have lost what TensorFloat-32 does not hold: ten bits of the mantissa stay."""
    proto = onnx.load_model_from_string(model)
    for weight in proto.graph.initializer:
        if weight.data_type == onnx.TensorProto.FLOAT:
            bits = onnx.numpy_helper.to_array(weight).view(np.uint32) & np.uint32(0xFFFFE000)
            weight.CopyFrom(onnx.numpy_helper.from_array(bits.view(np.float32), weight.name))
    return bytes(proto.SerializeToString())


class Provider:
    """Stands for `onnxruntime.InferenceSession`; computes on the CPU, keeps engines as ONNX Runtime does.

    Attributes:
        problem: why the provider cannot be made; empty where it can.
        lacks: operators that it leaves to the CPU.
        silent: it does not load, which only a line of the log would say.
        loaded: names of kept engines that were taken instead of building.
        tf32: what NVIDIA's libraries read from the environment, which they do once; None before the first
            session.
    """

    def __init__(self, problem: str = "", lacks: Sequence[str] = (), silent: bool = False) -> None:
        self.problem, self.lacks, self.silent = problem, lacks, silent
        self.loaded: list[str] = []
        self.tf32: bool | None = None

    def __call__(
        self, model: bytes, options: Any, providers: Sequence[tuple[str, dict[str, str]]], **more: Any
    ) -> Any:
        """A session, or what ONNX Runtime raises."""
        (name, given), *_ = providers
        no_cpu = _entry(options, "session.disable_cpu_ep_fallback") == "1"
        if self.problem:
            if not more.get("enable_fallback", 1):
                raise RuntimeError(self.problem)
            if no_cpu:  # Python tries again with the CPU's provider, which contradicts the entry
                raise RuntimeError("Conflicting session configuration: explicitly added the CPU EP")
            return REAL(model, providers=[CPU])
        kinds = {node.op_type for node in onnx.load_model_from_string(model).graph.node}
        if no_cpu and (self.silent or kinds & set(self.lacks)):
            raise RuntimeError(
                "This session contains graph nodes that are assigned to the default CPU EP, but "
                "fallback to CPU EP has been explicitly disabled by the user."
            )
        if self.tf32 is None:
            self.tf32 = os.environ.get("NVIDIA_TF32_OVERRIDE") != "0"
        if name == TENSORRT and self.tf32:
            model = in_tf32(model)  # as on Ampere and later, whatever the provider's options say
        kept = self._kept(model, given) if name == TENSORRT and not self.silent else model
        return _Session(REAL(kept, providers=[CPU]), [CPU] if self.silent else [name, CPU])

    def _kept(self, model: bytes, given: dict[str, str]) -> bytes:
        """The model of the engine that lies under the provider's name; the given one where none does."""
        if given.get("trt_engine_cache_enable") != "True":
            return model
        prefix = given.get("trt_engine_cache_prefix") or "TensorrtExecutionProvider_TRTKernel_graph"
        digest = hashlib.sha256(repr(cache_names(model)).encode()).hexdigest()[:16]
        path = Path(given["trt_engine_cache_path"]) / f"{prefix}_{digest}_0_sm80.engine"
        if path.is_file():
            self.loaded.append(path.name)
            return path.read_bytes()
        path.write_bytes(model)
        return model


class _Session:
    """A session on the CPU that says it runs elsewhere."""

    def __init__(self, real: Any, providers: list[str]) -> None:
        self._real, self._providers = real, providers

    def get_providers(self) -> list[str]:
        """In order of preference."""
        return self._providers

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


def _entry(options: Any, key: str) -> str:
    try:
        return str(options.get_session_config_entry(key))
    except RuntimeError:  # it was not set
        return ""
