"""The engines that are looked at in between, and show the state that the machine is in.

Clocks wander by some percent within a minute, for everything alike: on the virtual machine of
docs/measuring.md floors of five networks moved by up to 6 % in 100 s, and by 0.3 to 0.8 % once
divided by the sentinel's. So it computes from the first-level caches, with little memory traffic:
what a neighbour does to the shared cache hits large networks only. The choice of the faster sessions cures
some of that; how much is left is seen by a second sentinel, whose weights lie there (`memory`).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hwnas import backends
from hwnas.errors import BuildError
from hwnas.measure.levels import SentinelHistory
from hwnas.measure.memory import MemoryStates
from hwnas.nets import onnx
from hwnas.nets.count import BYTES, count_block
from hwnas.protocols import Backend, Engine
from hwnas.records import Precision, Setting
from hwnas.spec import BlockSpec

BLOCK = BlockSpec(kind="basic", c_in=32, c_out=32, size_in=16)
DEPTH = 3

# The second sentinel: 10.6 MB of weights in fp32, and at least twice what a core has to itself.
IN_MEMORY, IN_MEMORY_DEPTH = BlockSpec(kind="basic", c_in=64, c_out=64, size_in=8), 36
MOST_CACHE_BYTES = 64 << 20  # of one core; more is no processor's, but a damaged file's
MEMORY_PRIOR_SD = 0.1  # of its states, where it was hardly seen (2 to 17 % where it was)
# Of a weight in each precision.
WEIGHT_BYTES: Mapping[Precision, int] = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}


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


@dataclass(frozen=True)
class MemorySentinel:
    """Builds the second sentinel, and knows what it took here before.

    Attributes:
        build: builds it.
        history: its looks.
        cache_bytes: what a core has to itself, in weights of the precision, counted as fp32.
        weight_bytes: its weights, counted as fp32.
    """

    build: Callable[[], Engine]
    history: SentinelHistory
    cache_bytes: float
    weight_bytes: float

    def states(self) -> MemoryStates | None:
        """What is known of the device by now; None before it was seen often enough for a best level."""
        body = {
            "states_percent": 100.0 * self.history.state_sd(MEMORY_PRIOR_SD),
            "ms": self.history.best_ms(),
            "weight_bytes": self.weight_bytes,
            "cache_bytes": self.cache_bytes,
        }
        return MemoryStates.read(body)


def memory_sentinel(backend: Backend, setting: Setting, caches_bytes: object) -> MemorySentinel | None:
    """The second sentinel of this machine's processor; None for other devices, or where it does not build.

    Args:
        backend: the runtime.
        setting: the conditions.
        caches_bytes: of the device by level, as `measure.host.DeviceInfo` has them.
    """
    own = caches_bytes.get("L2", 0) if isinstance(caches_bytes, Mapping) else None
    if not isinstance(own, (int, float)) or isinstance(own, bool) or not 0 <= own <= MOST_CACHE_BYTES:
        return None
    if setting.device != "cpu" or backends.is_own(setting.device):
        return None
    cache_bytes = own * BYTES / WEIGHT_BYTES[setting.precision]
    block_bytes = count_block(IN_MEMORY).weight_bytes
    depth = max(IN_MEMORY_DEPTH, math.ceil(2.0 * cache_bytes / block_bytes))
    model = onnx.chain([IN_MEMORY] * depth, batch=1, seed=0)
    at_one = setting.model_copy(update={"batch": 1})

    def build() -> Engine:
        return backend.build(model, at_one)

    try:
        build().close()
    except BuildError:
        return None
    history = SentinelHistory(hashlib.sha256(model).hexdigest(), at_one)
    return MemorySentinel(build, history, cache_bytes, float(depth * block_bytes))


def _graph(setting: Setting) -> bytes:
    return onnx.chain([BLOCK] * DEPTH, batch=setting.batch, seed=0)
