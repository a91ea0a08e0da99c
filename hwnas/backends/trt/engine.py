"""A TensorRT engine on the GPU: run, time by CUDA events, look inside.

It is timed in the mode in which `run` runs it. With CUDA graphs (cuda-python) a call is one launch, and what
is timed is the graph's replay. Without them (PyCUDA) TensorRT launches kernel by kernel: where the host needs
longer for that than the GPU for the work, a call takes what the host takes, so nothing is hidden then, and
the gate `enqueue-bound` says it. Else calls are queued behind a kernel that keeps the stream busy, so that
the GPU never waits for the host.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from hwnas.arrays import Float32s, Uint8s
from hwnas.backends.base import Life, random_input
from hwnas.backends.cuda.clock import LEAST_MS, EventClock, event_clock
from hwnas.backends.cuda.driver import CudaDriver, GpuError, GpuOutOfMemory, Owned
from hwnas.backends.cuda.kernels import Kernels, Preprocessor
from hwnas.backends.cuda.nvtx import marked
from hwnas.backends.cuda.state import gpu_judge
from hwnas.backends.trt import compat
from hwnas.errors import BuildError, InputError
from hwnas.protocols import CallTimes
from hwnas.records import Setting
from hwnas.store import write_bytes

QUEUE = 512  # launches that may wait on a stream before a launch blocks the host (CUDA holds 1024)
MOST_SPANS = 64  # timed behind one delay
FIRST_DELAY_NS, LONGEST_DELAY_NS = 100_000, 50_000_000
HOSTED = 10  # calls that are waited for one by one, to know what a program waits
ENQUEUE_BOUND = 0.8  # of the device's time, as trtexec warns
WARM_S, COOL_S = 0.2, 1.0  # a GPU that idled for the second is kept busy for the first before it is timed
LOAD_MS = 8.0  # of untimed calls, under which the GPU is asked what holds it back
DRIFT = 1e-2  # of the largest score: sums in another order stay far below


@lru_cache(maxsize=2)
def resident_input(shape: tuple[int, ...]) -> Float32s:
    """The input that is timed: making one of 32 images of 224 pixels takes longer than timing it."""
    return random_input(shape)


@dataclass
class _Timing:
    """What is prepared once an engine, and known of it since.

    Attributes:
        clock: of the GPU.
        scale: largest score of the resident input.
        call_ms: device time of a call, as far as it is known.
        host_ms, enqueue_ms: what a program waits for a call, and what starting it takes.
        bound: whether calls take what the host takes.
        most: spans behind one delay.
    """

    clock: EventClock
    scale: float
    call_ms: float = 0.0
    host_ms: float = 0.0
    enqueue_ms: float = 0.0
    bound: bool = False
    most: int = MOST_SPANS


_last_busy_s: dict[int, float] = {}  # by driver: when it was last seen at work


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
        self._delay_ns = FIRST_DELAY_NS
        self._cold = False
        self._timing: _Timing | None = None
        self._is_resident = False  # whether the input that is timed lies in device memory
        self._graph: int | None = None
        self._graphs_fail = not driver.graphs
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
            self._events = [(self._owned.event(), self._owned.event()) for _ in range(MOST_SPANS)]
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
        known: dict[Any, type[np.floating[Any]]] = {
            self._trt.DataType.FLOAT: np.float32,
            self._trt.DataType.HALF: np.float16,  # between the blocks of a network
        }
        if (len(inputs), len(outputs)) != (1, 1) or any(t not in known for t in types.values()):
            raise BuildError(f"expected one input and one output of float32 or float16, found {types}")
        self._input, self._output = inputs[0], outputs[0]
        self._takes, self._gives = (np.dtype(known[types[n]]) for n in (self._input, self._output))
        declared = tuple(self._engine.get_tensor_shape(self._input))
        self.shape = (0 if declared[0] == -1 else declared[0], *declared[1:])
        full = (self.setting.batch, *declared[1:])
        self._full_shape = full
        self._set_batch(self._context, self.setting.batch)
        answer = tuple(self._context.get_tensor_shape(self._output))
        if -1 in answer:
            raise BuildError(f"the output shape {answer} is still dynamic although the input is {full}")
        self._scores_shape = answer
        self._images = self._owned.alloc(self._takes.itemsize * int(np.prod(full)))
        self._scores = self._owned.alloc(self._gives.itemsize * int(np.prod(answer)))
        self._expected = self._owned.alloc(self._gives.itemsize * int(np.prod(answer)))
        self._attach(self._context)

    def _set_batch(self, context: Any, batch: int) -> None:
        shape = (batch, *self._full_shape[1:])
        if not context.set_input_shape(self._input, shape):
            raise BuildError(f"TensorRT refused the input shape {shape}: {self._log.take()}")
        if context is self._context:
            self._batch = batch
            self._drop_graph()

    def _attach(self, context: Any, scores: int | None = None) -> None:
        """Tell a context where its input lies and where its output goes."""
        for name, address in ((self._input, self._images), (self._output, scores or self._scores)):
            if not context.set_tensor_address(name, address):
                raise BuildError(f"TensorRT refused the address of {name}: {self._log.take()}")

    def _enqueue(self, context: Any) -> None:
        if not context.execute_async_v3(self._stream):
            raise GpuError(f"TensorRT could not run the engine: {self._log.take()}")

    def _call(self) -> None:
        """Queue one call on the engine's own context: a graph's replay where there are graphs."""
        if self._graph is None and not self._graphs_fail and self._batch == self.setting.batch:
            self._capture()
        if self._graph is not None:
            self._driver.replay(self._graph, self._stream)
        else:
            self._enqueue(self._context)

    def _capture(self) -> None:
        """Make a graph of one call; an engine that cannot be captured is launched kernel by kernel."""
        # TensorRT prepares in the first call after new shapes, which must not be within a capture.
        self._enqueue(self._context)
        self._driver.synchronize(self._stream)
        try:
            self._graph = self._driver.capture(lambda: self._enqueue(self._context), self._stream)
        except GpuError:
            self._graphs_fail = True

    def _drop_graph(self) -> None:
        if self._graph is not None:
            self._driver.free_graph(self._graph)
            self._graph = None

    def run(self, images: Float32s) -> Float32s:
        """Scores of `images` (batch, channels, height, width); an open batch takes fewer than full."""
        array = self._check_images(images)
        if len(array) > self.setting.batch:
            raise InputError(f"{len(array)} images; this engine was built for at most {self.setting.batch}")
        given = array.astype(self._takes, copy=False)  # must live until the stream is done with it
        scores = np.empty((len(array), *self._scores_shape[1:]), self._gives)
        with marked("run"), self._driver:
            if len(array) != self._batch:
                self._set_batch(self._context, len(array))
            self._is_resident = False
            self._driver.upload(self._images, given, self._stream)
            self._call()
            self._driver.download(scores, self._scores, self._stream)
            self._driver.synchronize(self._stream)
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
        if self._takes != np.float32 or self._gives != np.float32:
            raise InputError("this engine is a part of a network, which takes no images")
        if len(images) != self.setting.batch:
            raise InputError(f"{len(images)} images; this engine takes {self.setting.batch} at a time")
        images = np.ascontiguousarray(images)
        scores = np.empty(self._scores_shape, np.float32)
        with marked("run_bytes"), self._driver:
            prepare = self._preprocessor(images.shape, mean, std, swap_channels)
            if self._batch != self.setting.batch:
                self._set_batch(self._context, self.setting.batch)
            self._is_resident = False
            prepare(images, self._images, self._stream)
            self._call()
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
        """Device time of calls on resident input, in the mode of `run`.

        So many calls are timed at once that the step of the GPU's clock is below 0.2 % (`EventClock`); with
        emptied caches each is timed by itself. A batch in which the GPU waited for the host is thrown away
        and repeated behind a longer delay.

        Raises:
            GpuError: a call failed, or the timed calls gave different scores than the first call one.
        """
        self._check_calls(calls)
        cold, self._cold = self._cold, False
        values: list[float] = []
        with marked("time"), self._driver:
            known = self._ready()
            if cold and not self._flush_buffer:
                self._flush_buffer = self._owned.alloc(self._flush_bytes)
            each = 1 if cold else self._each(known)
            while len(values) < calls:
                count = min(known.most, self._spans(each), calls - len(values))
                done = self._timed(known, count, each, cold)
                if done is None and count > 1 and self._delay_ns >= LONGEST_DELAY_NS:
                    known.most = max(1, count // 2)  # the host needs longer than any delay for so many
                values += done or ()
            self._check_scores(known.scale)
            _last_busy_s[id(self._driver)] = time.perf_counter()
        return CallTimes(
            np.array(values),
            each=each,
            error_ms=known.clock.error_ms / each,
            host_ms=known.host_ms,
            enqueue_ms=known.enqueue_ms,
        )

    def _ready(self) -> _Timing:
        """Everything that is prepared once: input, reference scores, warmth, times by the host's clock."""
        if self._batch != self.setting.batch:
            self._set_batch(self._context, self.setting.batch)
        if not self._is_resident:
            resident = resident_input(self._full_shape).astype(self._takes, copy=False)
            self._driver.upload(self._images, resident, self._stream)
            self._driver.synchronize(self._stream)
            self._is_resident = True
        if self._timing is None:
            clock = event_clock(self._driver, self._kernels, self._stream)
            known = self._timing = _Timing(clock, self._reference())
            self._by_host(known)
            rough = self._timed(known, 1, max(1, min(4, self._fit())), cold=False)
            while rough is None:
                rough = self._timed(known, 1, max(1, min(4, self._fit())), cold=False)
            known.call_ms = max(rough[0], 1e-6)
            known.bound = self._graph is None and known.enqueue_ms > ENQUEUE_BOUND * known.call_ms
            if known.bound:
                known.call_ms = max(known.call_ms, known.enqueue_ms)
        self._warm(self._timing)
        return self._timing

    def _reference(self) -> float:
        """Run once and keep the scores on the device; the largest of them, found there."""
        count = int(np.prod(self._scores_shape))
        self._attach(self._context, self._expected)
        self._enqueue(self._context)
        self._attach(self._context)
        self._driver.fill(self._scores, 0, self._gives.itemsize * count, self._stream)
        return self._difference()

    def _difference(self) -> float:
        """Largest difference between the last scores and those of the first call."""
        count, half = int(np.prod(self._scores_shape)), self._gives == np.float16
        return self._kernels.max_abs_diff(self._scores, self._expected, count, self._stream, half=half)

    def _by_host(self, known: _Timing) -> None:
        """Time calls one by one by the host's clock: until each is queued, and until it is done."""
        self._call()
        self._driver.synchronize(self._stream)
        queued, done = [], []
        for _ in range(HOSTED):
            begun = time.perf_counter()
            self._call()
            queued.append(time.perf_counter() - begun)
            self._driver.synchronize(self._stream)
            done.append(time.perf_counter() - begun)
        known.enqueue_ms, known.host_ms = (float(np.median(v)) * 1e3 for v in (queued, done))

    def _warm(self, known: _Timing) -> None:
        """Keep a GPU busy that idled: its clocks fall within seconds, and rise when there is work."""
        now = time.perf_counter()
        if now - _last_busy_s.get(id(self._driver), -COOL_S) < COOL_S:
            return
        calls = max(1, min(self._fit(), int(LOAD_MS / max(known.call_ms, 1e-3))))
        ends = now + WARM_S
        while time.perf_counter() < ends:
            for _ in range(calls):
                self._call()
            self._driver.synchronize(self._stream)
        _last_busy_s[id(self._driver)] = time.perf_counter()

    def _fit(self) -> int:
        """Calls that fit into the stream's queue at once."""
        return max(1, QUEUE // (1 if self._graph is not None else max(1, self._engine.num_layers)))

    def _each(self, known: _Timing) -> int:
        """Calls that are timed at once."""
        return int(np.clip(np.ceil(known.clock.span_ms / known.call_ms), 1, self._fit()))

    def _spans(self, each: int) -> int:
        return int(np.clip(self._fit() // each, 1, MOST_SPANS))

    def _check_scores(self, scale: float) -> None:
        """Compare on the device what the last timed call gave with the first, untimed one.

        Fast because wrong is no speed: an unstable GPU, or work that overtook its input, shows here.
        """
        if not np.isfinite(scale):
            return  # random weights overflowed: nothing to compare
        off = self._difference()
        if not off <= DRIFT * max(scale, 1e-6):  # a NaN is no drift either
            raise GpuError(
                f"the timed calls gave different scores than the first call (off by {off:.3g}, scores reach "
                f"{scale:.3g}): the GPU does not compute reliably"
            )

    def _timed(self, known: _Timing, count: int, each: int, cold: bool) -> list[float] | None:
        """Milliseconds of a call, over `count` spans of `each`; None, and a longer delay next time, where the
        GPU had to wait for the host.
        """
        driver, stream, events = self._driver, self._stream, self._events[:count]
        if not known.bound:
            self._kernels.delay(self._delay_ns, stream)
        begun = time.perf_counter_ns()
        for start, end in events:
            if cold:
                self._kernels.flush_l2(self._flush_buffer, self._flush_bytes, stream)
            driver.record(start, stream)
            for _ in range(each):
                self._call()
            driver.record(end, stream)
        queued_ns = time.perf_counter_ns() - begun
        waited = not known.bound and driver.happened(events[0][0])
        driver.synchronize(stream)
        if waited and (count > 1 or self._delay_ns < LONGEST_DELAY_NS):
            self._delay_ns = min(2 * self._delay_ns, LONGEST_DELAY_NS)
            return None
        # Half again what the host needed: a delay is time in which the GPU does nothing, and cools.
        self._delay_ns = int(np.clip(1.5 * queued_ns, FIRST_DELAY_NS, LONGEST_DELAY_NS))
        empty_ms = known.clock.empty_ms
        return [max(driver.elapsed_ms(start, end) - empty_ms, LEAST_MS) / each for start, end in events]

    def watch(self) -> tuple[str, ...]:
        """Names of what made the last timings doubtful: throttling, a slow clock, other processes, the host.

        What holds a GPU back shows under load only, so it is asked while calls run that nobody times.
        """
        known = self._timing
        bound = ("enqueue-bound",) if known is not None and known.bound else ()
        judge = gpu_judge(self._driver.properties.bus_id)
        if judge is None:
            return bound
        if known is None:
            return (*judge.gates(), *bound)
        with self._driver:
            for _ in range(max(1, min(self._fit(), int(LOAD_MS / known.call_ms)))):
                self._call()
            gates = judge.gates()
            self._driver.synchronize(self._stream)
        return (*gates, *bound)

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
            self._drop_graph()
            self._context = None
            self._engine = None
            self._runtime = None
        self._owned.close()
