"""What the simulated TensorRT does at each call: refuses what the real one refuses, computes on the CPU."""

import ctypes
import hashlib
import json
import os
import traceback

import numpy as np

from trtsim.library import CONSTRUCTED

INTERNAL_ERROR, ERROR = 0, 1
NO_IMPORTER = {"HardSwish"}  # TensorRT's parser lacked it for long
INPUT, OUTPUT = 1, 2  # TensorIOMode
MIN, OPT, MAX = 0, 1, 2  # OptProfileSelector
NUMPY = {1: np.float32, 10: np.float16}  # by ONNX element type
TRT_NAME = {1: "FLOAT", 10: "HALF"}
MAGIC = b"SIMULATED PLAN "
SMALL_BYTES = 1 << 20
LARGE = ("model", "session", "answers", "buffer", "data")  # what a deleted object no longer holds


class Record(dict):
    """The state of one object; fields as attributes."""

    __getattr__ = dict.__getitem__
    __setattr__ = dict.__setitem__


class Simulation:
    """Objects and answers.

    Attributes:
        objects: state by object number.
        unknown: calls at slots that `probe` did not find: a test fails on any.
        problems: uses that the real library would not survive: calls on deleted objects and the like.
    """

    def __init__(self, library, trt, slots):
        self.library, self.trt, self.slots = library, trt, slots
        self.version = trt.__version__
        self.major = int(self.version.split(".")[0])
        # ILogger and IProfiler got a versioned base class, with four virtual functions, in 11.
        self.user_slot = 4 if self.major >= 11 else 0
        self.objects, self.unknown, self.problems = {}, [], []
        self._kept = {}
        self.cuda = ctypes.CDLL("libcuda.so.1")
        self.cuda.fakecuda_inside.argtypes = [ctypes.c_uint64, ctypes.c_size_t]
        self._runner = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(self._run)
        self.cuda.fakecuda_enqueue.argtypes = [*[ctypes.c_void_p] * 3, ctypes.c_int, ctypes.c_double]
        self._queued, self._numbers, self._scores = [], {}, {}
        library.handler = self._handle

    def alive(self, *kinds):
        """How many objects of these classes were made and not deleted."""
        return sum(o.kind in kinds and not o.dead for o in self.objects.values())

    # ---- plumbing ----

    def _handle(self, kind, number, slot, returned, *arguments):
        name = self.library.names[kind]
        try:
            if slot == CONSTRUCTED:
                self.objects[number] = Record(kind=name, arguments=arguments, dead=False)
                return 0 if self._fault(f"create_{name}") else 1
            state = self.objects.setdefault(number, Record(kind=name, dead=False))
            method = self.slots.get(name, {}).get(slot)
            if method == "delete" or (method is None and slot in (0, 1)):  # the usual destructors
                state.dead = True
                for large in LARGE:
                    state.pop(large, None)
                return 0
            if method is None:
                self.unknown.append(f"{name} slot {slot}")
                return 0
            if state.dead:
                self.problems.append(f"{name}.{method} on a deleted object")
            return int(getattr(self, f"{name}_{method}")(state, returned, *arguments) or 0)
        except Exception:
            self.problems.append(traceback.format_exc())
            return 0

    def _fault(self, name):
        return name in os.environ.get("TRTSIM_FAULT", "").split(",")

    def _new(self, kind, **state):
        address = self.library.new(kind)
        self.objects[self.library.id(address)] = Record(kind=kind, dead=False, address=address, **state)
        return address

    def _of(self, address):
        return self.objects[self.library.id(address)]

    def _log(self, logger, message, severity=ERROR):
        self.library.log(logger, self.user_slot, severity, message)

    def _text(self, text):
        """Address of a C string that stays."""
        buffer = self._kept.setdefault(text, ctypes.create_string_buffer(text.encode()))
        return ctypes.addressof(buffer)

    def _host(self, data):
        buffer = ctypes.create_string_buffer(data, len(data))
        return self._new("IHostMemory", buffer=buffer, length=len(data))

    def _write_dims(self, address, dims):
        if self.major == 8:  # 32-bit dimensions right behind their count
            ctypes.c_int32.from_address(address).value = len(dims)
            (ctypes.c_int32 * len(dims)).from_address(address + 4)[:] = dims
        else:  # 64-bit ones, aligned
            ctypes.c_int32.from_address(address).value = len(dims)
            (ctypes.c_int64 * len(dims)).from_address(address + 8)[:] = dims

    def _read_dims(self, address):
        count = ctypes.c_int32.from_address(address).value
        wide = self.major > 8
        kind, start = (ctypes.c_int64, 8) if wide else (ctypes.c_int32, 4)
        return [int(v) for v in (kind * count).from_address(address + start)]

    @staticmethod
    def _string(address):
        return ctypes.string_at(address).decode()

    # ---- builder ----

    def Builder_create_builder_config(self, o, *_):
        flags = {self._number("TF32")}
        state = {"limits": {}, "profiles": [], "cache": 0, "set": {}, "previews": set()}
        state |= {"on_dla": False, "dla": -1, "hardware": "NONE"}
        return self._new("IBuilderConfig", flags=flags, logger=o.arguments[0], **state)

    def _has(self, flag):
        return hasattr(self.trt.BuilderFlag, flag)

    def _number(self, flag):
        return int(getattr(self.trt.BuilderFlag, flag))

    def Builder_create_network(self, o, _returned, flags, *_):
        return self._new("INetworkDefinition", flags=flags & 0xFFFFFFFF, model=None, logger=o.arguments[0])

    def Builder_create_optimization_profile(self, o, *_):
        return self._new("IOptimizationProfile", shapes={})

    def IOptimizationProfile_set_dims(self, o, _returned, name, selector, dims, *_):
        if self.major == 8:  # passed by value
            dims = self.library.stack()
        o.shapes.setdefault(self._string(name), {})[selector & 0xFF] = self._read_dims(dims)
        return 1

    def IBuilderConfig_set_memory_pool_limit(self, o, _returned, pool, size, *_):
        o.limits[pool & 0xFF] = size

    def IBuilderConfig_set_flag(self, o, _returned, flag, *_):
        o.flags.add(flag & 0xFF)

    def IBuilderConfig_clear_flag(self, o, _returned, flag, *_):
        o.flags.discard(flag & 0xFF)

    def IBuilderConfig_set_level(self, o, _returned, value, *_):
        o.set["level"] = value & 0xFFFFFFFF

    def IBuilderConfig_set_timings(self, o, _returned, value, *_):
        o.set["timings"] = value & 0xFFFFFFFF

    def IBuilderConfig_set_streams(self, o, _returned, value, *_):
        o.set["streams"] = value & 0xFFFFFFFF

    def IBuilderConfig_set_verbosity(self, o, _returned, value, *_):
        o.set["detailed"] = value & 0xFF == int(self.trt.ProfilingVerbosity.DETAILED)

    def IBuilderConfig_add_profile(self, o, _returned, profile, *_):
        if self._fault("add_profile"):
            self._log(o.logger, "simulated: profile refused")
            return 0xFFFFFFFF  # -1
        o.profiles.append(self._of(profile).shapes)
        return len(o.profiles) - 1

    def IBuilderConfig_set_device(self, o, _returned, device, *_):
        o.on_dla = device & 0xFF == int(self.trt.DeviceType.DLA)

    def IBuilderConfig_set_dla(self, o, _returned, core, *_):
        o.dla = core & 0xFFFFFFFF

    def IBuilderConfig_set_hardware(self, o, _returned, level, *_):
        o.hardware = self.trt.HardwareCompatibilityLevel(level & 0xFF).name

    def IBuilderConfig_set_preview(self, o, _returned, feature, enable, *_):
        if enable & 0xFF:
            o.previews.add(self.trt.PreviewFeature(feature & 0xFF).name)

    # ---- timing cache ----

    def _cache_head(self):
        return f"CACHE {self.version} {os.environ.get('FAKECUDA_NAME')}\n".encode()

    def IBuilderConfig_create_timing_cache(self, o, _returned, blob, size, *_):
        data = ctypes.string_at(blob, size) if size else self._cache_head()
        return self._new("ITimingCache", data=data)

    def IBuilderConfig_set_timing_cache(self, o, _returned, cache, ignore, *_):
        mine = self._of(cache).data.startswith(self._cache_head())
        if self._fault("set_timing_cache") or not (mine or ignore & 0xFF):
            self._log(o.logger, "timing cache is of another device or version")
            return 0
        o.cache = cache
        return 1

    def IBuilderConfig_get_timing_cache(self, o, *_):
        return o.cache

    def ITimingCache_serialize(self, o, *_):
        return self._host(o.data)

    def IHostMemory_data(self, o, *_):
        return ctypes.addressof(o.buffer)

    def IHostMemory_size(self, o, *_):
        return o.length

    def IHostMemory_dtype(self, o, *_):
        return int(self.trt.DataType.INT8)

    # ---- parser ----

    def OnnxParser_parse(self, o, _returned, blob, size, *_):
        import onnx

        network, logger = self._of(o.arguments[0]), o.arguments[1]
        o.errors = []
        try:
            model = onnx.ModelProto.FromString(ctypes.string_at(blob, size))
            onnx.checker.check_model(model)
        except Exception as exc:
            o.errors = [(0, "", "", f"cannot read the model: {str(exc).splitlines()[0]}")]
            self._log(logger, "ModelImporter: failed to parse")
            return 0
        if self.major < 10 and not network.flags & 1 << int(
            self.trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH
        ):
            o.errors = [(0, "", "", "this version of the parser only supports explicit batch")]
            return 0
        zero = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
        for index, node in enumerate(model.graph.node):
            said = None
            if node.op_type in NO_IMPORTER:
                said = f"No importer registered for op: {node.op_type}"
            elif node.op_type == "QuantizeLinear" and len(node.input) > 2 and zero[node.input[2]].any():
                said = "only symmetric quantization is supported"
            if said:
                o.errors.append((index, node.name, node.op_type, said))
        network.model = None if o.errors else model
        return not o.errors

    def OnnxParser_num_errors(self, o, *_):
        return len(o.errors)

    def OnnxParser_get_error(self, o, _returned, index, *_):
        return self._new("ParserError", of=o.errors[index & 0xFFFFFFFF])

    def ParserError_node(self, o, *_):
        return o.of[0]

    def ParserError_node_name(self, o, *_):
        return self._text(o.of[1])

    def ParserError_node_operator(self, o, *_):
        return self._text(o.of[2])

    def ParserError_desc(self, o, *_):
        return self._text(o.of[3])

    # ---- network ----

    @staticmethod
    def _port(value, mode):
        tensor = value.type.tensor_type
        shape = [d.dim_value if d.HasField("dim_value") else -1 for d in tensor.shape.dim]
        return {"name": value.name, "type": tensor.elem_type, "shape": shape, "mode": mode}

    def INetworkDefinition_get_input(self, o, _returned, index, *_):
        value = o.model.graph.input[index & 0xFFFFFFFF]
        return self._new("ITensor", network=o, value=value, **self._port(value, INPUT))

    def INetworkDefinition_get_output(self, o, _returned, index, *_):
        value = o.model.graph.output[index & 0xFFFFFFFF]
        return self._new("ITensor", network=o, value=value, **self._port(value, OUTPUT))

    def ITensor_set_dtype(self, o, _returned, dtype, *_):
        """Another type at an end of the network, which the builder converts: a cast in the graph."""
        import onnx

        if self.major >= 11:
            self.problems.append("the types of a strongly typed network are the graph's")
        if dtype & 0xFF != int(self.trt.DataType.HALF):
            return
        graph, inside, half, full = o.network.model.graph, f"{o.name}.full", 10, 1
        for node in graph.node:
            for names in (node.input, node.output):
                for i, name in enumerate(names):
                    names[i] = inside if name == o.name else name
        ends = (o.name, inside, full) if o.mode == INPUT else (inside, o.name, half)
        cast = onnx.helper.make_node("Cast", [ends[0]], [ends[1]], name=f"{o.name}.reformat", to=ends[2])
        graph.node.insert(0, cast) if o.mode == INPUT else graph.node.append(cast)
        o.value.type.tensor_type.elem_type = half

    def ITensor_name(self, o, *_):
        return self._text(o.name)

    def ITensor_shape(self, o, returned, *_):
        self._write_dims(returned, o.shape)

    # ---- build ----

    def _refusal(self, network, config):
        """Why a network cannot be built, in the real library's manner; None if it can."""
        graph = network.model.graph
        quantized = any(n.op_type == "QuantizeLinear" for n in graph.node)
        int8 = getattr(self.trt.BuilderFlag, "INT8", None)
        if int8 is not None:
            asked = int(int8) in config.flags
            if asked and not quantized:
                return "Calibration failure: int8 asked for without ranges, calibrator or Q/DQ"
            if quantized and not asked:
                return "Int8 precision has not been enabled, but the network has Q/DQ layers"
        if self.major == 8 and quantized and (name := self._depthwise_swish(graph)):
            return f"Could not find any implementation for node {name}."
        open_ones = [v.name for v in graph.input if -1 in self._port(v, INPUT)["shape"]]
        given = config.profiles[0] if config.profiles else {}
        if any(name not in given for name in open_ones):
            return "Network has dynamic inputs, but no optimization profile has been defined"
        capability = float(os.environ["FAKECUDA_CAPABILITY"])
        if config.hardware == "AMPERE_PLUS" and capability < 8:
            return "hardware compatibility is only supported for engines built on Ampere and later"
        if config.on_dla:
            half = any(self._number(name) in config.flags for name in ("FP16", "INT8") if self._has(name))
            if not 0 <= config.dla < self.Runtime_num_dla():
                return "DLA core is not set or not available"
            if open_ones:
                return "dynamic shapes are not supported on DLA"
            if not half and self.major < 11:
                return "DLA requires FP16 or INT8"
        if self._fault("build"):
            return "simulated: out of memory while timing kernels"
        return None

    @staticmethod
    def _depthwise_swish(graph):
        """Name of a quantized depthwise convolution that no ReLU follows: 8.6 has no kernel for it."""
        made = {out: node for node in graph.node for out in node.output}
        for node in graph.node:
            groups = next((a.i for a in node.attribute if a.name == "group"), 1)
            before = made.get(node.input[0])
            if (
                node.op_type != "Conv"
                or groups == 1
                or before is None
                or before.op_type != "DequantizeLinear"
            ):
                continue
            after = {n.op_type for n in graph.node if node.output[0] in n.input}
            if after & {"HardSigmoid", "Sigmoid", "Mul"}:
                return node.name
        return None

    def Builder_build(self, o, _returned, network, config, *_):
        network, config, logger = self._of(network), self._of(config), o.arguments[0]
        if network.model is None:
            self._log(logger, "Network has no layers")
            return 0
        refusal = self._refusal(network, config)
        if refusal:
            self._log(logger, f"Error Code 4: {refusal}")
            return 0
        graph, data = network.model.graph, network.model.SerializeToString()
        if config.cache:
            cache, line = self._of(config.cache), f"{hashlib.sha256(data).hexdigest()}\n".encode()
            cache.data += b"" if line in cache.data else line
        members = self.trt.BuilderFlag.__members__
        head = {
            "version": self.version,
            "gpu": os.environ.get("FAKECUDA_NAME"),
            "ports": [self._port(v, INPUT) for v in graph.input]
            + [self._port(v, OUTPUT) for v in graph.output],
            "profiles": config.profiles,
            "shared": self.major >= 10 or "PROFILE_SHARING_0806" in config.previews,
            "hardware": config.hardware,
            "dla": config.dla if config.on_dla else None,
            "flags": sorted(name for name, v in members.items() if int(v) in config.flags),
            "network_flags": network.flags,
            "workspace": config.limits.get(int(self.trt.MemoryPoolType.WORKSPACE), 0),
            "layers": [[n.name, n.op_type] for n in graph.node],
            "sha256": hashlib.sha256(data).hexdigest(),
            **config.set,
        }
        return self._host(MAGIC + json.dumps(head).encode() + b"\0" + data)

    # ---- engine ----

    def Runtime_deserialize(self, o, _returned, blob, size, *_):
        logger, data = o.arguments[0], ctypes.string_at(blob, size)
        if not data.startswith(MAGIC) or b"\0" not in data:
            self._log(logger, "Serialization assertion magicTag == kMAGIC failed")
            return 0
        head, model = data[len(MAGIC) :].split(b"\0", 1)
        plan = json.loads(head)
        if hashlib.sha256(model).hexdigest() != plan["sha256"]:
            self._log(logger, "Serialization assertion: the plan is cut short or damaged")
            return 0
        portable = "VERSION_COMPATIBLE" in plan["flags"]
        if portable and not o.get("host_code"):
            self._log(logger, "Host executable code is not allowed: set engine_host_code_allowed")
            return 0
        old, new = ([int(n) for n in v.split(".")] for v in (plan["version"], self.version))
        if (old > new if portable else old != new) or self._fault("deserialize"):
            self._log(logger, "The engine plan file is not compatible with this version of TensorRT")
            return 0
        ports = {p["name"]: p for p in plan["ports"]}
        state = {"plan": plan, "model": model, "ports": ports, "session": None, "dla": o.get("dla")}
        return self._new("ICudaEngine", logger=logger, **state)

    def Runtime_num_dla(self, *_):
        return int(os.environ.get("TRTSIM_DLA_CORES", 0))

    def Runtime_set_dla(self, o, _returned, core, *_):
        o.dla = core & 0xFFFFFFFF

    def Runtime_set_host_code(self, o, _returned, allowed, *_):
        o.host_code = bool(allowed & 0xFF)

    def ICudaEngine_num_profiles(self, o, *_):
        return max(1, len(o.plan["profiles"]))

    def ICudaEngine_num_io_tensors(self, o, *_):
        return len(o.ports)

    def ICudaEngine_num_layers(self, o, *_):
        return len(o.plan["layers"])

    def ICudaEngine_device_memory(self, o, *_):
        return 4096

    ICudaEngine_device_memory_v2 = ICudaEngine_device_memory

    def ICudaEngine_get_tensor_name(self, o, _returned, index, *_):
        return self._text(o.plan["ports"][index & 0xFFFFFFFF]["name"])

    def ICudaEngine_get_tensor_mode(self, o, _returned, name, *_):
        return o.ports[self._string(name)]["mode"]

    def ICudaEngine_get_tensor_dtype(self, o, _returned, name, *_):
        return int(getattr(self.trt.DataType, TRT_NAME[o.ports[self._string(name)]["type"]]))

    def ICudaEngine_get_tensor_shape(self, o, returned, name, *_):
        self._write_dims(returned, o.ports[self._string(name)]["shape"])

    def ICudaEngine_create_execution_context(self, o, *_):
        if self._fault("context"):
            self._log(o.logger, "simulated: out of memory for activations")
            return 0
        state = {"shapes": {}, "addresses": {}, "profiler": 0, "marks_details": True}
        profile = 0 if self._is_free(o, 0) else -1  # the first profile, if no other context has it
        return self._new("IExecutionContext", engine=o, profile=profile, **state)

    def _is_free(self, engine, profile):
        """Whether a context may take a profile: before 10, two may not have the same unless asked for."""
        return engine.plan["shared"] or not any(
            c.kind == "IExecutionContext" and not c.dead and c.engine is engine and c.profile == profile
            for c in self.objects.values()
        )

    def IExecutionContext_set_profile(self, o, _returned, index, *_):
        index &= 0xFFFFFFFF
        if self._fault("profile") or index >= self.ICudaEngine_num_profiles(o.engine):
            self._log(o.engine.logger, f"setOptimizationProfileAsync: no profile {index}")
            return 0
        if index != o.profile and not self._is_free(o.engine, index):
            self._log(o.engine.logger, f"profile {index} has been chosen for another IExecutionContext")
            return 0
        o.profile, o.shapes = index, {}
        return 1

    def ICudaEngine_create_engine_inspector(self, o, *_):
        return self._new("EngineInspector", engine=o)

    def EngineInspector_get_engine_information(self, o, *_):
        """The JSON of the version: names only, or with formats in one field (10) or two (11)."""
        plan = o.engine.plan
        if answer := os.environ.get("TRTSIM_INSPECTOR"):
            return self._text(answer)
        if not plan.get("detailed"):
            return self._text(json.dumps({"Layers": [name for name, _ in plan["layers"]], "Bindings": []}))
        types = {"Format/Datatype": "Row major linear FP32"}
        if self.major >= 11:
            types = {"Format": "Linear", "Datatype": "Float"}
        layers = [
            {"Name": name, "LayerType": kind, "Outputs": [types], "TacticName": "sim"}
            for name, kind in plan["layers"]
        ]
        ports = "I/O Tensors" if self.major >= 11 else "Bindings"
        return self._text(json.dumps({"Layers": layers, ports: list(o.engine.ports)}))

    # ---- execution ----

    def IExecutionContext_set_input_shape(self, o, _returned, name, dims, *_):
        name, asked = self._string(name), self._read_dims(dims)
        port = o.engine.ports.get(name)
        if self._fault("input_shape") or port is None or port["mode"] != INPUT:
            return 0
        profiles = o.engine.plan["profiles"]
        if profiles and o.profile < 0:
            self._log(o.engine.logger, "set_input_shape: the context has no optimization profile")
            return 0
        limits = {int(k): v for k, v in profiles[o.profile].get(name, {}).items()} if profiles else {}
        for axis, (want, have) in enumerate(zip(port["shape"], asked, strict=True)):
            open_one = want == -1 and limits[MIN][axis] <= have <= limits[MAX][axis]
            if want != have and not open_one:
                self._log(o.engine.logger, f"set_input_shape: {asked} is outside the profile of {name}")
                return 0
        o.shapes[name] = asked
        return 1

    def IExecutionContext_set_tensor_address(self, o, _returned, name, address, *_):
        name = self._string(name)
        if self._fault("address") or name not in o.engine.ports:
            return 0
        o.addresses[name] = address
        return 1

    def _shape(self, o, port):
        """Shape of a port under the input shapes that were set: an open batch follows the input's."""
        if port["mode"] == INPUT:
            return o.shapes.get(port["name"], port["shape"])
        batch = next(iter(o.shapes.values()), [-1])[0]
        return [batch if d == -1 else d for d in port["shape"]]

    def IExecutionContext_get_tensor_shape(self, o, returned, name, *_):
        self._write_dims(returned, self._shape(o, o.engine.ports[self._string(name)]))

    def IExecutionContext_set_profiler(self, o, _returned, profiler, *_):
        o.profiler = profiler

    def IExecutionContext_set_nvtx_verbosity(self, o, _returned, verbosity, *_):
        o.marks_details = verbosity & 0xFF == int(self.trt.ProfilingVerbosity.DETAILED)
        return 1

    def IExecutionContext_execute_async_v3(self, o, _returned, stream, *_):
        if self._fault("enqueue"):
            self._log(o.engine.logger, "simulated: Cuda Runtime (an illegal memory access was encountered)")
            return 0
        work = []
        for port in o.engine.ports.values():
            shape, kind = self._shape(o, port), np.dtype(NUMPY[port["type"]])
            if port["name"] not in o.addresses or -1 in shape:
                self._log(o.engine.logger, f"{port['name']} has no address or no shape")
                return 0
            size = int(np.prod(shape)) * kind.itemsize
            if not self.cuda.fakecuda_inside(o.addresses[port["name"]], size):
                self.problems.append(f"{port['name']}: {size} bytes do not lie in one allocation")
                return 0
            work.append((port, tuple(shape), kind, o.addresses[port["name"]], size))
        # A captured call is run again and again: what it does is kept by number.
        key = (id(o.engine), *((port["name"], shape, address) for port, shape, _, address, _ in work))
        number = self._numbers.setdefault(key, len(self._queued))
        if number == len(self._queued):
            self._queued.append((o.engine, work))
        if o.profiler:
            for name, kind in o.engine.plan["layers"]:
                self.library.report(o.profiler, self.user_slot, name or kind, 0.01)
        layers = max(1, len(o.engine.plan["layers"]))
        layer_us = float(os.environ.get("TRTSIM_LAYER_US", 3))
        call_ms = float(os.environ.get("TRTSIM_CALL_US", 0)) / 1e3 or layers * layer_us / 1e3
        if "TRTSIM_ROOFLINE" in os.environ:
            call_ms = self._roofline_ms(o.engine, work[0][1][0])
        return not self.cuda.fakecuda_enqueue(stream, self._runner, number, layers, call_ms)

    @staticmethod
    def _roofline_ms(engine, batch):
        """What a call takes on a card of so many GMAC/s and GB/s: networks then differ as on a real one."""
        from hwnas.backends.fake_price import FakeDevice, price_ms

        gmacs_per_s, gb_per_s = map(float, os.environ["TRTSIM_ROOFLINE"].split(","))
        card = FakeDevice(
            gmacs_per_s=gmacs_per_s,
            cache_gb_per_s=3 * gb_per_s,
            memory_gb_per_s=gb_per_s,
            cache_bytes=3 << 20,
            op_overhead_us=4.0,
        )
        return price_ms(engine.model, card, "fp32", batch, 1)

    def _run(self, number):
        """One queued execution, when the simulated stream gets to it."""
        try:
            engine, work = self._queued[number or 0]
            on_a_clock = "FAKECUDA_CLOCK" in os.environ  # of the device's own: its arithmetic takes no time
            if on_a_clock and engine.get("last") == (number, self.cuda.fakecuda_writes()):
                return 0  # input and answers lie there still
            feed = {
                port["name"]: np.frombuffer((ctypes.c_char * size).from_address(address), kind).reshape(shape)
                for port, shape, kind, address, size in work
                if port["mode"] == INPUT
            }
            names = [port["name"] for port, *_ in work if port["mode"] == OUTPUT]
            targets = [address for port, _, _, address, _ in work if port["mode"] == OUTPUT]
            values = engine.get("answers") if on_a_clock else None
            known = tuple(hashlib.sha1(array.data.cast("B")).digest() for array in feed.values())
            if values is None or engine.known != known:  # equal inputs are computed once
                # A network's scores serve every engine of the plan; what blocks give would fill the memory.
                key = (engine.plan["sha256"], known)
                values = self._scores.get(key) if on_a_clock else None
                if values is None:
                    values = self._session(engine).run(names, feed)
                if sum(value.nbytes for value in values) <= SMALL_BYTES:
                    self._scores[key] = values
                engine.known, engine.answers = known, values
            for value, address in zip(values, targets, strict=True):
                value = np.ascontiguousarray(value)
                ctypes.memmove(address, value.ctypes.data, value.nbytes)
            self.cuda.fakecuda_wrote()
            engine.last = (number, self.cuda.fakecuda_writes())
            return 0
        except Exception:
            self.problems.append(traceback.format_exc())
            return 1

    @staticmethod
    def _session(engine):
        import onnxruntime

        if engine.session is None:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = 1
            options.log_severity_level = 3
            engine.session = onnxruntime.InferenceSession(
                engine.model, options, providers=["CPUExecutionProvider"]
            )
        return engine.session
