"""A clock that shares nothing with the statistics of hwnas: the 2 % quantile of calls over a minute.

Sessions stay loaded, a few calls of each are made in turn and in random order, and what counts is a low
quantile of all calls of one engine: spells of 10 to 30 seconds end within the minute and leave it alone. No
floor of sessions, no gate, no sentinel, no reference.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

import numpy as np

from hwnas.protocols import Backend, Engine
from hwnas.records import Setting

LOW = 0.02  # quantile of calls that counts
CALLS = 20  # of one engine before it is the next one's turn
WARM_UP = 20


def low_ms(engines: Mapping[str, Engine], seconds: float, *, seed: int = 0) -> dict[str, float]:
    """The clock's value in ms for each of several loaded engines, that share `seconds`."""
    rng, calls = np.random.default_rng(seed), {name: [np.empty(0)] for name in engines}
    names = list(engines)
    for engine in engines.values():
        engine.time(WARM_UP)
    ends_s = time.monotonic() + seconds
    first = True
    while first or time.monotonic() < ends_s:
        for at in rng.permutation(len(names)):
            calls[names[at]].append(engines[names[at]].time(CALLS).wall_ms)
        first = False
    return {name: float(np.quantile(np.concatenate(found), LOW)) for name, found in calls.items()}


@contextmanager
def loaded(backend: Backend, setting: Setting, models: Mapping[str, bytes]) -> Iterator[dict[str, Engine]]:
    """Engines of several models, loaded while the block lasts."""
    with ExitStack() as stack:
        engines: dict[str, Engine] = {}
        for name, model in models.items():
            engines[name] = backend.build(model, setting)
            stack.callback(engines[name].close)
        yield engines
