"""Tests that run on a simulated machine; after each, everything taken must have been given back."""

import gc
import os
from collections.abc import Iterator
from typing import Any

import pytest
from driver_state import FIELDS, driver_counts

from hwnas.backends.trt import compat

collect_ignore_glob = ["*"] if "HWNAS_SIM_MACHINE" not in os.environ else []


@pytest.fixture
def simulation() -> Any:
    """The simulated TensorRT of this process, loaded as hwnas loads the real one."""
    compat.module()
    from trtsim import start

    return start()


@pytest.fixture(autouse=True)
def everything_is_given_back(simulation: Any) -> Iterator[None]:
    """Allocations equal frees and so on, and nothing was done that a real library would not survive."""
    before = driver_counts()
    yield
    gc.collect()
    after = driver_counts()
    change = {name: after[name] - before[name] for name in FIELDS}
    for taken, given in (
        ("allocations", "frees"),
        ("streams", "streams_freed"),
        ("events", "events_freed"),
        ("modules", "modules_freed"),
        ("graphs", "graphs_freed"),
    ):
        assert change[taken] == change[given], f"{change[taken]} {taken}, {change[given]} {given}"
    assert after["live_bytes"] == before["live_bytes"]
    assert after["contexts_pushed"] == 0, "a context was left current"
    assert change["default_stream_uses"] == 0, "the default stream was used"
    assert change["red_zone_hits"] == 0, "a kernel wrote outside its memory"
    assert change["blocking"] == 0, "a stream that waits for the legacy one was made"
    assert simulation.unknown == []
    assert simulation.problems == []
    assert simulation.alive("ICudaEngine", "IExecutionContext") == 0
