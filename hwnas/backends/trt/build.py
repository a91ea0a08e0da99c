"""From ONNX to a TensorRT plan."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwnas.backends.forms import TENSORRT
from hwnas.backends.trt import compat
from hwnas.errors import BuildError, InputError
from hwnas.lazy import lazy_import
from hwnas.records import Compatible, Precision, Setting
from hwnas.store import home, write_bytes

onnx = lazy_import("onnx")


@dataclass(frozen=True)
class TrtOptions:
    """How engines are built.

    Attributes:
        workspace: largest share of the GPU's memory that a kernel may take as scratch.
        level: builder optimisation level, 0 to 5 (TensorRT's default is 3).
        timings: times that the builder tries each kernel (8 as in trtexec; the API's default of 1
            makes builds differ more).
        detailed: keep kernels and data types in the engine for `TrtEngine.layers`.
        cache: keep the timing cache between builds.
    """

    workspace: float = 0.5
    level: int = 3
    timings: int = 8
    detailed: bool = True
    cache: bool = True

    def __post_init__(self) -> None:
        if not (0 < self.workspace <= 1 and 0 <= self.level <= 5 and self.timings >= 1):
            raise InputError(
                f"expected workspace above 0 up to 1, level 0 to 5 and timings at least 1, got {self}"
            )


def cache_path(setting: Setting) -> Path:
    """The timing cache of a device and version: profile, search and export share it."""
    parts = (setting.backend_version, setting.device_arch, setting.driver)
    slug = re.sub(r"[^a-z0-9.]+", "-", " ".join(parts).lower()).strip("-")
    return home() / "timing-cache" / f"trt-{slug}.cache"


def title(model: bytes) -> str:
    """What a model is called in messages: its graph's name, which `nets.onnx` makes of block keys."""
    try:
        return str(onnx.load_model_from_string(model).graph.name)
    except Exception:  # protobuf's DecodeError has moved between versions
        return f"a model of {len(model)} bytes"


@dataclass(frozen=True)
class BuiltPlan:
    """What was built.

    Attributes:
        data: TensorRT's serialised engine.
        float_layers: convolutions of an int8 network that TensorRT had no int8 kernels for.
    """

    data: bytes
    float_layers: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Graph:
    """A graph in its final types; `half_ends` are those that a builder's flags are to make half."""

    data: bytes
    half_ends: frozenset[str] = frozenset()


def typed_model(model: bytes, precision: Precision) -> bytes:
    """The graph that TensorRT gets for a precision that it is asked for by flags.

    int8 takes Q/DQ pairs in every version. A graph that has them already is used as it is; else the
    ranges come from a few seeded random images, which is right for measuring time and only a
    starting point for accuracy (`verify` tells).
    """
    from hwnas.backends import calibrate, typed  # import onnx, which asking for a backend must not

    model = typed.plain(model)
    return calibrate.for_timing(model, TENSORRT) if precision == "int8" else model


# Of NVIDIA's own tool, by what a user asks for.
_TRTEXEC: dict[Compatible, str] = {
    "version": "--versionCompatible",
    "ampere": "--hardwareCompatibilityLevel=ampere+",
    "capability": "--hardwareCompatibilityLevel=sameComputeCapability",
}


def trtexec(onnx: str, engine: str, setting: Setting, image: tuple[int, ...]) -> str:
    """The command of NVIDIA's own tool that builds what `build_plan` would, from a typed graph.

    Of several batch sizes it makes one profile, which is best at the largest and takes all: it says so.
    """
    words = [f"trtexec --onnx={onnx} --saveEngine={engine} --maxAuxStreams=0 --avgTiming=8"]
    if setting.batches:
        words += [
            f"--{name}Shapes=input:{'x'.join(map(str, (size, *image)))}"
            for name, size in (("min", 1), ("opt", setting.batches[-1]), ("max", setting.batches[-1]))
        ]
    words += [_TRTEXEC[one] for one in setting.compatible]
    if setting.dla is not None:
        words.append(f"--useDLACore={setting.dla} --allowGPUFallback")
    if setting.precision == "fp32":
        words.append("--noTF32")
    else:
        words.append(f"(and --{setting.precision} with a TensorRT before 11)")
    if setting.batches:
        words.append(f"(one profile, best at {setting.batches[-1]})")
    return " ".join(words)


SPARED_ROUNDS = 8  # builds that each spare the layers that the one before named


def build_plan(
    model: bytes, setting: Setting, options: TrtOptions, memory_bytes: int, *, half: bool = False
) -> BuiltPlan:
    """A serialised TensorRT engine.

    TensorRT 8 lacks int8 kernels for some depthwise convolutions (NVIDIA/TensorRT issues 3385, 4060). An
    int8 network that it cannot build is built again with the layer in float that it named, and so on; where
    that does not end, with all depthwise and gating convolutions in float.

    The ends of a part of a network (`nets.onnx.chain`) are half precision where the network computes in it:
    within a network nothing is converted between two blocks.

    Args:
        model: float32 ONNX, batch fixed or open.
        setting: precision and batch decide.
        options: how.
        memory_bytes: memory of the GPU.
        half: whether layers of an int8 network that stay float may be half precision; where the GPU is
            fast in it, they would else be the slowest.

    Raises:
        BuildError: with TensorRT's own words and the network's name.
        InputError: the version cannot give this precision, or the batch is not the setting's.
    """
    from hwnas.backends import typed  # imports onnx, which asking for a backend must not

    typed_only = compat.typed_only(compat.module())
    compat.logger().take()
    name, precision = title(model), setting.precision
    in_half = precision == "fp16" or (precision == "int8" and half)
    ends = typed.inner_ends(model) if in_half else frozenset()

    def built(graph: bytes) -> bytes:
        """The plan of a graph whose layers are quantized or not as they will be."""
        final = _Graph(graph, frozenset() if typed_only else ends)
        if typed_only and in_half:
            final = _Graph(_halved(graph, ends))
        return _built(final, name, setting, options, memory_bytes, half)

    graph = typed_model(model, precision)
    if precision != "int8":
        return BuiltPlan(built(graph))
    spared: frozenset[str] = frozenset()
    first: BuildError | None = None
    for attempt in range(SPARED_ROUNDS + 1):
        try:
            return BuiltPlan(built(typed.spare(graph, spared) if spared else graph), tuple(sorted(spared)))
        except BuildError as exc:
            first = first or exc
            left = typed.quantized_layers(graph) - spared
            named = {layer for layer in left if _names(str(exc), layer)}
            hard = typed.hard_to_quantize(graph) & left
            more = named if named and attempt < SPARED_ROUNDS - 1 else hard
            if not more:
                break
            spared |= more
    assert first is not None
    raise first


def _names(words: str, layer: str) -> bool:
    """Whether TensorRT's words name a layer, alone or among those that it fused."""
    return bool(layer) and re.search(rf"(?<![\w.]){re.escape(layer)}(?!\w|\.\w)", words) is not None


def _halved(graph: bytes, ends: frozenset[str]) -> bytes:
    """A graph whose float arithmetic is float16. A quantized one that cannot be written so keeps float32."""
    from hwnas.backends import typed
    from hwnas.backends.quantize_plan import is_quantized

    try:
        return typed.to_half(graph, ends)
    except BuildError:
        if is_quantized(graph):
            return graph
        raise


def _built(
    graph: _Graph, name: str, setting: Setting, options: TrtOptions, memory_bytes: int, half: bool
) -> bytes:
    """The plan of a graph in its final types."""
    trt, log = compat.module(), compat.logger()
    builder = compat.builder()
    network = builder.create_network(compat.creation_flags(trt))
    parser = trt.OnnxParser(network, log)
    if not parser.parse(graph.data):
        said = compat.parser_errors(parser) or log.take()
        raise BuildError(f"TensorRT {trt.__version__} cannot parse {name}: {said}")
    for port in (network.get_input(0), network.get_output(0)):
        if port.name in graph.half_ends:
            compat.set_half(trt, port)
    config = builder.create_builder_config()
    configure(trt, config, setting.precision, options, memory_bytes, half=half)
    compat.set_choices(trt, config, setting.choices)
    _add_profiles(builder, network, config, setting, name)
    cache = TimingCache(config, cache_path(setting), log) if options.cache else None
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise BuildError(
            f"TensorRT {trt.__version__} cannot build {name} in {setting.precision}: {log.take()}"
        )
    if cache is not None:
        cache.save()
    return bytes(plan)


def configure(
    trt: Any,
    config: Any,
    precision: Precision,
    options: TrtOptions,
    memory_bytes: int,
    *,
    half: bool = False,
) -> None:
    """Set a builder configuration: one stream, bounded scratch memory, repeated timing of kernels."""
    pool = trt.MemoryPoolType.WORKSPACE
    config.set_memory_pool_limit(pool, int(options.workspace * memory_bytes))
    config.builder_optimization_level = options.level
    config.avg_timing_iterations = options.timings
    config.max_aux_streams = 0
    verbosity = trt.ProfilingVerbosity
    config.profiling_verbosity = verbosity.DETAILED if options.detailed else verbosity.LAYER_NAMES_ONLY
    compat.set_precision(trt, config, precision, half=half)


def _add_profiles(builder: Any, network: Any, config: Any, setting: Setting, name: str) -> None:
    """Optimisation profiles for an open batch: one for each size of the setting, best at that size, which
    reaches down to the size before; together they take every number of images up to the largest.
    """
    shape, batch = tuple(network.get_input(0).shape), setting.batch
    if shape[0] not in (-1, batch):
        raise InputError(f"{name} has batch {shape[0]}, the setting has batch {batch}")
    if -1 not in shape:
        return
    if -1 in shape[1:]:
        raise BuildError(f"{name}: only the batch size may be dynamic, but the input shape is {shape}")
    compat.share_profiles(config)  # calls at once have a context each, all on the same profile
    least = 1
    for size in sizes(setting):
        profile = builder.create_optimization_profile()
        full = (size, *shape[1:])
        profile.set_shape(network.get_input(0).name, (least, *shape[1:]), full, full)
        if config.add_optimization_profile(profile) < 0:
            said = compat.logger().take()
            raise BuildError(f"TensorRT refused the batch sizes {least} to {size} of {name}: {said}")
        least = size + 1


def sizes(setting: Setting) -> tuple[int, ...]:
    """The batch sizes that an engine with an open batch is at its best for, ascending."""
    return setting.batches or (setting.batch,)


class TimingCache:
    """What the builder learned about kernels, kept between builds on the same device and version."""

    def __init__(self, config: Any, path: Path, log: Any) -> None:
        """Attach the cache at `path` to a builder configuration; one that TensorRT refuses is dropped.

        The object that TensorRT reads from must outlive the build, so it is held here.
        """
        self._config, self._path = config, path
        self._before = path.read_bytes() if path.is_file() else b""
        self._cache = config.create_timing_cache(self._before)
        if self._cache is not None and config.set_timing_cache(self._cache, ignore_mismatch=False):
            return
        log.take()  # it says that the cache is another device's; a fresh one takes its place
        self._before = b""
        self._cache = config.create_timing_cache(b"")
        if not config.set_timing_cache(self._cache, ignore_mismatch=False):
            raise BuildError(f"TensorRT refused an empty timing cache: {log.take()}")

    def save(self) -> None:
        """Write what was learned, if it is new."""
        learned = bytes(self._config.get_timing_cache().serialize())
        if hashlib.sha256(learned).digest() != hashlib.sha256(self._before).digest():
            write_bytes(self._path, learned)
