"""What the simulated driver has counted (fakecuda_stats in tests/sim/native/fakecuda.c)."""

import ctypes
import functools

from hwnas.backends.cuda.by_pycuda import PyCudaDriver

FIELDS = (
    *("allocations", "frees", "streams", "streams_freed", "events", "events_freed"),
    *("modules", "modules_freed", "launches", "live_bytes", "peak_bytes"),
    *("contexts_pushed", "default_stream_uses", "red_zone_hits", "graphs", "graphs_freed", "blocking"),
)


@functools.cache
def by_pycuda() -> PyCudaDriver:
    """One driver object a process, as `open_driver` keeps it: PyCUDA's context outlives no object of it."""
    return PyCudaDriver(0)


def driver_counts() -> dict[str, int]:
    """What the simulated driver has counted so far."""
    counts = (ctypes.c_long * len(FIELDS))()
    ctypes.CDLL("libcuda.so.1").fakecuda_stats(counts)
    return dict(zip(FIELDS, counts))
