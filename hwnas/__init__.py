"""hwnas: the most accurate convolutional network that keeps a latency budget on your device.

The verbs of the command line are functions of `hwnas.jobs` (``hwnas.jobs.search.search``, ...), each
taking one frozen dataclass of options; the names below are imported on first use, so that
``import hwnas`` loads neither torch nor a runtime.
"""

import os
import sys
from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# How often a thread of torch that waits for the others looks whether they are done, before it sleeps. By
# default for milliseconds, so that where another program has a core, trainings on all cores mostly wait
# (docs/evidence/training.md). It is read once, when torch is imported: where that was before, or the user has
# set it, it is as it is, and `train.precision.default_threads` goes by that.
_left_open = "OMP_WAIT_POLICY" not in os.environ and "GOMP_SPINCOUNT" not in os.environ
THREADS_WAIT_LONG = _left_open and "torch" in sys.modules
if _left_open:
    os.environ["GOMP_SPINCOUNT"] = "1000"

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
