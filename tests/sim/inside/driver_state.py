"""What the simulated driver has counted (fakecuda_stats in tests/sim/native/fakecuda.c)."""

import ctypes

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
