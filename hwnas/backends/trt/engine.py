"""A TensorRT engine on the GPU: run, time, look inside.

What calls need is in `ways`, how they are timed in `timer`: in the mode in which `run` runs them.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from hwnas.arrays import Float32s, Uint8s
from hwnas.backends.base import Life
from hwnas.backends.cuda.driver import CudaDriver, Owned
from hwnas.backends.cuda.kernels import Kernels, Preprocessor
from hwnas.backends.cuda.nvtx import marked
from hwnas.backends.trt import compat
from hwnas.backends.trt.streams import in_streams
from hwnas.backends.trt.timer import Timer
from hwnas.backends.trt.ways import Ways
from hwnas.errors import BuildError, InputError
from hwnas.protocols import CallTimes, StreamTimes
from hwnas.records import Setting
from hwnas.store import write_bytes


class TrtEngine(Life):
    """One execution context with its input resident in device memory and a stream of its own."""

    warms = True

    def __init__(
        self, plan: bytes, setting: Setting, driver: CudaDriver, float_layers: tuple[str, ...] = ()
    ) -> None:
        """Deserialise a plan and reserve everything that calls need.

        `float_layers` are the layers of an int8 engine that stayed float, for the manifest.

        Raises:
            BuildError: TensorRT refused the plan, or it has other inputs and outputs than one each.
            GpuOutOfMemory: no room for it.
        """
        self.setting, self._plan, self._driver = setting, plan, driver
        self.float_layers = float_layers
        self._cold = False
        self._prepared: tuple[Any, Owned, Preprocessor] | None = None
        with driver, ExitStack() as undo:
            self._owned = Owned(driver)
            undo.callback(self._owned.close)
            self._trt, self._log = compat.module(), compat.logger()
            self._log.take()
            self._ways = Ways(self._deserialize(plan), setting, driver, self._owned)
            self.shape = self._ways.shape
            self._kernels = Kernels(self._owned)
            self._timer = Timer(self._ways, driver, self._owned, self._kernels)
            undo.pop_all()

    def _deserialize(self, plan: bytes) -> Any:
        self._runtime = compat.open_runtime(self._trt, self.setting.choices)
        engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise BuildError(f"TensorRT {self._trt.__version__} cannot load the plan: {self._log.take()}")
        return engine

    def run(self, images: Float32s) -> Float32s:
        """Scores of `images` (batch, channels, height, width); an open batch takes fewer than full."""
        array = self._check_images(images)
        if len(array) > self.setting.batch:
            raise InputError(f"{len(array)} images; this engine was built for at most {self.setting.batch}")
        given = array.astype(self._ways.takes, copy=False)  # must live until the stream is done with it
        scores = np.empty((len(array), *self._ways.scores_shape[1:]), self._ways.gives)
        with marked("run"), self._driver:
            way = self._ways.of(len(array))
            self._timer.resident = False
            self._driver.upload(way.images, given, way.stream)
            self._ways.call(way)
            self._driver.download(scores, way.scores, way.stream)
            self._driver.synchronize(way.stream)
        return scores.astype(np.float32, copy=False)

    def run_bytes(
        self, images: Uint8s, mean: Float32s, std: Float32s, *, swap_channels: bool = False
    ) -> Float32s:
        """Scores of `images` (batch, H, W, C), uint8, prepared on the GPU as `images.prepare` does it.

        A quarter of the bytes travel to the GPU, and resizing and normalising cost one launch.

        Args:
            images: as many as the engine's batch, of any one size.
            mean, std: (C,) of images in [0, 1].
            swap_channels: the channels come in reverse order.
        """
        self._check_open()
        if self._ways.takes != np.float32 or self._ways.gives != np.float32:
            raise InputError("this engine is a part of a network, which takes no images")
        if len(images) not in self._ways.sizes:
            taken = " or ".join(map(str, self._ways.sizes))
            raise InputError(f"{len(images)} images; this engine takes {taken} at a time")
        images = np.ascontiguousarray(images)
        scores = np.empty((len(images), *self._ways.scores_shape[1:]), np.float32)
        with marked("run_bytes"), self._driver:
            prepare = self._preprocessor(images.shape, mean, std, swap_channels)
            way = self._ways.of(len(images))
            self._timer.resident = False
            prepare(images, way.images, way.stream)
            self._ways.call(way)
            self._driver.download(scores, way.scores, way.stream)
            self._driver.synchronize(way.stream)
        return scores

    def _preprocessor(
        self, shape: tuple[int, ...], mean: Float32s, std: Float32s, swap: bool
    ) -> Preprocessor:
        """The preprocessor of the last call, or one for another shape of images in its place."""
        key = (shape, mean.tobytes(), std.tobytes(), swap)
        if self._prepared is None or self._prepared[0] != key:
            self._release_preprocessor()
            size = (self._ways.full_shape[2], self._ways.full_shape[3])
            owned = Owned(self._driver)
            try:
                made = Preprocessor(owned, self._kernels, shape, size, mean, std, swap_channels=swap)
            except BaseException:
                owned.close()
                raise
            self._prepared = key, owned, made
        return self._prepared[2]

    def _release_preprocessor(self) -> None:
        if self._prepared is not None:
            self._prepared[1].close()
            self._prepared = None

    @property
    def graphs(self) -> bool:
        """Whether a call is one CUDA graph; known once the engine ran."""
        return self._ways.full.graph is not None

    def flush(self) -> None:
        """Time the next calls with the L2 cache emptied before each."""
        self._cold = True

    def time(self, calls: int) -> CallTimes:
        """Device time of calls on resident input, in the mode of `run`; `Timer.time` says how.

        Raises:
            GpuError: a call failed, or the timed calls gave different scores than the first call one.
        """
        self._check_calls(calls)
        cold, self._cold = self._cold, False
        with marked("time"), self._driver:
            return self._timer.time(calls, cold=cold)

    def watch(self) -> tuple[str, ...]:
        """Names of what made the last timings doubtful; `Timer.watch` says what it may be."""
        return self._timer.watch()

    def layer_ms(self, calls: int = 20) -> dict[str, float]:
        """Mean time of each layer, from TensorRT's profiler.

        For a report, not for prediction: profiled layers run one by one and add up to 2 to 34 % more
        than the engine takes.
        """
        self._check_calls(calls)
        totals: dict[str, float] = {}
        with self._driver:
            full = self._ways.full
            way = self._ways.beside(full.images, full.scores, full.stream)
            way.context.profiler = profiler = compat.profiler(totals)
            for _ in range(calls):
                self._ways.start(way)
                self._driver.synchronize(full.stream)
            way.context = None  # the context first: it holds the profiler without counting
            del profiler
        return {name: total / calls for name, total in totals.items()}

    def in_streams(self, streams: int, seconds: float) -> StreamTimes:
        """Keep `streams` calls in flight, each with a context and a stream of its own.

        Every stream gets bursts of calls, and the next one once it has done with the last: the others are
        at work meanwhile, as in a server that has a thread for each.

        Raises:
            InputError: not at least one stream and some time.
            GpuOutOfMemory: no room for so many contexts.
            GpuError: a stream gave other scores than the first call.
        """
        if streams < 1 or not seconds > 0:
            raise InputError(f"{streams} streams for {seconds} s: expected at least one, and some time")
        self._check_open()
        with marked("in_streams"), self._driver:
            return in_streams(self._ways, self._timer, self._driver, streams, seconds)

    def layers(self) -> tuple[compat.Layer, ...]:
        """The layers of the engine as its inspector tells them."""
        self._check_open()
        inspector = self._ways.engine.create_engine_inspector()
        form = self._trt.LayerInformationFormat.JSON
        return compat.parse_layers(inspector.get_engine_information(form))

    def save(self, path: Path) -> None:
        """Write the plan; `hwnas.deploy` puts the manifest beside it that `load` needs."""
        self._check_open()
        write_bytes(path, self._plan)

    def close(self) -> None:
        """Free context, engine and device memory."""
        if not self._open:
            return
        self._open = False
        self._release_preprocessor()
        with self._driver:
            self._ways.close()
            self._runtime = None
        self._owned.close()
