"""What differs between TensorRT 8.6, 10 and 11, in one place, by name.

Enumerations were renumbered twice (``1 << 1`` asks for strong typing in 10 and for something else in
11), and members were removed, so no number of theirs is written anywhere: a name is looked up, and
what is absent is not needed in that version.
"""

from __future__ import annotations

import atexit
import json
import re
import warnings
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

from hwnas.backends import package_version
from hwnas.backends.cuda import libraries
from hwnas.errors import BackendUnavailable, BuildError, InputError
from hwnas.records import BuildChoices, Compatible, Precision, Setting

# Every way in which TensorRT gets installed registers one of these.
DISTRIBUTIONS = (
    *("tensorrt", "tensorrt-cu13", "tensorrt-cu12", "tensorrt-cu11", "tensorrt-bindings"),
    *("tensorrt-cu13-bindings", "tensorrt-cu12-bindings"),
)


def installed_version() -> str:
    """Version of TensorRT without importing it; empty where none is installed."""
    return package_version(*DISTRIBUTIONS)


@cache
def module() -> ModuleType:
    """The tensorrt module; BackendUnavailable with the loader's words where it does not load."""
    version = installed_version()
    if version.startswith("8."):
        libraries.preload(cuda_runtime=12, cuda_nvrtc=12, cublas=12, cudnn=8)
    try:
        import tensorrt
    except (ImportError, OSError, RuntimeError) as exc:
        cure = libraries.cure(str(exc))
        raise BackendUnavailable(
            f"TensorRT {version} cannot be loaded: {exc}{f'; {cure}' if cure else ''}"
        ) from exc
    found: ModuleType = tensorrt
    return found


def major(trt: Any) -> int:
    """Major version."""
    return int(trt.__version__.split(".")[0])


def typed_only(trt: Any) -> bool:
    """Whether the graph's own types decide the precision (11 and later)."""
    return major(trt) >= 11


def creation_flags(trt: Any) -> int:
    """Bits for ``create_network``: an explicit batch before 10, nothing since."""
    names = ("EXPLICIT_BATCH",) if major(trt) < 10 else ()
    return bits(trt.NetworkDefinitionCreationFlag, names)


def bits(enum: Any, names: tuple[str, ...]) -> int:
    """A mask of enumeration members by name."""
    return sum(1 << int(getattr(enum, name)) for name in names)


PRECISION_FLAGS: dict[Precision, str] = {"fp16": "FP16", "bf16": "BF16", "int8": "INT8"}


def refuses_precision(version: str, precision: Precision) -> str | None:
    """Why a version of TensorRT cannot compute in a precision here; None where it can."""
    release = int(version.split(".")[0])
    if precision == "bf16" and release < 10:
        return f"TensorRT {version} has no bf16; use fp16 or fp32"
    if precision == "bf16" and release >= 11:
        return (
            f"TensorRT {version} computes in the types of the graph, and ONNX opset 17 has no bf16 "
            "convolution; use fp16"
        )
    return None


def set_precision(trt: Any, config: Any, precision: Precision, *, half: bool = False) -> None:
    """Ask a builder for a precision by flags, where the version has them.

    fp32 means IEEE float32: TF32, which rounds inputs to 10 bits of mantissa and is on by default,
    is switched off. With `half`, layers of an int8 network that are not quantized may be half precision.

    Raises:
        InputError: the version cannot give the precision at all.
    """
    refusal = refuses_precision(trt.__version__, precision)
    if refusal:
        raise InputError(refusal)
    if precision == "fp32":
        config.clear_flag(trt.BuilderFlag.TF32)
    elif not typed_only(trt):
        config.set_flag(getattr(trt.BuilderFlag, PRECISION_FLAGS[precision]))
        if half and precision == "int8":
            config.set_flag(getattr(trt.BuilderFlag, PRECISION_FLAGS["fp16"]))


# Levels of compatibility with other GPUs, by what a user asks for.
HARDWARE: dict[Compatible, str] = {"ampere": "AMPERE_PLUS", "capability": "SAME_COMPUTE_CAPABILITY"}


def refuses_compatible(trt: Any, capability: tuple[int, int], wanted: tuple[Compatible, ...]) -> str | None:
    """Why a version, or a chip, builds no engine that serves elsewhere as it is asked; None where it does."""
    if {"ampere", "capability"} <= set(wanted):
        return "ampere and capability exclude each other: every GPU from Ampere on, or those like this one"
    if "capability" in wanted and not hasattr(trt.HardwareCompatibilityLevel, HARDWARE["capability"]):
        return f"capability needs TensorRT 10 or later, this is {trt.__version__}"
    if "ampere" in wanted and capability < (8, 0):
        return (
            f"ampere needs a GPU of compute capability 8.0 or later to build on, this has {_dots(capability)}"
        )
    return None


def _dots(capability: tuple[int, int]) -> str:
    return ".".join(map(str, capability))


def set_choices(trt: Any, config: Any, choices: BuildChoices) -> None:
    """Ask a builder for what a user chose besides the precision; names are those of all versions."""
    if "version" in choices.compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    for one in choices.compatible:
        if one in HARDWARE:
            level = getattr(trt.HardwareCompatibilityLevel, HARDWARE[one])
            config.hardware_compatibility_level = level
    if choices.dla is not None:
        config.default_device_type = trt.DeviceType.DLA
        config.DLA_core = choices.dla
        config.set_flag(trt.BuilderFlag.GPU_FALLBACK)  # layers that a DLA lacks: the GPU runs them


def share_profiles(config: Any) -> None:
    """Let several contexts use one optimisation profile, which has to be asked for before 10."""
    trt = module()
    if major(trt) < 10:
        config.set_preview_feature(trt.PreviewFeature.PROFILE_SHARING_0806, True)  # api: before 11


def open_runtime(trt: Any, choices: BuildChoices) -> Any:
    """A runtime that can read what was built by such choices.

    A plan for later versions brings code of its own, which runs in this process: it is allowed for those
    plans only, whose manifest was compared with the file.
    """
    runtime = construct(trt.Runtime, "loading a plan")
    if "version" in choices.compatible:
        runtime.engine_host_code_allowed = True
    if choices.dla is not None:
        runtime.DLA_core = choices.dla
    return runtime


def dla_cores() -> int:
    """Cores of the deep-learning accelerator here: none but on some Jetsons."""
    return int(construct(module().Runtime, "counting accelerators").num_DLA_cores)


def reads(built: Setting, here: Setting) -> tuple[str, ...]:
    """Fields of a setting in which a plan's may differ from this machine's, by how it was built."""
    may: list[str] = []
    was, now = (_release(setting.backend_version) for setting in (built, here))
    if "version" in built.compatible and (8, 6) <= was <= now:
        may.append("backend_version")
    mine, other = (re.search(r"capability (\d+)\.(\d+)", s.device_arch) for s in (built, here))
    if mine and other:
        same = mine.groups() == other.groups()
        ampere = "ampere" in built.compatible and int(other[1]) >= 8
        if ampere or ("capability" in built.compatible and same):
            may.append("device_arch")
    return tuple(may)


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:4])


def set_half(trt: Any, port: Any) -> None:
    """Make an end of a network float16 where flags decide the precision (before 11)."""
    with warnings.catch_warnings():
        # 10.12 and later warn that strong typing supersedes it; as an error, the warning would undo it.
        warnings.simplefilter("ignore", DeprecationWarning)
        port.dtype = trt.DataType.HALF


@cache
def logger() -> Any:
    """The one logger of this process (TensorRT keeps the first that it is given)."""
    trt = module()
    severity = trt.ILogger.Severity

    # TensorRT's module is untyped, and only there once it is loaded: no base class that mypy could know.
    class Words(trt.ILogger):  # type: ignore[misc, name-defined]
        """Keeps what TensorRT says, so that an error can carry it."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, level: Any, message: str) -> None:
            """Called by TensorRT, from any of its threads."""
            if level in (severity.INTERNAL_ERROR, severity.ERROR):
                self.errors.append(message.strip())

        def take(self) -> str:
            """The errors since the last call, in one line."""
            said, self.errors = self.errors, []
            return "; ".join(dict.fromkeys(said)) or "TensorRT gave no reason"

    return Words()


def construct(kind: Any, name: str) -> Any:
    """A builder or runtime; the bindings raise TypeError where the library gave none.

    Raises:
        BuildError: with the library's own words; `name` says for what it was.
    """
    try:
        return kind(logger())
    except TypeError as exc:
        raise BuildError(f"TensorRT cannot start for {name}: {logger().take()}") from exc


@cache
def builder() -> Any:
    """The one builder of this process: each start takes seconds and up to 2 GB of the host's memory.

    Raises:
        BuildError: with the library's own words.
    """
    made = construct(module().Builder, "building engines")
    atexit.register(builder.cache_clear)  # before the logger that it speaks to is gone
    return made


def parser_errors(parser: Any) -> str:
    """Every error of an ONNX parser with the node that it is about."""
    said = []
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        name = getattr(error, "node_name", None)  # since 10
        operator = getattr(error, "node_operator", None)
        where = f"{operator()} {name()}" if name and operator else f"node {error.node()}"
        said.append(f"{error.desc()} ({where})")
    return "; ".join(said)


def device_memory_bytes(engine: Any) -> int:
    """Activation memory that a context of this engine takes."""
    newer = getattr(engine, "device_memory_size_v2", None)
    return int(newer if newer is not None else engine.device_memory_size)  # api: before 11


def profiler(totals: dict[str, float]) -> Any:
    """A profiler for a context's ``profiler``, which adds up milliseconds by layer name."""
    trt = module()

    class Adding(trt.IProfiler):  # type: ignore[misc, name-defined]  # the base class is untyped
        """Called by TensorRT after each layer."""

        def __init__(self) -> None:
            trt.IProfiler.__init__(self)

        def report_layer_time(self, name: str, ms: float) -> None:
            """Add one layer's time."""
            totals[name] = totals.get(name, 0.0) + ms

    return Adding()


@dataclass(frozen=True)
class Layer:
    """One layer of a built engine, after TensorRT's fusions.

    Attributes:
        name: TensorRT's, which joins the names of the ONNX nodes that it fused.
        kind: for example "CaskConvolution"; empty where the engine keeps names only.
        tactic: the kernel that was chosen; empty where the engine does not say.
        outputs: data types of the outputs as TensorRT words them.
    """

    name: str
    kind: str = ""
    tactic: str = ""
    outputs: tuple[str, ...] = ()


def parse_layers(text: str) -> tuple[Layer, ...]:
    """Layers from the engine inspector's JSON, of any version.

    Before 11 a tensor has one field ``Format/Datatype``; since 11 ``Datatype`` stands by itself.
    An engine built with names only gives a list of strings.

    Raises:
        BuildError: it is not such JSON.
    """
    try:
        return tuple(_layer(entry) for entry in json.loads(text)["Layers"])
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as exc:
        raise BuildError(f"the engine inspector gave an unexpected answer: {text[:80]!r}") from exc


def _layer(entry: str | dict[str, Any]) -> Layer:
    if isinstance(entry, str):
        return Layer(entry)
    outputs = entry.get("Outputs") or ()
    types = tuple(str(t.get("Datatype") or t.get("Format/Datatype", "")) for t in outputs)
    return Layer(
        name=str(entry.get("Name", "")),
        kind=str(entry.get("LayerType", "")),
        tactic=str(entry.get("TacticName", "")),
        outputs=types,
    )
