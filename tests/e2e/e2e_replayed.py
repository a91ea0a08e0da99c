"""The fake device in the states of a trace: its prices, slowed as the trace's engine was at that moment.

Time stands in the trace. Calls move it on, and so does waiting; looks at the sentinel are kept under it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hwnas.arrays import Float64s
from hwnas.backends.fake import Fake, FakeClock, FakeEngine
from hwnas.measure import sentinel
from hwnas.measure.levels import SentinelHistory
from hwnas.measure.patience import Patience
from hwnas.measure.trace import Trace

BORN_S = 1.7e9  # unix seconds at the beginning of a trace


def trace_of(slower: Callable[[Float64s], Float64s], seconds: float, call_ms: float = 10.0) -> Trace:
    """A trace of one engine, called all the time, that is slowed by a factor of the moment."""
    start_s = np.arange(0.0, seconds, call_ms / 1e3)
    wall_ms = call_ms * slower(start_s)
    return Trace(("guard",), "made", np.zeros(len(start_s), np.int64), start_s, wall_ms, wall_ms.copy())


@dataclass
class Replayed:
    """A device that plays a trace back; `trace` may be changed, and `clock.now_s` be set."""

    trace: Trace
    clock: FakeClock

    def slowdown(self, at_s: Float64s) -> Float64s:
        """How many times its least the trace's engine took at these moments."""
        start_s, wall_ms, _ = self.trace.of(self.trace.names[0])
        at = np.clip(np.searchsorted(start_s, at_s, side="right") - 1, 0, len(wall_ms) - 1)
        found: Float64s = wall_ms[at] / wall_ms.min()
        return found


def replayed(trace: Trace, patch: pytest.MonkeyPatch) -> Replayed:
    """Make every fake device of this process play a trace, with one clock and a past."""
    device = Replayed(trace, FakeClock())
    made, patient, past = Fake.__init__, Patience.__init__, SentinelHistory.__init__

    def make(self: Fake, *args: Any, **given: Any) -> None:
        made(self, *args, **given)
        self.clock = device.clock

    def wait(seconds: float) -> None:
        device.clock.now_s += seconds

    def patience(self: Patience, seconds: float, **given: Any) -> None:
        patient(self, seconds, **{**given, "clock": device.clock, "sleep": wait})

    def history(self: SentinelHistory, *args: Any, **given: Any) -> None:
        assert given.get("now", time.time) is time.time
        past(self, *args, **{**given, "now": lambda: BORN_S + device.clock.now_s})

    patch.setattr(Fake, "__init__", make)
    patch.setattr(FakeEngine, "_speed", lambda self, at_s: device.slowdown(at_s))
    patch.setattr(Patience, "__init__", patience)
    patch.setattr(SentinelHistory, "__init__", history)
    # A device that is part of a backend has no past, because its clock may be its own; here it is this one.
    patch.setattr(sentinel, "backends", SimpleNamespace(is_own=lambda device: False))
    return device
