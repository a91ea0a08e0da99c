"""Ranges for NVIDIA's profilers (Nsight Systems), where the package ``nvtx`` is installed; else nothing."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import cache
from importlib.util import find_spec
from typing import Any

from hwnas.lazy import lazy_import

nvtx = lazy_import("nvtx")


@cache
def _installed() -> bool:
    return find_spec("nvtx") is not None


def marked(name: str) -> AbstractContextManager[Any]:
    """A range of this name around a block: a whole `run` or `time`, never a single timed call."""
    if not _installed():
        return nullcontext()
    found: AbstractContextManager[Any] = nvtx.annotate(name, domain="hwnas")
    return found
