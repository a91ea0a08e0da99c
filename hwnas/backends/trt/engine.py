"""A TensorRT engine on the GPU: run, time by CUDA events, look inside.

It is timed in the mode in which `run` runs it. With CUDA graphs (cuda-python) a call is one launch, and what
is timed is the graph's replay. Without them (PyCUDA) TensorRT launches kernel by kernel: where the host needs
longer for that than the GPU for the work, a call takes what the host takes, so nothing is hidden then, and
the gate `enqueue-bound` says it. Else calls are queued behind a kernel that keeps the stream busy, so that
the GPU never waits for the host.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
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
from hwnas.backends.trt.build import sizes
from hwnas.errors import BuildError, InputError
from hwnas.protocols import CallTimes, StreamTimes
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


@dataclass
class _Way:
    """One way through an engine: a context with its profile, where its input and output lie, its stream.

    Attributes:
        context: of TensorRT.
        size: batch size that its profile is best at, and the most that it takes.
        stream: that its calls are queued on.
        images, scores: addresses of input and output.
        batch: images that it is set to.
        graph: of one call of `size` images; None before there is one, or where there are none.
    """

    context: Any
    size: int
    stream: int
    images: int
    scores: int
    batch: int = 0
    graph: int | None = None


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
        self._ways: dict[int, _Way] = {}
        self._graphs_fail = not driver.graphs
        self._prepared: tuple[Any, Owned, Preprocessor] | None = None
        with driver, ExitStack() as undo:
            self._owned = Owned(driver)
            undo.callback(self._owned.close)
            self._trt = compat.module()
            self._log = compat.logger()
            self._log.take()
            self._engine = self._deserialize(plan)
            self._stream = self._owned.stream()
            self._bind()
            self._kernels = Kernels(self._owned)
            self._events = [(self._owned.event(), self._owned.event()) for _ in range(MOST_SPANS)]
            self._flush_bytes = 2 * max(driver.properties.l2_bytes, 1 << 20)
            self._flush_buffer = 0
            undo.pop_all()

    def _deserialize(self, plan: bytes) -> Any:
        self._runtime = compat.open_runtime(self._trt, self.setting.choices)
        engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise BuildError(f"TensorRT {self._trt.__version__} cannot load the plan: {self._log.take()}")
        return engine

    def _new_context(self, size: int, stream: int) -> Any:
        """A context on the profile of a size, which is its place among the sizes."""
        context = self._engine.create_execution_context()
        if context is None:
            needed = compat.device_memory_bytes(self._engine) >> 20
            raise GpuOutOfMemory(
                f"TensorRT cannot make an execution context ({needed} MiB of activations): {self._log.take()}"
            )
        # Engines carry the details of their layers for `layers`; marking each enqueue with them costs time.
        context.nvtx_verbosity = self._trt.ProfilingVerbosity.LAYER_NAMES_ONLY
        if (profile := self._sizes.index(size)) > 0:  # the first is every context's to begin with
            try:  # the bindings make an exception of a refusal
                context.set_optimization_profile_async(profile, stream)
            except RuntimeError as exc:
                said = self._log.take()
                raise BuildError(f"TensorRT refused the profile of {size} images at once: {said}") from exc
            self._driver.synchronize(stream)
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
        self._sizes = sizes(self.setting) if declared[0] == -1 else (self.setting.batch,)
        profiles = self._engine.num_optimization_profiles
        if profiles != len(self._sizes):
            raise BuildError(
                f"the plan has {profiles} optimisation profiles, expected one for each of the sizes "
                f"{self._sizes}"
            )
        full = (self.setting.batch, *declared[1:])
        self._full_shape = full
        context = self._new_context(self.setting.batch, self._stream)
        self._full = way = _Way(context, self.setting.batch, self._stream, 0, 0)
        self._ways[way.size] = way
        self._set_batch(way, way.size)
        answer = tuple(way.context.get_tensor_shape(self._output))
        if -1 in answer:
            raise BuildError(f"the output shape {answer} is still dynamic although the input is {full}")
        self._scores_shape = answer
        way.images, way.scores, self._expected = (self._owned.alloc(n) for n in self._room(twice=True))
        self._attach(way)

    def _room(self, *, twice: bool = False) -> tuple[int, ...]:
        """Bytes of an input and an output at the full batch; of two outputs with `twice`."""
        images = self._takes.itemsize * int(np.prod(self._full_shape))
        scores = self._gives.itemsize * int(np.prod(self._scores_shape))
        return (images, scores, scores) if twice else (images, scores)

    def _way_for(self, images: int) -> _Way:
        """The way for so many images, set to them: that of the next size which the engine was built for."""
        size = min(n for n in self._sizes if n >= images)
        if size not in self._ways:
            full = self._full  # ways of other sizes use its buffers and its stream, one call at a time
            context = self._new_context(size, full.stream)
            way = _Way(context, size, full.stream, full.images, full.scores)
            self._attach(way)
            self._ways[size] = way
        way = self._ways[size]
        if way.batch != images:
            self._set_batch(way, images)
        return way

    def _set_batch(self, way: _Way, batch: int) -> None:
        shape = (batch, *self._full_shape[1:])
        if not way.context.set_input_shape(self._input, shape):
            raise BuildError(f"TensorRT refused the input shape {shape}: {self._log.take()}")
        way.batch = batch
        self._drop_graph(way)

    def _attach(self, way: _Way, scores: int | None = None) -> None:
        """Tell a context where its input lies and where its output goes."""
        for name, address in ((self._input, way.images), (self._output, scores or way.scores)):
            if not way.context.set_tensor_address(name, address):
                raise BuildError(f"TensorRT refused the address of {name}: {self._log.take()}")

    def _enqueue(self, way: _Way) -> None:
        if not way.context.execute_async_v3(way.stream):
            raise GpuError(f"TensorRT could not run the engine: {self._log.take()}")

    def _call(self, way: _Way) -> None:
        """Queue one call: a graph's replay where there are graphs."""
        if way.graph is None and not self._graphs_fail and way.batch == way.size:
            self._capture(way)
        if way.graph is not None:
            self._driver.replay(way.graph, way.stream)
        else:
            self._enqueue(way)

    def _capture(self, way: _Way) -> None:
        """Make a graph of one call; an engine that cannot be captured is launched kernel by kernel."""
        # TensorRT prepares in the first call after new shapes, which must not be within a capture.
        self._enqueue(way)
        self._driver.synchronize(way.stream)
        try:
            way.graph = self._driver.capture(lambda: self._enqueue(way), way.stream)
        except GpuError:
            self._graphs_fail = True

    def _drop_graph(self, way: _Way) -> None:
        if way.graph is not None:
            self._driver.free_graph(way.graph)
            way.graph = None

    def run(self, images: Float32s) -> Float32s:
        """Scores of `images` (batch, channels, height, width); an open batch takes fewer than full."""
        array = self._check_images(images)
        if len(array) > self.setting.batch:
            raise InputError(f"{len(array)} images; this engine was built for at most {self.setting.batch}")
        given = array.astype(self._takes, copy=False)  # must live until the stream is done with it
        scores = np.empty((len(array), *self._scores_shape[1:]), self._gives)
        with marked("run"), self._driver:
            way = self._way_for(len(array))
            self._is_resident = False
            self._driver.upload(way.images, given, way.stream)
            self._call(way)
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
        if self._takes != np.float32 or self._gives != np.float32:
            raise InputError("this engine is a part of a network, which takes no images")
        if len(images) not in self._sizes:
            taken = " or ".join(map(str, self._sizes))
            raise InputError(f"{len(images)} images; this engine takes {taken} at a time")
        images = np.ascontiguousarray(images)
        scores = np.empty((len(images), *self._scores_shape[1:]), np.float32)
        with marked("run_bytes"), self._driver:
            prepare = self._preprocessor(images.shape, mean, std, swap_channels)
            way = self._way_for(len(images))
            self._is_resident = False
            prepare(images, way.images, way.stream)
            self._call(way)
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
            self._check_scores(self._full, known.scale)
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
        self._way_for(self.setting.batch)
        if not self._is_resident:
            self._upload_resident(self._full)
            self._is_resident = True
        if self._timing is None:
            clock = event_clock(self._driver, self._kernels, self._stream)
            known = self._timing = _Timing(clock, self._reference())
            self._by_host(known)
            rough = self._timed(known, 1, max(1, min(4, self._fit())), cold=False)
            while rough is None:
                rough = self._timed(known, 1, max(1, min(4, self._fit())), cold=False)
            known.call_ms = max(rough[0], 1e-6)
            known.bound = self._full.graph is None and known.enqueue_ms > ENQUEUE_BOUND * known.call_ms
            if known.bound:
                known.call_ms = max(known.call_ms, known.enqueue_ms)
        self._warm(self._timing)
        return self._timing

    def _upload_resident(self, way: _Way) -> None:
        resident = resident_input(self._full_shape).astype(self._takes, copy=False)
        self._driver.upload(way.images, resident, way.stream)
        self._driver.synchronize(way.stream)

    def _reference(self) -> float:
        """Run once and keep the scores on the device; the largest of them, found there."""
        count = int(np.prod(self._scores_shape))
        self._attach(self._full, self._expected)
        self._enqueue(self._full)
        self._attach(self._full)
        self._driver.fill(self._full.scores, 0, self._gives.itemsize * count, self._stream)
        return self._difference(self._full)

    def _difference(self, way: _Way) -> float:
        """Largest difference between the last scores and those of the first call."""
        count, half = int(np.prod(self._scores_shape)), self._gives == np.float16
        return self._kernels.max_abs_diff(way.scores, self._expected, count, way.stream, half=half)

    def _by_host(self, known: _Timing) -> None:
        """Time calls one by one by the host's clock: until each is queued, and until it is done."""
        self._call(self._full)
        self._driver.synchronize(self._stream)
        queued, done = [], []
        for _ in range(HOSTED):
            begun = time.perf_counter()
            self._call(self._full)
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
                self._call(self._full)
            self._driver.synchronize(self._stream)
        _last_busy_s[id(self._driver)] = time.perf_counter()

    def _fit(self) -> int:
        """Calls that fit into the stream's queue at once."""
        return max(1, QUEUE // (1 if self._full.graph is not None else max(1, self._engine.num_layers)))

    def _each(self, known: _Timing) -> int:
        """Calls that are timed at once."""
        return int(np.clip(np.ceil(known.clock.span_ms / known.call_ms), 1, self._fit()))

    def _spans(self, each: int) -> int:
        return int(np.clip(self._fit() // each, 1, MOST_SPANS))

    def _check_scores(self, way: _Way, scale: float) -> None:
        """Compare on the device what the last timed call gave with the first, untimed one.

        Fast because wrong is no speed: an unstable GPU, or work that overtook its input, shows here.
        """
        if not np.isfinite(scale):
            return  # random weights overflowed: nothing to compare
        off = self._difference(way)
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
                self._call(self._full)
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
                self._call(self._full)
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
            way = self._beside(self._full.images, self._full.scores, self._stream)
            way.context.profiler = profiler = compat.profiler(totals)
            for _ in range(calls):
                self._enqueue(way)
                self._driver.synchronize(self._stream)
            way.context = None  # the context first: it holds the profiler without counting
            del profiler
        return {name: total / calls for name, total in totals.items()}

    def _beside(self, images: int, scores: int, stream: int) -> _Way:
        """A further context of the engine, at the full batch."""
        size = self.setting.batch
        way = _Way(self._new_context(size, stream), size, stream, images, scores)
        self._set_batch(way, size)
        self._attach(way)
        return way

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
        with marked("in_streams"), self._driver, Owned(self._driver) as owned:
            known = self._ready()
            ways: list[_Way] = []
            try:
                for _ in range(streams):
                    stream = owned.stream()
                    images, scores = (owned.alloc(n) for n in self._room())
                    way = self._beside(images, scores, stream)
                    ways.append(way)
                    self._upload_resident(way)
                    self._call(way)  # makes its graph
                    self._driver.synchronize(stream)
                events = [(owned.event(), owned.event()) for _ in ways]
                found = self._kept_busy(ways, events, self._each(known), seconds)
                for way in ways:
                    self._check_scores(way, known.scale)
            finally:
                for way in ways:
                    self._driver.synchronize(way.stream)
                    self._drop_graph(way)
                    way.context = None
        return found

    def _kept_busy(
        self, ways: Sequence[_Way], events: Sequence[tuple[int, int]], each: int, seconds: float
    ) -> StreamTimes:
        """Bursts of `each` calls on all streams in turn, until the time is over."""
        driver, wall_ms = self._driver, []
        empty_ms = self._timing.clock.empty_ms if self._timing is not None else 0.0

        def queue(at: int) -> None:
            way, (start, end) = ways[at], events[at]
            driver.record(start, way.stream)
            for _ in range(each):
                self._call(way)
            driver.record(end, way.stream)

        def done(at: int) -> None:
            driver.synchronize(ways[at].stream)
            start, end = events[at]
            wall_ms.append(max(driver.elapsed_ms(start, end) - empty_ms, LEAST_MS) / each)

        begun = time.perf_counter()
        for at in range(len(ways)):
            queue(at)
        while time.perf_counter() - begun < seconds:
            for at in range(len(ways)):
                done(at)
                queue(at)
        for at in range(len(ways)):
            done(at)
        took_s = time.perf_counter() - begun
        images = len(wall_ms) * each * self.setting.batch
        return StreamTimes(len(ways), images / took_s, np.array(wall_ms))

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
            for way in self._ways.values():
                self._drop_graph(way)
                way.context = None
            self._engine = None
            self._runtime = None
        self._owned.close()
