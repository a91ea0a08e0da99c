"""The engine that is looked at in between, and shows the state that the machine is in.

Clocks wander by some percent within a minute, for everything alike: on the virtual machine of
docs/measuring.md floors of five networks moved by up to 6 % in 100 s, and by 0.3 to 0.8 % once
divided by the sentinel's. So it computes from the first-level caches, with little memory traffic:
what a neighbour does to the shared cache hits large networks only, and is for the choice of the
faster sessions to cure.
"""

from __future__ import annotations

from collections.abc import Callable

from hwnas.nets import onnx
from hwnas.protocols import Backend, Engine
from hwnas.records import Setting
from hwnas.spec import BlockSpec

BLOCK = BlockSpec(kind="basic", c_in=32, c_out=32, size_in=16)
DEPTH = 3


def sentinel(backend: Backend, setting: Setting) -> Callable[[], Engine]:
    """A function that builds it: three residual blocks of 32 channels at 16x16, the same everywhere."""
    model = onnx.chain([BLOCK] * DEPTH, batch=setting.batch, seed=0)
    return lambda: backend.build(model, setting)
