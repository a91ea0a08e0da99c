"""The ways through a TensorRT engine: contexts on the profiles of its batch sizes, buffers, graphs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hwnas.backends.cuda.driver import CudaDriver, GpuError, GpuOutOfMemory, Owned
from hwnas.backends.trt import compat
from hwnas.backends.trt.build import sizes
from hwnas.errors import BuildError
from hwnas.records import Setting

QUEUE = 512  # launches that may wait on a stream before a launch blocks the host (CUDA holds 1024)


@dataclass
class Way:
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


class Ways:
    """What calls of an engine need, for each size that it was built for; the largest is there from the start.

    Attributes:
        engine: TensorRT's.
        takes, gives: types of input and scores.
        shape: of the input; 0 where the batch is open.
        full_shape, scores_shape: at the largest batch.
        sizes: batch sizes that it has profiles for, ascending.
        full: the way of the largest.
        graphs: whether calls are CUDA graphs: until one cannot be made.
    """

    def __init__(self, engine: Any, setting: Setting, driver: CudaDriver, owned: Owned) -> None:
        """Find input and output and reserve them; errors as of `TrtEngine`."""
        self.engine, self._batch, self._driver = engine, setting.batch, driver
        self._trt, self._log = compat.module(), compat.logger()
        self.graphs = driver.graphs
        self._all: dict[int, Way] = {}
        self._bind(setting, owned)

    def _new_context(self, size: int, stream: int) -> Any:
        """A context on the profile of a size, which is its place among the sizes."""
        context = self.engine.create_execution_context()
        if context is None:
            needed = compat.device_memory_bytes(self.engine) >> 20
            raise GpuOutOfMemory(
                f"TensorRT cannot make an execution context ({needed} MiB of activations): {self._log.take()}"
            )
        # Engines carry the details of their layers for `layers`; marking each enqueue with them costs time.
        context.nvtx_verbosity = self._trt.ProfilingVerbosity.LAYER_NAMES_ONLY
        if (profile := self.sizes.index(size)) > 0:  # the first is every context's to begin with
            try:  # the bindings make an exception of a refusal
                context.set_optimization_profile_async(profile, stream)
            except RuntimeError as exc:
                said = self._log.take()
                raise BuildError(f"TensorRT refused the profile of {size} images at once: {said}") from exc
            self._driver.synchronize(stream)
        return context

    def _bind(self, setting: Setting, owned: Owned) -> None:
        """Find input and output, fix the full batch, allocate both."""
        mode = self._trt.TensorIOMode
        names = [self.engine.get_tensor_name(i) for i in range(self.engine.num_io_tensors)]
        inputs = [n for n in names if self.engine.get_tensor_mode(n) == mode.INPUT]
        outputs = [n for n in names if self.engine.get_tensor_mode(n) == mode.OUTPUT]
        # Not trt.nptype: in 8.6 it names np.bool, which numpy lacked from 1.24 to 1.26.
        types = {n: self.engine.get_tensor_dtype(n) for n in names}
        known: dict[Any, type[np.floating[Any]]] = {
            self._trt.DataType.FLOAT: np.float32,
            self._trt.DataType.HALF: np.float16,  # between the blocks of a network
        }
        if (len(inputs), len(outputs)) != (1, 1) or any(t not in known for t in types.values()):
            raise BuildError(f"expected one input and one output of float32 or float16, found {types}")
        self._input, self._output = inputs[0], outputs[0]
        self.takes, self.gives = (np.dtype(known[types[n]]) for n in (self._input, self._output))
        declared = tuple(self.engine.get_tensor_shape(self._input))
        self.shape = (0 if declared[0] == -1 else declared[0], *declared[1:])
        self.sizes = sizes(setting) if declared[0] == -1 else (setting.batch,)
        profiles = self.engine.num_optimization_profiles
        if profiles != len(self.sizes):
            raise BuildError(
                f"the plan has {profiles} optimisation profiles, expected one for each of the sizes "
                f"{self.sizes}"
            )
        full = (setting.batch, *declared[1:])
        self.full_shape = full
        stream = owned.stream()
        context = self._new_context(setting.batch, stream)
        self.full = way = Way(context, setting.batch, stream, 0, 0)
        self._all[way.size] = way
        self._set_batch(way, way.size)
        answer = tuple(way.context.get_tensor_shape(self._output))
        if -1 in answer:
            raise BuildError(f"the output shape {answer} is still dynamic although the input is {full}")
        self.scores_shape = answer
        way.images, way.scores = (owned.alloc(n) for n in self.room())
        self.attach(way)

    def room(self) -> tuple[int, int]:
        """Bytes of an input and of its scores at the full batch."""
        images = self.takes.itemsize * int(np.prod(self.full_shape))
        scores = self.gives.itemsize * int(np.prod(self.scores_shape))
        return images, scores

    def fit(self) -> int:
        """Calls that fit into a stream's queue at once."""
        return max(1, QUEUE // (1 if self.full.graph is not None else max(1, self.engine.num_layers)))

    def of(self, images: int) -> Way:
        """The way for so many images, set to them: that of the next size which the engine was built for."""
        size = min(n for n in self.sizes if n >= images)
        if size not in self._all:
            full = self.full  # ways of other sizes use its buffers and its stream, one call at a time
            context = self._new_context(size, full.stream)
            way = Way(context, size, full.stream, full.images, full.scores)
            self.attach(way)
            self._all[size] = way
        way = self._all[size]
        if way.batch != images:
            self._set_batch(way, images)
        return way

    def beside(self, images: int, scores: int, stream: int) -> Way:
        """A further context of the engine, at the full batch."""
        size = self._batch
        way = Way(self._new_context(size, stream), size, stream, images, scores)
        self._set_batch(way, size)
        self.attach(way)
        return way

    def _set_batch(self, way: Way, batch: int) -> None:
        shape = (batch, *self.full_shape[1:])
        if not way.context.set_input_shape(self._input, shape):
            raise BuildError(f"TensorRT refused the input shape {shape}: {self._log.take()}")
        way.batch = batch
        self.drop_graph(way)

    def attach(self, way: Way, scores: int | None = None) -> None:
        """Tell a context where its input lies and where its output goes."""
        for name, address in ((self._input, way.images), (self._output, scores or way.scores)):
            if not way.context.set_tensor_address(name, address):
                raise BuildError(f"TensorRT refused the address of {name}: {self._log.take()}")

    def start(self, way: Way) -> None:
        """Queue one call, kernel by kernel."""
        if not way.context.execute_async_v3(way.stream):
            raise GpuError(f"TensorRT could not run the engine: {self._log.take()}")

    def call(self, way: Way) -> None:
        """Queue one call: a graph's replay where there are graphs."""
        if way.graph is None and self.graphs and way.batch == way.size:
            self._capture(way)
        if way.graph is not None:
            self._driver.replay(way.graph, way.stream)
        else:
            self.start(way)

    def _capture(self, way: Way) -> None:
        """Make a graph of one call; an engine that cannot be captured is launched kernel by kernel."""
        # TensorRT prepares in the first call after new shapes, which must not be within a capture.
        self.start(way)
        self._driver.synchronize(way.stream)
        try:
            way.graph = self._driver.capture(lambda: self.start(way), way.stream)
        except GpuError:
            self.graphs = False

    def drop_graph(self, way: Way) -> None:
        """Give a way's graph back."""
        if way.graph is not None:
            self._driver.free_graph(way.graph)
            way.graph = None

    def close(self) -> None:
        """Drop contexts and graphs; the context of the GPU must be current."""
        for way in self._all.values():
            self.drop_graph(way)
            way.context = None
        self.engine = None
