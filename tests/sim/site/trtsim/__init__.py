"""Simulated libnvinfer under TensorRT's real Python bindings; see docs/gpu.md.

The bindings check every name, arity and type with their own pybind11 code. `probe` finds out, by
calling each method once, which virtual slot it ends in; `behaviour` answers at those slots, with
ONNX Runtime on the CPU for the arithmetic. What it cannot show: which operators TensorRT's parser
knows, numerics, timing, memory, races.

Environment: TRTSIM_LIBRARY (the compiled trtsim.c), TRTSIM_BINDINGS (folder of the unpacked wheel),
TRTSIM_FAULT (comma-separated names of calls that are to fail, read at every call).
"""

import ctypes
import importlib
import os
import sys
import time

_simulation = None


def live_in_simulated_time():
    """The host's clock, for all of this process, is that on which waiting for the device is skipped."""
    now_s = ctypes.CDLL("libcuda.so.1").fakecuda_now_s
    now_s.restype = ctypes.c_double
    time.perf_counter = now_s
    time.perf_counter_ns = lambda: int(now_s() * 1e9)


def start():
    """Load stub and bindings, once; gives the `Simulation`."""
    global _simulation
    if _simulation is None:
        from trtsim.behaviour import Simulation
        from trtsim.library import Library
        from trtsim.probe import find_slots

        library = Library(os.environ["TRTSIM_LIBRARY"])
        sys.path.insert(0, os.environ["TRTSIM_BINDINGS"])
        bindings = importlib.import_module("tensorrt_bindings")
        slots = find_slots(library, bindings)
        _simulation = Simulation(library, bindings, slots)
        live_in_simulated_time()
    return _simulation
