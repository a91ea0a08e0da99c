"""The scale of pixels that the weights of a run were trained on, as the run recorded it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwnas.deploy.manifest import LEAST_STD
from hwnas.documents import read_json
from hwnas.errors import DataFormatError
from hwnas.jobs.resolve.origin import run_of

if TYPE_CHECKING:
    from hwnas.train.normalisation import PixelScale


def recorded(network: Path, channels: int) -> PixelScale | None:
    """Mean and spread, by channel, that images were normalised by when a run trained its weights.

    Args:
        network: file of a network.
        channels: of its images.

    Returns:
        them; None where the file is of no run, or of one that has trained nothing.

    Raises:
        DataFormatError: what the run says cannot be.
    """
    run = run_of(network.parent)
    result = None if run is None else run / "result.json"
    if result is None or not result.is_file():
        return None
    body = read_json(result, "result")
    if "mean" not in body and "std" not in body:
        return None
    mean, std = (_numbers(body.get(name), channels) for name in ("mean", "std"))
    if mean is None or std is None or min(mean) < 0 or max(mean) > 1 or min(std) < LEAST_STD:
        raise DataFormatError(
            f"{result}: mean {body.get('mean')} and std {body.get('std')} normalise no images of {channels} "
            f"channels in [0, 1]; expected {channels} numbers each, means from 0 to 1, spreads above 0; the "
            "file was damaged, so train again, or take it from a copy"
        )
    return mean, std


def _numbers(value: Any, count: int) -> tuple[float, ...] | None:
    """So many finite numbers of a file; None for anything else."""
    if not isinstance(value, list) or len(value) != count:
        return None
    right = all(isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v) for v in value)
    return tuple(map(float, value)) if right else None
