"""Graphs that are timed: made when they are first asked for, built again for every session."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from hwnas.protocols import Backend, Engine
from hwnas.records import Setting

# Engines that take longer to build than this are built once and loaded for later sessions.
SLOW_BUILD_S = 0.1


class TimedGraph:
    """One graph, as `timing.measure` wants it: called, it gives a fresh engine.

    Compilers take a quarter of a second (OpenVINO) to minutes (TensorRT), many times a session.
    What they built is then saved, and later sessions load the very same engine.

    Attributes:
        make: writes the ONNX graph; called once, when the first engine is asked for.
        backend, setting: what builds it, and for which conditions.
        graph, engine: files of this graph alone, in a folder that goes with the measurement.
    """

    def __init__(self, make: Callable[[], bytes], backend: Backend, setting: Setting, path: Path) -> None:
        self.make, self.backend, self.setting = make, backend, setting
        self.graph, self.engine = path.with_suffix(".onnx"), path.with_suffix(backend.suffix)

    def __call__(self) -> Engine:
        """The engine, fresh."""
        if self.engine != self.graph and self.engine.exists():
            return self.backend.load(self.engine, self.setting)
        if not self.graph.exists():
            self.graph.write_bytes(self.make())
        model = self.graph.read_bytes()
        begun = time.perf_counter()
        engine = self.backend.build(model, self.setting)
        if self.engine != self.graph and time.perf_counter() - begun > SLOW_BUILD_S:
            engine.save(self.engine)
        return engine
