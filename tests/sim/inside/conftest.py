"""Tests that run on a simulated machine; after each, everything taken must have been given back."""

import ctypes
import gc
import os

import pytest

collect_ignore_glob = ["*"] if "HWNAS_SIM_MACHINE" not in os.environ else []

FIELDS = (
    *("allocations", "frees", "streams", "streams_freed", "events", "events_freed"),
    *("modules", "modules_freed", "launches", "live_bytes", "peak_bytes"),
    *("contexts_pushed", "default_stream_uses", "red_zone_hits"),
)


def driver_counts() -> dict[str, int]:
    """What the simulated driver has counted so far."""
    counts = (ctypes.c_long * len(FIELDS))()
    ctypes.CDLL("libcuda.so.1").fakecuda_stats(counts)
    return dict(zip(FIELDS, counts))


@pytest.fixture
def simulation():
    """The simulated TensorRT of this process."""
    from trtsim import start

    return start()


@pytest.fixture(autouse=True)
def everything_is_given_back(simulation):
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
    ):
        assert change[taken] == change[given], f"{change[taken]} {taken}, {change[given]} {given}"
    assert after["live_bytes"] == before["live_bytes"]
    assert after["contexts_pushed"] == 0, "a context was left current"
    assert change["default_stream_uses"] == 0, "the default stream was used"
    assert change["red_zone_hits"] == 0, "a kernel wrote outside its memory"
    assert simulation.unknown == []
    assert simulation.problems == []
    assert simulation.alive("ICudaEngine", "IExecutionContext") == 0
