"""hwnas: the most accurate convolutional network that keeps a latency budget on your device.

The verbs of the command line are functions of `hwnas.jobs` (``hwnas.jobs.search.search``, ...), each
taking one frozen dataclass of options; the names below are imported on first use, so that
``import hwnas`` loads neither torch nor a runtime.
"""

import os
from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# Read once, when torch brings libgomp. How long a thread that waits for the others keeps its core busy: by
# default milliseconds, so that where another program has a core, trainings on all cores mostly wait
# (docs/evidence/training.md). A few microseconds give away nothing on an idle machine.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

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
