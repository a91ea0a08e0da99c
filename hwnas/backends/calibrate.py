"""Ranges of activations for int8, from images: a histogram of every tensor, then one of four rules.

Two passes over the images: the first finds the least and largest value of every tensor, the second
counts values between them. What comes out depends on the images alone, neither on their order nor on
how many go through the graph at once. benchmarks/calibration.py compares the rules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from hwnas.arrays import Float32s
from hwnas.backends.base import refusals_of
from hwnas.backends.forms import Range
from hwnas.backends.graphs import read, tensor_names, with_outputs
from hwnas.backends.quantize import to_int8
from hwnas.backends.quantize_plan import is_quantized, points, weighted_inputs
from hwnas.errors import BuildError, InputError
from hwnas.lazy import lazy_import
from hwnas.protocols import Int8Form

ort = lazy_import("onnxruntime")

Method = Literal["minmax", "percentile", "entropy", "mse"]
METHODS: tuple[Method, ...] = get_args(Method)
DEFAULT: Method = "mse"

BINS = 2048
PERCENTILE = 0.9999  # of the values lie in the range, half of the others beyond each end
LEVELS = 255
SHARES = np.linspace(0.2, 1.0, 81)  # of the full range that the squared error is tried at
RANDOM_IMAGES = 4  # enough for an engine that is only timed
INPUT_SEED = 0

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Calibration:
    """What images told about a graph: range by tensor, and mean by channel of what weighted nodes read."""

    ranges: dict[str, Range]
    means: dict[str, Float32s]


@dataclass(frozen=True)
class Histogram:
    """Counts of a tensor's values in equal bins from `low` to `high`."""

    counts: NDArray[np.int64]
    low: float
    high: float

    @property
    def centres(self) -> Array:
        """Middle of each bin."""
        width = (self.high - self.low) / len(self.counts)
        middles: Array = np.arange(len(self.counts), dtype=np.float64)
        return self.low + width * (middles + 0.5)


def calibrate(model: bytes, images: Float32s, form: Int8Form, method: Method = DEFAULT) -> Calibration:
    """Ranges of every tensor that `quantize.to_int8` needs for a form, on images.

    Args:
        model: float32 graph.
        images: (n, C, H, W) float32, as the network takes them; training images, so that nothing of
            the validation or test split goes into the engine.
        form: which tensors are quantized.
        method: rule for the ends of a range.

    Raises:
        InputError: no images, of another shape than the model takes, or an unknown method.
        BuildError: the graph cannot be quantized, or gives values that are not finite.
    """
    if method not in METHODS:
        raise InputError(f"unknown calibration {method!r} (known: {', '.join(METHODS)})")
    run = _Runner(model, images, form)
    ends: dict[str, Range] = {}
    sums: dict[str, Array] = {}
    for name, value in run.values():
        low, high = float(value.min()), float(value.max())
        if not np.isfinite([low, high]).all():
            raise BuildError(f"tensor {name!r} takes values that are not finite; it cannot be quantized")
        before = ends.get(name, (low, high))
        ends[name] = min(before[0], low), max(before[1], high)
        if name in run.read_by_weights:
            total = value.sum(axis=tuple(i for i in range(value.ndim) if i != 1), dtype=np.float64)
            sums[name] = sums.get(name, 0.0) + total / (value.size / value.shape[1]) * len(value)
    means = {name: (total / len(images)).astype(np.float32) for name, total in sums.items()}
    if method == "minmax":
        return Calibration(ends, means)
    counts = {name: np.zeros(BINS, np.int64) for name in ends}
    for name, value in run.values():
        counts[name] += _count(value, ends[name])
    rule = _RULES[method]
    return Calibration({name: rule(Histogram(counts[name], *ends[name])) for name in ends}, means)


def for_timing(model: bytes, form: Int8Form) -> bytes:
    """The graph in int8 with ranges from a few seeded random images: as fast as with real ones, and
    only a starting point for accuracy. A graph that is quantized already stays as it is.
    """
    if is_quantized(model):
        return model
    dims = [d.dim_value for d in read(model).graph.input[0].type.tensor_type.shape.dim]
    if 0 in dims[1:]:
        raise BuildError(f"the model's input has unknown sizes besides the batch: {dims}")
    images = np.random.default_rng(INPUT_SEED).standard_normal((RANDOM_IMAGES, *dims[1:]), dtype=np.float32)
    return to_int8(model, calibrate(model, images, form, "minmax").ranges, form)


class _Runner:
    """Runs a graph over images on the CPU and gives the values of the tensors that are watched."""

    def __init__(self, model: bytes, images: Float32s, form: Int8Form) -> None:
        port = read(model).graph.input[0]
        dims = [d.dim_value for d in port.type.tensor_type.shape.dim]
        fits = images.ndim == len(dims) and all(w in (0, g) for w, g in zip(dims[1:], images.shape[1:]))
        if not fits or not len(images):
            want = ", ".join(str(d) if d else "any" for d in dims[1:])
            raise InputError(
                f"calibration images are {images.shape}; this model takes (n, {want}) with n of at least 1"
            )
        self.images, self.input, self.batch = images, str(port.name), dims[0] or 32
        self.fixed = bool(dims[0])
        self.names = points(model, form)
        self.read_by_weights = set(weighted_inputs(model, form).values())
        watched = list(dict.fromkeys([*self.names, *sorted(self.read_by_weights)]))
        self.watched = tensor_names(model, watched)
        self.with_input = self.input in watched
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        with refusals_of(f"ONNX Runtime {ort.__version__}"):
            self.session: Any = ort.InferenceSession(
                with_outputs(model, self.watched), options, providers=["CPUExecutionProvider"]
            )

    def values(self) -> Iterator[tuple[str, Float32s]]:
        """Every watched tensor, batch by batch; what fills up the last batch is left out."""
        for at in range(0, len(self.images), self.batch):
            part = np.ascontiguousarray(self.images[at : at + self.batch], np.float32)
            real = len(part)
            if self.fixed and real < self.batch:
                part = np.concatenate([part, np.zeros((self.batch - real, *part.shape[1:]), np.float32)])
            if self.with_input:
                yield self.input, part[:real]
            if self.watched:
                with refusals_of(f"ONNX Runtime {ort.__version__}"):
                    found = self.session.run(self.watched, {self.input: part})
                for name, value in zip(self.watched, found):
                    yield name, value[:real] if value.shape[:1] == part.shape[:1] else value


def _count(value: Float32s, ends: Range) -> NDArray[np.int64]:
    low, high = ends
    if high <= low:
        counts = np.zeros(BINS, np.int64)
        counts[0] = value.size
        return counts
    places = ((value.ravel().astype(np.float64) - low) * (BINS / (high - low))).astype(np.int64)
    return np.bincount(np.minimum(places, BINS - 1), minlength=BINS)


def percentile(found: Histogram) -> Range:
    """The range that holds `PERCENTILE` of the values, as many left out at one end as at the other."""
    total = found.counts.sum()
    edges = np.linspace(found.low, found.high, len(found.counts) + 1)
    below = np.concatenate([[0.0], np.cumsum(found.counts) / total])
    rest = (1.0 - PERCENTILE) / 2.0
    return float(np.interp(rest, below, edges)), float(np.interp(1.0 - rest, below, edges))


def mse(found: Histogram) -> Range:
    """The share of the full range with the least squared error of rounding and cutting."""
    centres = found.centres
    low, high = min(found.low, 0.0), max(found.high, 0.0)
    if high <= low:
        return found.low, found.high
    errors = []
    for share in SHARES:
        scale = share * (high - low) / LEVELS
        zero = np.rint(-share * low / scale)
        whole = np.clip(np.rint(centres / scale) + zero, 0, LEVELS)
        errors.append(float(found.counts @ ((whole - zero) * scale - centres) ** 2))
    # Of equal errors the wider range, so that a few values in one bin are not cut for nothing.
    best = len(errors) - 1 - int(np.argmin(errors[::-1]))
    return float(SHARES[best] * low), float(SHARES[best] * high)


def entropy(found: Histogram) -> Range:
    """The cut of absolute values whose rounded distribution differs least from the true one (TensorRT's
    rule: smallest Kullback-Leibler divergence).
    """
    most = max(abs(found.low), abs(found.high))
    if most == 0.0:
        return found.low, found.high
    levels = LEVELS if found.low >= 0.0 else LEVELS // 2 + 1
    places = np.minimum((np.abs(found.centres) / most * BINS).astype(np.int64), BINS - 1)
    weights = found.counts.astype(np.float64)
    counts: Array = np.bincount(places, weights=weights, minlength=BINS).astype(np.float64)
    counts[0] = counts[1]  # zeros, half of what a ReLU gives, are exact anyway and would outweigh all else
    best, least = BINS, np.inf
    for stop in range(levels, BINS + 1, 8):
        divergence = _divergence(counts, stop, levels)
        if divergence < least:
            best, least = stop, divergence
    cut = most * best / BINS
    return max(found.low, -cut), min(found.high, cut)


def _divergence(counts: Array, stop: int, levels: int) -> float:
    """Between the values up to bin `stop`, those beyond pulled in, and the same in so many levels."""
    true = counts[:stop].copy()
    true[-1] += counts[stop:].sum()
    groups = np.arange(stop) * levels // stop
    kept = counts[:stop]
    filled = kept > 0
    sums = np.bincount(groups, weights=kept, minlength=levels)
    places = np.bincount(groups, weights=filled, minlength=levels)
    rough = np.where(filled, (sums / np.maximum(places, 1))[groups], 0.0)
    if not rough.sum():
        return float("inf")
    p, q = true / true.sum(), rough / rough.sum()
    both = p > 0
    # What has no counterpart gets a little of everything, instead of an infinite divergence.
    return float((p[both] * np.log(p[both] / np.maximum(q[both], 1e-10))).sum())


_RULES: dict[str, Callable[[Histogram], Range]] = {"percentile": percentile, "entropy": entropy, "mse": mse}
