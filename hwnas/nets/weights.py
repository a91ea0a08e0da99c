"""Weights on disk: safetensors, never pickle. Needs no torch, so that an export can do without it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from hwnas.arrays import Float32s
from hwnas.errors import DataFormatError, InputError
from hwnas.store import atomic_path


def save_weights(path: Path, weights: Mapping[str, Float32s]) -> None:
    """Write arrays by state-dict name, atomically."""
    with atomic_path(path) as temporary:
        save_file(dict(weights), temporary)


def read_weights(path: Path) -> dict[str, Float32s]:
    """Read a safetensors file.

    Raises:
        InputError: where there is no such file.
        DataFormatError: where it is damaged, or holds values that are not numbers.
    """
    if not path.is_file():
        raise InputError(f"weights {path} do not exist")
    try:
        found: dict[str, NDArray[Any]] = load_file(path)
    except (SafetensorError, ValueError, TypeError, KeyError, OSError) as exc:
        raise DataFormatError(f"weights {path} are damaged: {exc}") from exc
    for name, value in found.items():
        if value.dtype.kind != "f":
            raise DataFormatError(f"weights {path} are damaged: {name} holds {value.dtype}, expected float32")
        wrong = int(value.size - np.isfinite(value).sum())
        if wrong:
            raise DataFormatError(
                f"weights {path} are damaged: {wrong} of {value.size} values of {name} are NaN or infinite; "
                "train the network again"
            )
    return {name: value.astype(np.float32, copy=False) for name, value in found.items()}
