"""What a neighbour that fills the shared cache does to networks whose weights lie there.

The sentinel computes from the first-level caches, and so do networks of a few hundred kilobytes: a
neighbour that streams memory changes their floors by less than 1 %. Weights beyond the core's own cache are
read from the shared one once a call, and what was evicted since the call before comes from memory. Beside a
process that streamed memory ResNet-56 was 6 to 7 % slower and ResNet-110 12 %, by the low quantile of all
calls, and the sentinel 0.4 % (docs/evidence/latency.md).

So a second sentinel, whose weights lie in the shared cache, is looked at now and then (`sentinel`). Two
facts decide how much of its slowdown a network shares: how many bytes it has beyond the core's own cache;
and that all of them are evicted at most once a call, so that what takes long shares less.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hwnas.arrays import Float64s

MOST_SD = 1.0
MOST = sys.float_info.max  # a file may hold an integer beyond it
# A call of so many of the second sentinel's finds everything evicted; of shorter ones, the more the longer.
ALL_EVICTED = 2.0
FIELDS = ("states_percent", "ms", "weight_bytes", "cache_bytes")


@dataclass(frozen=True)
class MemoryStates:
    """How far the second sentinel was from its best over time, and what of that a network shares.

    Attributes:
        sd: root mean square of log(state / best), see `levels.state_sd`.
        ms: the second sentinel's best level.
        weight_bytes: its weights, counted as fp32.
        cache_bytes: what a core has to itself (second level), in weights of the precision, counted as fp32.
    """

    sd: float
    ms: float
    weight_bytes: float
    cache_bytes: float

    def of(self, weight_bytes: Float64s, ms: Float64s) -> Float64s:
        """Relative standard deviation of networks from this alone.

        Args:
            weight_bytes: (networks,) of their weights, counted as fp32.
            ms: (networks,) latencies.
        """
        beyond = np.maximum(weight_bytes - self.cache_bytes, 0.0)
        share = beyond / (self.weight_bytes - self.cache_bytes)
        found: Float64s = self.sd * share * np.minimum(1.0, ALL_EVICTED * self.ms / ms)
        return np.minimum(found, MOST_SD)

    def to_json(self) -> dict[str, float]:
        """As a table's summary has it."""
        return {
            "states_percent": 100.0 * self.sd,
            "ms": self.ms,
            "weight_bytes": self.weight_bytes,
            "cache_bytes": self.cache_bytes,
        }

    @staticmethod
    def read(body: object) -> MemoryStates | None:
        """From a table's summary; None where nothing, or nothing that can be used, is told."""
        if not isinstance(body, Mapping):
            return None
        told: list[Any] = [body.get(name) for name in FIELDS]
        values = [float(one) for one in told if type(one) in (int, float) and 0 <= one <= MOST]
        if len(values) < len(FIELDS):
            return None
        found = MemoryStates(min(values[0] / 100.0, MOST_SD), *values[1:])
        return found if found.ms > 0 and found.weight_bytes > found.cache_bytes else None
