"""A small network with weights, as tests of this room use it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hwnas.nets import build
from hwnas.spec import BlockSpec, NetworkSpec

Floats = NDArray[np.float32]


def small() -> NetworkSpec:
    """Two stages of one basic block on 3x16x16, ten classes."""
    return NetworkSpec(
        stem=BlockSpec(kind="conv", c_in=3, c_out=8, size_in=16),
        stages=(
            (BlockSpec(kind="basic", c_in=8, c_out=8, size_in=16),),
            (BlockSpec(kind="basic", c_in=8, c_out=16, stride=2, size_in=16),),
        ),
        head=BlockSpec(kind="classifier", c_in=16, c_out=10, kernel=1, act="none", size_in=8),
        name="small",
    )


def weights(spec: NetworkSpec, seed: int = 0) -> dict[str, Floats]:
    """Weights with every layer at work: fresh ones start some branches and biases at zero."""
    rng = np.random.default_rng(seed)
    found = build.weights(build.build(spec, seed=seed))
    for name, value in found.items():
        if name.endswith("running_var"):
            found[name] = rng.uniform(0.5, 1.5, value.shape).astype(np.float32)
        elif value.ndim == 1:
            found[name] = rng.uniform(0.2, 0.8, value.shape).astype(np.float32)
        elif value.ndim == 2:
            found[name] = rng.normal(0, 0.5, value.shape).astype(np.float32)
    return found


def images(spec: NetworkSpec, n: int = 24, seed: int = 3) -> Floats:
    """Normal images, (n, C, H, W)."""
    return np.random.default_rng(seed).standard_normal((n, *spec.input_shape), dtype=np.float32)
