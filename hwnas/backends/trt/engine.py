"""A TensorRT engine on the GPU: run, time by CUDA events, look inside."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from hwnas.arrays import Float32s, Uint8s
from hwnas.backends.base import Life, random_input
from hwnas.backends.cuda.driver import CudaDriver, GpuError, GpuOutOfMemory, Owned
from hwnas.backends.cuda.kernels import Kernels, Preprocessor
from hwnas.backends.cuda.state import gpu_judge
from hwnas.backends.trt import compat
from hwnas.errors import BuildError, InputError
from hwnas.protocols import CallTimes
from hwnas.records import Setting
from hwnas.store import write_bytes

QUEUE = 512  # launches that may wait on a stream before a launch blocks the host (CUDA holds 1024)
MOST_CALLS = 64  # timed behind one delay
FIRST_DELAY_NS, LONGEST_DELAY_NS = 100_000, 50_000_000
DRIFT = 1e-2  # of the largest score: sums in another order stay far below


class TrtEngine(Life):
    """One execution context with its input resident in device memory and a stream of its own."""

    def __init__(self, plan: bytes, setting: Setting, driver: CudaDriver) -> None:
        """Deserialise a plan and reserve everything that calls need.

        Raises:
            BuildError: TensorRT refused the plan, or it has other inputs and outputs than one each.
            GpuOutOfMemory: no room for it.
        """
        self.setting, self._plan, self._driver = setting, plan, driver
        self._delay_ns = FIRST_DELAY_NS
        self._cold = False
        self._prepared: tuple[Any, Owned, Preprocessor] | None = None
        with driver, ExitStack() as undo:
            self._owned = Owned(driver)
            undo.callback(self._owned.close)
            self._trt = compat.module()
            self._log = compat.logger()
            self._log.take()
            self._engine = self._deserialize(plan)
            self._context = self._new_context()
            self._bind()
            self._stream = self._owned.stream()
            self._kernels = Kernels(self._owned)
            self._events = [(self._owned.event(), self._owned.event()) for _ in range(self._most_calls())]
            self._flush_bytes = 2 * max(driver.properties.l2_bytes, 1 << 20)
            self._flush_buffer = 0
            undo.pop_all()

    def _deserialize(self, plan: bytes) -> Any:
        self._runtime = compat.construct(self._trt.Runtime, "loading a plan")
        engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise BuildError(f"TensorRT {self._trt.__version__} cannot load the plan: {self._log.take()}")
        return engine

    def _new_context(self) -> Any:
        context = self._engine.create_execution_context()
        if context is None:
            needed = compat.device_memory_bytes(self._engine) >> 20
            raise GpuOutOfMemory(
                f"TensorRT cannot make an execution context ({needed} MiB of activations): {self._log.take()}"
            )
        # Engines carry the details of their layers for `layers`; marking each enqueue with them costs time.
        context.nvtx_verbosity = self._trt.ProfilingVerbosity.LAYER_NAMES_ONLY
        return context

    def _bind(self) -> None:
        """Find input and output, fix the full batch, allocate both."""
        mode = self._trt.TensorIOMode
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        inputs = [n for n in names if self._engine.get_tensor_mode(n) == mode.INPUT]
        outputs = [n for n in names if self._engine.get_tensor_mode(n) == mode.OUTPUT]
        # Not trt.nptype: in 8.6 it names np.bool, which numpy lacked from 1.24 to 1.26.
        types = {n: self._engine.get_tensor_dtype(n) for n in names}
        float32 = self._trt.DataType.FLOAT
        if (len(inputs), len(outputs)) != (1, 1) or any(t != float32 for t in types.values()):
            raise BuildError(f"expected one float32 input and one float32 output, found {types}")
        self._input, self._output = inputs[0], outputs[0]
        declared = tuple(self._engine.get_tensor_shape(self._input))
        self.shape = (0 if declared[0] == -1 else declared[0], *declared[1:])
        full = (self.setting.batch, *declared[1:])
        self._full_shape = full
        self._set_batch(self._context, self.setting.batch)
        answer = tuple(self._context.get_tensor_shape(self._output))
        if -1 in answer:
            raise BuildError(f"the output shape {answer} is still dynamic although the input is {full}")
        self._scores_shape = answer
        self._images = self._owned.alloc(4 * int(np.prod(full)))
        self._scores = self._owned.alloc(4 * int(np.prod(answer)))
        self._expected = self._owned.alloc(4 * int(np.prod(answer)))
        self._attach(self._context)

    def _set_batch(self, context: Any, batch: int) -> None:
        shape = (batch, *self._full_shape[1:])
        if not context.set_input_shape(self._input, shape):
            raise BuildError(f"TensorRT refused the input shape {shape}: {self._log.take()}")
        self._batch = batch

    def _attach(self, context: Any, scores: int | None = None) -> None:
        """Tell a context where its input lies and where its output goes."""
        for name, address in ((self._input, self._images), (self._output, scores or self._scores)):
            if not context.set_tensor_address(name, address):
                raise BuildError(f"TensorRT refused the address of {name}: {self._log.take()}")

    def _enqueue(self, context: Any) -> None:
        if not context.execute_async_v3(self._stream):
            raise GpuError(f"TensorRT could not run the engine: {self._log.take()}")

    def run(self, images: Float32s) -> Float32s:
        """Scores of `images` (batch, channels, height, width); an open batch takes fewer than full."""
        array = self._check_images(images)
        if len(array) > self.setting.batch:
            raise InputError(f"{len(array)} images; this engine was built for at most {self.setting.batch}")
        scores = np.empty((len(array), *self._scores_shape[1:]), np.float32)
        with self._driver:
            if len(array) != self._batch:
                self._set_batch(self._context, len(array))
            self._driver.upload(self._images, array, self._stream)
            self._enqueue(self._context)
            self._driver.download(scores, self._scores, self._stream)
            self._driver.synchronize(self._stream)
        return scores

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
        if len(images) != self.setting.batch:
            raise InputError(f"{len(images)} images; this engine takes {self.setting.batch} at a time")
        images = np.ascontiguousarray(images)
        scores = np.empty(self._scores_shape, np.float32)
        with self._driver:
            prepare = self._preprocessor(images.shape, mean, std, swap_channels)
            self._set_batch(self._context, self.setting.batch)
            prepare(images, self._images, self._stream)
            self._enqueue(self._context)
            self._driver.download(scores, self._scores, self._stream)
            self._driver.synchronize(self._stream)
        return scores

    def _preprocessor(
        self, shape: tuple[int, ...], mean: Float32s, std: Float32s, swap: bool
    ) -> Preprocessor:
        """The preprocessor of the last call, or one for another shape of images in its place."""
        key = (shape, mean.tobytes(), std.tobytes(), swap)
        if self._prepared is None or self._prepared[0] != key:
            self._release_preprocessor()
            size = (self._full_shape[2], self._full_shape[3])
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

    def flush(self) -> None:
        """Time the next calls with the L2 cache emptied before each."""
        self._cold = True

    def time(self, calls: int) -> CallTimes:
        """Device time of single calls on resident input, launch gaps excluded.

        Calls are queued behind a kernel that keeps the stream busy, so that the GPU never waits for
        the host; a batch in which it did is thrown away and repeated behind a longer delay.

        Raises:
            GpuError: a call failed, or the timed calls gave different scores than the first call one.
        """
        self._check_calls(calls)
        cold, self._cold = self._cold, False
        times: list[float] = []
        with self._driver:
            scale = self._make_resident()
            if cold and not self._flush_buffer:
                self._flush_buffer = self._owned.alloc(self._flush_bytes)
            most = len(self._events)
            while len(times) < calls:
                count = min(most, calls - len(times))
                done = self._timed(count, cold)
                if done is None and count > 1 and self._delay_ns >= LONGEST_DELAY_NS:
                    most = max(1, count // 2)  # the host needs longer than any delay for so many
                times += done or ()
            self._check_scores(scale)
        return CallTimes(np.array(times))

    def _make_resident(self) -> float:
        """Upload the input, run once, keep the scores on the device; gives the largest of them."""
        if self._batch != self.setting.batch:
            self._set_batch(self._context, self.setting.batch)
        expected, images = np.empty(self._scores_shape, np.float32), random_input(self._full_shape)
        self._driver.upload(self._images, images, self._stream)  # `images` must outlive the copy
        self._attach(self._context, self._expected)
        self._enqueue(self._context)
        self._driver.download(expected, self._expected, self._stream)
        self._driver.synchronize(self._stream)
        self._attach(self._context)
        return float(np.max(np.abs(expected)))

    def _check_scores(self, scale: float) -> None:
        """Compare on the device what the last timed call gave with the first, untimed one.

        Fast because wrong is no speed: an unstable GPU, or work that overtook its input, shows here.
        """
        if not np.isfinite(scale):
            return  # random weights overflowed: nothing to compare
        count = int(np.prod(self._scores_shape))
        off = self._kernels.max_abs_diff(self._scores, self._expected, count, self._stream)
        if not off <= DRIFT * max(scale, 1e-6):  # a NaN is no drift either
            raise GpuError(
                f"the timed calls gave different scores than the first call (off by {off:.3g}, scores reach "
                f"{scale:.3g}): the GPU does not compute reliably"
            )

    def _timed(self, count: int, cold: bool) -> list[float] | None:
        """Milliseconds of `count` calls; None, and a longer delay next time, where the GPU had to wait."""
        driver, stream, events = self._driver, self._stream, self._events[:count]
        self._kernels.delay(self._delay_ns, stream)
        for start, end in events:
            if cold:
                self._kernels.flush_l2(self._flush_buffer, self._flush_bytes, stream)
            driver.record(start, stream)
            self._enqueue(self._context)
            driver.record(end, stream)
        waited = driver.happened(events[0][0])
        driver.synchronize(stream)
        if waited and (count > 1 or self._delay_ns < LONGEST_DELAY_NS):
            self._delay_ns = min(2 * self._delay_ns, LONGEST_DELAY_NS)
            return None
        return [driver.elapsed_ms(start, end) for start, end in events]

    def _most_calls(self) -> int:
        return int(np.clip(QUEUE // max(1, self._engine.num_layers), 1, MOST_CALLS))

    def watch(self) -> tuple[str, ...]:
        """Names of what made the last timings doubtful: throttling, a slow clock, other processes."""
        judge = gpu_judge(self._driver.properties.bus_id)
        return () if judge is None else judge.gates()

    def layer_ms(self, calls: int = 20) -> dict[str, float]:
        """Mean time of each layer, from TensorRT's profiler.

        For a report, not for prediction: profiled layers run one by one and add up to 2 to 34 % more
        than the engine takes.
        """
        self._check_calls(calls)
        totals: dict[str, float] = {}
        with self._driver:
            context = self._new_context()
            self._set_batch(context, self.setting.batch)
            self._attach(context)
            context.profiler = profiler = compat.profiler(totals)
            for _ in range(calls):
                self._enqueue(context)
                self._driver.synchronize(self._stream)
            del context, profiler  # the context first: it holds the profiler without counting
        return {name: total / calls for name, total in totals.items()}

    def layers(self) -> tuple[compat.Layer, ...]:
        """The layers of the engine as its inspector tells them."""
        self._check_open()
        inspector = self._engine.create_engine_inspector()
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
            self._context = None
            self._engine = None
            self._runtime = None
        self._owned.close()
