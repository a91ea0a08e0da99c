"""Heavy libraries, declared where a module's imports stand and imported when first used.

``import hwnas`` and ``hwnas --help`` must not wait for torch, and a runtime that is not installed must not
stop the others. A module whose purpose is such a library imports it plainly; one that needs it for some of
its functions declares it once::

    onnx = lazy_import("onnx")

and, where a type checker knows the library::

    if TYPE_CHECKING:
        import torch
    else:
        torch = lazy_import("torch")
"""

from __future__ import annotations

from importlib import import_module
from typing import Any


class _LazyModule:
    """Stands for a module. It keeps nothing, so that the module is always the one that Python has now."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(import_module(self._name), attribute)

    def __dir__(self) -> list[str]:
        return dir(import_module(self._name))

    def __repr__(self) -> str:
        return f"lazy_import({self._name!r})"


def lazy_import(name: str) -> Any:
    """A module by its full name; ImportError comes where it is first used."""
    return _LazyModule(name)
