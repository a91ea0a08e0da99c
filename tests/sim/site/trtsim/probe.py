"""Which virtual slot does each Python method of the bindings reach? Ask by calling each once.

Needs no header of TensorRT and holds for every version: a method that a version lacks is skipped.
"""

import ctypes
import warnings
from types import SimpleNamespace

REFUSALS = (RuntimeError, TypeError, ValueError, OverflowError, SystemError, UnicodeDecodeError)


def find_slots(library, trt):
    """Class name to {slot: method name}."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some of what is asked for is deprecated in some version
        return Probe(library, trt).run()


class Probe:
    """Calls methods on blank objects and notes where they come out."""

    def __init__(self, library, trt):
        self.library, self.trt = library, trt
        self.slots, self.trace = {}, []
        self.answer = 1
        self.blank = ctypes.create_string_buffer(4096)  # an empty C string, an empty struct
        library.handler = self._handle

    def _handle(self, kind, _id, slot, returned, *_arguments):
        if slot >= 0:
            self.trace.append((self.library.names[kind], slot))
        if returned:
            ctypes.memset(returned, 0, 8)  # Dims with no dimension
        return self.answer

    def call(self, owner, name, what, *, gives=None, answer=1):
        """Make one call; note its last slot as `name` of `owner`; give its result."""
        self.trace = []
        self.answer = self.library.new(gives) if gives else answer
        try:
            result = what()
        except AttributeError:
            return None  # this version has no such method
        except REFUSALS:
            result = None  # it came back with something odd, but it was made
        mine = [slot for seen, slot in self.trace if seen == owner]
        assert mine, f"{owner}.{name} reached no virtual slot"
        self.slots.setdefault(owner, {})[mine[-1]] = name
        return result

    def run(self):
        """Probe everything that the simulation answers."""
        t, o = self.trt, SimpleNamespace()
        o.logger = t.Logger(t.Logger.ERROR)
        self._builder(t, o)
        self._network(t, o)
        self._engine(t, o)
        self._context(t, o)
        return self.slots

    def _builder(self, t, o):
        text = ctypes.addressof(self.blank)
        o.builder = b = t.Builder(o.logger)
        make = self.call
        o.config = c = make(
            "Builder", "create_builder_config", lambda: b.create_builder_config(), gives="IBuilderConfig"
        )
        o.network = make("Builder", "create_network", lambda: b.create_network(1), gives="INetworkDefinition")
        o.profile = make(
            "Builder",
            "create_optimization_profile",
            lambda: b.create_optimization_profile(),
            gives="IOptimizationProfile",
        )
        o.plan = make(
            "Builder", "build", lambda: b.build_serialized_network(o.network, c), gives="IHostMemory"
        )
        o.cache = make(
            "IBuilderConfig", "create_timing_cache", lambda: c.create_timing_cache(b""), gives="ITimingCache"
        )
        workspace, flag = t.MemoryPoolType.WORKSPACE, t.BuilderFlag.TF32
        names_only = t.ProfilingVerbosity.LAYER_NAMES_ONLY
        level = t.HardwareCompatibilityLevel.NONE
        preview = next(iter(t.PreviewFeature.__members__.values()))
        for name, what in {
            "set_memory_pool_limit": lambda: c.set_memory_pool_limit(workspace, 1),
            "set_flag": lambda: c.set_flag(flag),
            "clear_flag": lambda: c.clear_flag(flag),
            "set_level": lambda: setattr(c, "builder_optimization_level", 1),
            "set_timings": lambda: setattr(c, "avg_timing_iterations", 2),
            "set_streams": lambda: setattr(c, "max_aux_streams", 0),
            "set_verbosity": lambda: setattr(c, "profiling_verbosity", names_only),
            "set_timing_cache": lambda: c.set_timing_cache(o.cache, False),
            "add_profile": lambda: c.add_optimization_profile(o.profile),
            "set_device": lambda: setattr(c, "default_device_type", t.DeviceType.GPU),
            "set_dla": lambda: setattr(c, "DLA_core", 0),
            "set_hardware": lambda: setattr(c, "hardware_compatibility_level", level),
            "set_preview": lambda: c.set_preview_feature(preview, True),
        }.items():
            make("IBuilderConfig", name, what)
        make(
            "IBuilderConfig",
            "get_timing_cache",
            lambda: c.get_timing_cache(),
            gives="ITimingCache",
        )
        make("ITimingCache", "serialize", lambda: o.cache.serialize(), gives="IHostMemory")
        make("IHostMemory", "size", lambda: o.plan.nbytes, answer=0)
        make("IHostMemory", "dtype", lambda: o.plan.dtype, answer=0)
        self._host_memory(o.plan)
        profile = o.profile
        make("IOptimizationProfile", "set_dims", lambda: profile.set_shape("x", (1,), (1,), (1,)))
        o.text = text

    def _host_memory(self, memory):
        """`data` has no method of its own: it is the slot of the buffer protocol that is not yet known."""
        self.trace, self.answer = [], 0
        try:
            memoryview(memory)
        except (BufferError, *REFUSALS):
            pass
        known = self.slots["IHostMemory"]
        (found,) = {slot for _, slot in self.trace} - set(known)
        known[found] = "data"

    def _network(self, t, o):
        make, n = self.call, o.network
        o.tensor = make("INetworkDefinition", "get_input", lambda: n.get_input(0), gives="ITensor")
        make("ITensor", "name", lambda: o.tensor.name, answer=o.text)
        make("ITensor", "shape", lambda: o.tensor.shape)
        make("ITensor", "set_dtype", lambda: setattr(o.tensor, "dtype", t.DataType.HALF))
        make("INetworkDefinition", "get_output", lambda: n.get_output(0), gives="ITensor")
        p = t.OnnxParser(n, o.logger)
        make("OnnxParser", "parse", lambda: p.parse(b""))
        make("OnnxParser", "num_errors", lambda: p.num_errors, answer=0)
        error = make("OnnxParser", "get_error", lambda: p.get_error(0), gives="ParserError")
        make("ParserError", "desc", lambda: error.desc(), answer=o.text)
        make("ParserError", "node", lambda: error.node(), answer=0)
        make("ParserError", "node_name", lambda: error.node_name(), answer=o.text)
        make("ParserError", "node_operator", lambda: error.node_operator(), answer=o.text)
        # A parser's destructor is not in the usual first slots. It lives as long as its network.
        self.answer = self.library.new("INetworkDefinition")
        doomed = [o.builder.create_network(1)]
        self.answer = 1
        t.OnnxParser(doomed[0], o.logger)
        make("OnnxParser", "delete", doomed.clear)

    def _engine(self, t, o):
        make = self.call
        runtime = t.Runtime(o.logger)
        make("Runtime", "num_dla", lambda: runtime.num_DLA_cores, answer=0)
        make("Runtime", "set_dla", lambda: setattr(runtime, "DLA_core", 0))
        make("Runtime", "set_host_code", lambda: setattr(runtime, "engine_host_code_allowed", False))
        o.engine = e = make(
            "Runtime", "deserialize", lambda: runtime.deserialize_cuda_engine(b"x"), gives="ICudaEngine"
        )
        o.context = make(
            "ICudaEngine",
            "create_execution_context",
            lambda: e.create_execution_context(),
            gives="IExecutionContext",
        )
        inspector = make(
            "ICudaEngine",
            "create_engine_inspector",
            lambda: e.create_engine_inspector(),
            gives="EngineInspector",
        )
        for name, what in {
            "num_io_tensors": lambda: e.num_io_tensors,
            "num_layers": lambda: e.num_layers,
            "get_tensor_mode": lambda: e.get_tensor_mode("x"),
            "get_tensor_shape": lambda: e.get_tensor_shape("x"),
            "get_tensor_dtype": lambda: e.get_tensor_dtype("x"),
            "device_memory": lambda: e.device_memory_size,
            "device_memory_v2": lambda: e.device_memory_size_v2,
            "num_profiles": lambda: e.num_optimization_profiles,
        }.items():
            make("ICudaEngine", name, what)
        make("ICudaEngine", "get_tensor_name", lambda: e.get_tensor_name(0), answer=o.text)
        form = t.LayerInformationFormat.JSON
        information = lambda: inspector.get_engine_information(form)  # noqa: E731
        make("EngineInspector", "get_engine_information", information, answer=o.text)

    def _context(self, t, o):
        make, c = self.call, o.context

        class Profiler(t.IProfiler):
            def __init__(self):
                t.IProfiler.__init__(self)

            def report_layer_time(self, name, ms):
                pass

        o.profiler = Profiler()
        for name, what in {
            "set_input_shape": lambda: c.set_input_shape("x", (1,)),
            "set_tensor_address": lambda: c.set_tensor_address("x", 16),
            "get_tensor_shape": lambda: c.get_tensor_shape("x"),
            "execute_async_v3": lambda: c.execute_async_v3(0),
            "set_profile": lambda: c.set_optimization_profile_async(0, 0),
            "set_profiler": lambda: setattr(c, "profiler", o.profiler),
            "set_nvtx_verbosity": lambda: setattr(c, "nvtx_verbosity", t.ProfilingVerbosity.NONE),
        }.items():
            make("IExecutionContext", name, what)
