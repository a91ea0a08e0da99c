"""The engine that is looked at in between, and shows the state that the machine is in.

Clocks wander by some percent within a minute, for everything alike: on the virtual machine of
docs/measuring.md floors of five networks moved by up to 6 % in 100 s, and by 0.3 to 0.8 % once
divided by the sentinel's. So it computes from the first-level caches, with little memory traffic:
what a neighbour does to the shared cache hits large networks only, and is for the choice of the
faster sessions to cure.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from hwnas import backends
from hwnas.errors import BuildError
from hwnas.measure.levels import SentinelHistory
from hwnas.nets import onnx
from hwnas.protocols import Backend, Engine
from hwnas.records import Setting
from hwnas.spec import BlockSpec

BLOCK = BlockSpec(kind="basic", c_in=32, c_out=32, size_in=16)
DEPTH = 3


def sentinel(backend: Backend, setting: Setting) -> Callable[[], Engine]:
    """A function that builds it: three residual blocks of 32 channels at 16x16, the same everywhere."""
    model = _graph(setting)
    return lambda: backend.build(model, setting)


def identity(setting: Setting) -> dict[str, Any]:
    """What a table's header says of it: tables of another one cannot be referred to one state."""
    return {
        "blocks": [BLOCK.key] * DEPTH,
        "onnx_sha256": hashlib.sha256(_graph(setting)).hexdigest(),
    }


def levels(setting: Setting) -> SentinelHistory | None:
    """What the sentinel took on this device before; None for a device that is part of a backend, whose clock
    may be its own.
    """
    if backends.is_own(setting.device):
        return None
    return SentinelHistory(identity(setting)["onnx_sha256"], setting)


def watched(backend: Backend, setting: Setting) -> tuple[Callable[[], Engine] | None, SentinelHistory | None]:
    """The sentinel and its levels; None and None where the runtime cannot build it."""
    build = sentinel(backend, setting)
    try:
        build().close()
    except BuildError:
        return None, None
    return build, levels(setting)


def _graph(setting: Setting) -> bytes:
    return onnx.chain([BLOCK] * DEPTH, batch=setting.batch, seed=0)
