"""What a program needs that runs an exported engine: ``from hwnas.runtime import Session``.

A root file imports no room, so the class is fetched on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any


def __getattr__(name: str) -> Any:
    """Import `Session` on first use (PEP 562)."""
    if name == "Session":
        return import_module("hwnas.deploy.session").Session
    raise AttributeError(f"module 'hwnas.runtime' has no attribute {name!r}")
