"""Where the ONNX writer takes a layer's weights from: a trained network, or chance."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import numpy as np

from hwnas.arrays import Float32s
from hwnas.errors import DataFormatError

NORM_EPS = 1e-5  # of batch norms


@dataclass(frozen=True)
class ConvForm:
    """A convolution and what is folded into it.

    Attributes:
        shape: of its weight: (out, in per group, kernel, kernel).
        bias, norm, scale: whether it has a bias, a batch norm, a layer scale.
        ends_branch: whether its output is added to a residual sum.
    """

    shape: tuple[int, int, int, int]
    bias: bool
    norm: bool
    scale: bool
    ends_branch: bool


class Source(Protocol):
    """Weights of operations by their place in the network."""

    def conv(self, place: str, form: ConvForm) -> tuple[Float32s, Float32s | None]:
        """Weight and bias of a convolution with its batch norm and layer scale folded in."""

    def linear(self, place: str, shape: tuple[int, int]) -> tuple[Float32s, Float32s]:
        """Weight and bias of a fully connected layer."""

    def affine(self, place: str, channels: int) -> tuple[Float32s, Float32s]:
        """Scale and shift of a norm that cannot be folded."""


class GivenWeights:
    """Weights of a trained network."""

    def __init__(self, weights: Mapping[str, Float32s]) -> None:
        self.weights = weights

    def _get(self, name: str, shape: tuple[int, ...]) -> Float32s:
        if name not in self.weights:
            raise DataFormatError(f"the weights have no {name!r}; they belong to another network")
        value = self.weights[name]
        if value.shape != shape:
            raise DataFormatError(f"weight {name!r} has shape {value.shape}; the network needs {shape}")
        return value

    def conv(self, place: str, form: ConvForm) -> tuple[Float32s, Float32s | None]:
        """Weight and bias of a convolution with its batch norm and layer scale folded in."""
        weight, channel = self._get(f"{place}.weight", form.shape), form.shape[:1]
        shift = self._get(f"{place}.bias", channel) if form.bias else None
        if form.norm:
            gamma, beta, mean, var = (
                self._get(f"{place}_norm.{part}", channel).astype(np.float64)
                for part in ("weight", "bias", "running_mean", "running_var")
            )
            factor = gamma / np.sqrt(var + NORM_EPS)
            moved = beta + ((0.0 if shift is None else shift) - mean) * factor
            weight = (weight * factor[:, None, None, None]).astype(np.float32)
            shift = moved.astype(np.float32)
        if form.scale:
            layer_scale = self._get(f"{place}_scale.weight", channel)
            weight = weight * layer_scale[:, None, None, None]
            shift = None if shift is None else shift * layer_scale
        return weight, shift

    def linear(self, place: str, shape: tuple[int, int]) -> tuple[Float32s, Float32s]:
        """Weight and bias of a fully connected layer."""
        return self._get(f"{place}.weight", shape), self._get(f"{place}.bias", shape[:1])

    def affine(self, place: str, channels: int) -> tuple[Float32s, Float32s]:
        """Scale and shift of a norm that cannot be folded."""
        return self._get(f"{place}.weight", (channels,)), self._get(f"{place}.bias", (channels,))


@cache
def _normals() -> Float32s:
    """Standard normal numbers to be dealt out; the odd length keeps rows of a weight apart."""
    return np.random.default_rng(0).standard_normal(65537, dtype=np.float32)


class RandomWeights:
    """Weights that keep activations at a usual scale, so that no time is spent on denormals."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def _draw(self, shape: tuple[int, ...], std: float) -> Float32s:
        pool = _normals()
        start = int(self.rng.integers(len(pool)))
        flat: Float32s = np.resize(np.roll(pool, -start), math.prod(shape)) * np.float32(std)
        return flat.reshape(shape)

    def conv(self, place: str, form: ConvForm) -> tuple[Float32s, Float32s | None]:
        """Weight of variance 2 / fan-in, and a small bias where the folded layer has one.

        At the end of a residual branch a fifth of that, or deep sums would overflow fp16.
        """
        fan_in = math.prod(form.shape[1:])
        weight = self._draw(form.shape, (2.0 / fan_in) ** 0.5 * (0.2 if form.ends_branch else 1.0))
        return weight, self._draw(form.shape[:1], 0.1) if form.norm or form.bias else None

    def linear(self, place: str, shape: tuple[int, int]) -> tuple[Float32s, Float32s]:
        """Weight of variance 1 / fan-in and a small bias."""
        return self._draw(shape, shape[1] ** -0.5), self._draw(shape[:1], 0.1)

    def affine(self, place: str, channels: int) -> tuple[Float32s, Float32s]:
        """Scales near one and small shifts."""
        return 1.0 + self._draw((channels,), 0.1), self._draw((channels,), 0.1)
