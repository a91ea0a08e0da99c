"""How engines of one network compare, in seconds: short visits in turn, each compared with those beside it.

To choose, times are not needed, only their ratios. A busy machine makes everything slower for a while, often
by more than the engines differ; but all that is visited within one turn, some tens of milliseconds, finds it
in about the same state. So each turn gives a ratio, and the median over the turns counts: it needs no quiet
moment of any one engine, as the lowest of few sessions would.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from hwnas.protocols import Engine

TURNS = 25
VISIT_MS = 4.0
LEAST_CALLS, MOST_CALLS = 2, 200  # of a visit, after one that loads the caches again


@dataclass(frozen=True)
class Turn:
    """An engine among others.

    Attributes:
        relative: its time over that of the fastest of them, by the medians of the turns.
        low_ms: the least that a call took.
    """

    relative: float
    low_ms: float


def in_turn(
    builders: Mapping[str, Callable[[], Engine]], *, rng: np.random.Generator, turns: int = TURNS
) -> dict[str, Turn]:
    """Compare engines, which are all open at once.

    Args:
        builders: name to what builds or loads an engine.
        rng: for the order within each turn.
        turns: how often each is visited.
    """
    engines = {name: build() for name, build in builders.items()}
    try:
        calls = {name: _calls(engine) for name, engine in engines.items()}
        names = list(engines)
        visits = np.empty((turns, len(names)))
        for turn in visits:
            for at in rng.permutation(len(names)):
                engine = engines[names[at]]
                engine.time(1)  # its caches are another's
                turn[at] = np.median(engine.time(calls[names[at]]).wall_ms)
    finally:
        for engine in engines.values():
            engine.close()
    logs = np.log(visits)
    middle = np.median(logs - logs.mean(axis=1, keepdims=True), axis=0)
    ratios = np.exp(middle - middle.min())
    return {
        name: Turn(float(ratio), float(low))
        for name, ratio, low in zip(names, ratios, visits.min(axis=0), strict=True)
    }


def _calls(engine: Engine) -> int:
    """Calls that a visit has, each of them a value of the engine's clock."""
    took_ms = float(engine.time(3).wall_ms.min())
    return int(np.clip(VISIT_MS / took_ms, LEAST_CALLS, MOST_CALLS))
