"""The arithmetic of int8: steps of tensors, weights and biases in steps, and what rounding moves."""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray

from hwnas.arrays import Float32s
from hwnas.backends.forms import Range
from hwnas.protocols import Activations


def step(limits: Range, activations: Activations) -> tuple[float, int, type[np.uint8 | np.int8]]:
    """Scale, zero point and type of a tensor; 0 is always a level, so that padding is exact.

    uint8 has 255 steps over the range; int8 is symmetric with 127 on each side (-128 is left out).
    """
    low, high = min(limits[0], 0.0), max(limits[1], 0.0)
    if activations == "uint8" or (activations == "by sign" and low == 0.0):
        scale = (high - low) / 255.0
        scale = scale if np.float32(scale) else 1.0
        return float(np.float32(scale)), int(np.clip(np.rint(-low / scale), 0, 255)), np.uint8
    return float(np.float32(max(high, -low) / 127.0)) or 1.0, 0, np.int8


def channel_axis(node: onnx.NodeProto) -> int:
    """The axis of the weight that counts output channels."""
    if node.op_type == "Conv":
        return 0
    transposed = any(a.name == "transB" and a.i for a in node.attribute)
    return 0 if transposed else 1


def weight_scale(weight: Float32s, axis: int, levels: int) -> Float32s:
    """Step by output channel; a channel of zeros gets any step, here 1."""
    others = tuple(i for i in range(weight.ndim) if i != axis)
    scale: Float32s = (np.abs(weight).max(axis=others) / levels).astype(np.float32)
    return np.where(scale > 0, scale, np.float32(1.0))


def weight_integers(weight: Float32s, scale: Float32s, axis: int, levels: int) -> NDArray[np.int8]:
    """The weight in steps."""
    shape = [1] * weight.ndim
    shape[axis] = -1
    whole: NDArray[np.int8] = np.clip(np.rint(weight / scale.reshape(shape)), -levels, levels).astype(np.int8)
    return whole


def bias_integers(bias: Float32s, unit: Float32s) -> NDArray[np.int32] | None:
    """A bias in steps of its channels; None where they are so fine that 32 bits do not hold it."""
    if not unit.all():
        return None
    whole = np.rint(bias.astype(np.float64) / unit)
    limits = np.iinfo(np.int32)
    fits = limits.min <= whole.min() and whole.max() <= limits.max
    return whole.astype(np.int32) if fits else None


def mean_shift(
    weight: Float32s,
    small: NDArray[np.int8],
    scale: Float32s,
    axis: int,
    mean: Float32s,
    node: onnx.NodeProto,
) -> Float32s:
    """By how much rounding the weights moves the mean of each output channel, borders neglected."""
    shape = [1] * weight.ndim
    shape[axis] = -1
    error: Float32s = (small * scale.reshape(shape) - weight).astype(np.float32)
    if node.op_type != "Conv":
        moved: Float32s = np.moveaxis(error, axis, 0) @ mean
        return moved
    groups = next((a.i for a in node.attribute if a.name == "group"), 1)
    by_input = error.sum(axis=tuple(range(2, error.ndim)))  # (out, in of a group)
    per_group = len(weight) // groups
    inputs = mean.reshape(groups, -1).repeat(per_group, axis=0)
    shifted: Float32s = (by_input * inputs).sum(axis=1).astype(np.float32)
    return shifted
