"""hwnas: the most accurate convolutional network that keeps a latency budget on your device.

The verbs of the command line are functions of `hwnas.jobs` (``hwnas.jobs.search.search``, ...), each
taking one frozen dataclass of options; the names below are imported on first use, so that
``import hwnas`` loads neither torch nor a runtime.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# name -> module that holds it. `__getattr__` imports on use.
_LAZY = {
    "BlockSpec": "hwnas.spec",
    "NetworkSpec": "hwnas.spec",
    "Budget": "hwnas.estimates",
    "Estimate": "hwnas.estimates",
    "Measurement": "hwnas.records",
    "Session": "hwnas.deploy.session",
    "Setting": "hwnas.records",
    "HwnasError": "hwnas.errors",
    "load_model": "hwnas.nets.model.result",
}

__all__ = ["__version__", *_LAZY]


def __getattr__(name: str) -> Any:
    """Import a public name on first use (PEP 562)."""
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'hwnas' has no attribute {name!r}")
