"""Where the ONNX writer takes a layer's weights from: a trained network, or chance."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache

import numpy as np
from numpy.typing import NDArray

from hwnas.errors import DataFormatError
from hwnas.nets.ops import NORM_EPS, Conv, Linear

Floats = NDArray[np.float32]


class Given:
    """Weights of a trained network."""

    def __init__(self, weights: Mapping[str, Floats]) -> None:
        self.weights = weights

    def _get(self, name: str, shape: tuple[int, ...]) -> Floats:
        if name not in self.weights:
            raise DataFormatError(f"the weights lack {name!r}; they are of another network")
        value = self.weights[name]
        if value.shape != shape:
            raise DataFormatError(f"weight {name!r} has shape {value.shape}; the network needs {shape}")
        return value

    def conv(self, place: str, op: Conv, *, ends_branch: bool) -> tuple[Floats, Floats | None]:
        """Weight and bias of a convolution with its batch norm folded in."""
        weight = self._get(f"{place}.weight", op.weight_shape)
        channel = (op.channels,)
        bias = self._get(f"{place}.bias", channel) if op.bias else None
        if not op.norm:
            return weight, bias
        gamma, beta, mean, var = (
            self._get(f"{place}_norm.{part}", channel).astype(np.float64)
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        scale = gamma / np.sqrt(var + NORM_EPS)
        shift = beta + ((0.0 if bias is None else bias) - mean) * scale
        return (weight * scale[:, None, None, None]).astype(np.float32), shift.astype(np.float32)

    def linear(self, place: str, op: Linear) -> tuple[Floats, Floats]:
        """Weight and bias of a fully connected layer."""
        return (
            self._get(f"{place}.weight", (op.channels, op.c_in)),
            self._get(f"{place}.bias", (op.channels,)),
        )


@cache
def _normals() -> Floats:
    """Standard normal numbers to be dealt out; the odd length keeps rows of a weight apart."""
    return np.random.default_rng(0).standard_normal(65537, dtype=np.float32)


class Random:
    """Weights that keep activations at a usual scale, so that no time is spent on denormals."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def _draw(self, shape: tuple[int, ...], std: float) -> Floats:
        pool = _normals()
        start = int(self.rng.integers(len(pool)))
        flat: Floats = np.resize(np.roll(pool, -start), math.prod(shape)) * np.float32(std)
        return flat.reshape(shape)

    def conv(self, place: str, op: Conv, *, ends_branch: bool) -> tuple[Floats, Floats | None]:
        """Weight of variance 2 / fan-in, and a small bias where the folded layer has one.

        At the end of a residual branch a fifth of that, or deep sums would overflow fp16.
        """
        fan_in = op.weight_shape[1] * op.kernel**2
        weight = self._draw(op.weight_shape, (2.0 / fan_in) ** 0.5 * (0.2 if ends_branch else 1.0))
        return weight, self._draw((op.channels,), 0.1) if op.norm or op.bias else None

    def linear(self, place: str, op: Linear) -> tuple[Floats, Floats]:
        """Weight of variance 1 / fan-in and a small bias."""
        return self._draw((op.channels, op.c_in), op.c_in**-0.5), self._draw((op.channels,), 0.1)
