"""What the steps share: a failure with its figures, and a small network with images and reference scores."""

from __future__ import annotations

from typing import Any

import numpy as np

from hwnas.arrays import Float32s
from hwnas.backends.trt.backend import Trt
from hwnas.backends.trt.engine import TrtEngine
from hwnas.errors import HwnasError
from hwnas.lazy import lazy_import
from hwnas.nets import onnx, spaces
from hwnas.records import Precision

ort = lazy_import("onnxruntime")

Figures = dict[str, Any]


class StepFailed(HwnasError):
    """A step found something wrong; carries what it measured."""

    def __init__(self, message: str, figures: Figures) -> None:
        super().__init__(message)
        self.figures = figures


def require(holds: bool, message: str, figures: Figures) -> None:
    """StepFailed, with what was measured, unless it holds."""
    if not holds:
        raise StepFailed(message, figures)


def network(batch: int | None = 1, *, space: str = "resnet-cifar", step: int = 1, seed: int = 0) -> bytes:
    """A small network to try, as ONNX."""
    return onnx.network(spaces.make(space).uniform()[step], batch=batch, seed=seed)


def pictures(count: int, seed: int = 0) -> Float32s:
    """Random images of a small network."""
    return np.random.default_rng(seed).standard_normal((count, 3, 32, 32), dtype=np.float32)


def on_cpu(model: bytes, images: Float32s) -> Float32s:
    """Scores by ONNX Runtime on the CPU."""
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    scores: Float32s = session.run(None, {session.get_inputs()[0].name: images})[0]
    return scores


def built(model: bytes, precision: Precision = "fp32", batch: int = 1) -> TrtEngine:
    """An engine on the first GPU."""
    backend = Trt()
    return backend.build(model, backend.setting("gpu", precision, batch, 1))
