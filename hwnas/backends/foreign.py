"""ONNX files of other programs, made ready to be quantized.

Exporters leave batch norm beside the convolution, weights in Constant nodes and old operator sets;
quantized tensors per channel need opset 13. ONNX Runtime's own basic rewriting folds what can be folded.
"""

from __future__ import annotations

import onnx
from onnx import version_converter

from hwnas.backends.base import refusals_of
from hwnas.backends.graphs import read, with_hard_swish
from hwnas.backends.quantize_plan import is_quantized
from hwnas.errors import BuildError
from hwnas.lazy import lazy_import
from hwnas.store import scratch

ort = lazy_import("onnxruntime")

OLDEST = 13  # the first opset with scales by channel


def ready(model: bytes) -> bytes:
    """A model with batch norm folded and weights as initialisers; one that is quantized as it is.

    Raises:
        BuildError: it cannot be run here, or not be brought to opset 13.
    """
    if is_quantized(model):
        return model
    proto = read(model)
    opset = next((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), 0)
    if opset < OLDEST:
        try:
            proto = version_converter.convert_version(proto, OLDEST)
        except Exception as exc:  # the converter's errors have no common base
            raise BuildError(
                f"the model is of opset {opset}, int8 needs {OLDEST} or newer, and it cannot be converted: "
                f"{exc}; export it again with a newer opset"
            ) from exc
    return _folded(proto.SerializeToString())


def _folded(model: bytes) -> bytes:
    with scratch() as folder:
        written = folder / "folded.onnx"
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(written)
        with refusals_of(f"ONNX Runtime {ort.__version__}"):
            ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        proto = onnx.load_model(str(written))
    with_hard_swish(proto)
    folded: bytes = proto.SerializeToString()
    return folded
