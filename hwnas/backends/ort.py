"""ONNX Runtime on the CPU: every graph optimisation, float32 or int8, one session an engine.

Engine files are ONNX Runtime's own format (``.ort``): the graph after optimisation for this very
processor. `load` also takes a portable ``.onnx``, which it optimises first.

What a `Setting` fixes here: `threads` are the intra-op threads (operators run one after another),
`spin` is whether idle ones spin between operators (the runtime's own default, which is kept for
more than one thread; a single thread has no other thread to wait for), `affinity` the cores that the
threads are bound to, first the calling thread's (None: the scheduler chooses).
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hwnas.arrays import Float32s
from hwnas.backends import package_version
from hwnas.backends.base import Life, check_cpu, cpu_setting, random_input, refusals_of, time_calls
from hwnas.backends.formats import Format
from hwnas.backends.forms import form_of, onnx_runtime
from hwnas.backends.onnx_file import read_model
from hwnas.backends.quantized import Quantized
from hwnas.errors import BackendUnavailable, BuildError, DataFormatError, InputError
from hwnas.lazy import lazy_import
from hwnas.protocols import CallTimes, Int8Form
from hwnas.records import Precision, Setting
from hwnas.store import atomic_path, scratch, write_bytes

ort = lazy_import("onnxruntime")

PROVIDER = "CPUExecutionProvider"
PRECISIONS: tuple[Precision, ...] = ("fp32", "int8")
DISTRIBUTIONS = ("onnxruntime", "onnxruntime-gpu")


class Ort:
    """ONNX Runtime on this machine's CPU."""

    name = "ort"
    suffix = ".ort"
    devices: tuple[str, ...] = ("cpu",)

    def __init__(self) -> None:
        self._quantized = Quantized()

    @property
    def version(self) -> str:
        """Installed version."""
        return package_version(*DISTRIBUTIONS)

    def unavailable(self) -> str | None:
        """Whether the package is missing, with the line that installs it."""
        return None if find_spec("onnxruntime") else "onnxruntime is not installed: pip install onnxruntime"

    def setting(self, device: str, precision: Precision, batch: int, threads: int) -> Setting:
        """Conditions of a run here; InputError for a precision that it would not really run in."""
        check_cpu(self.name, device, threads)
        if precision not in PRECISIONS:
            raise InputError(
                f"--precision {precision}: on a CPU the ort backend runs {' and '.join(PRECISIONS)} (fp16 "
                "and bf16 would be computed in fp32 behind casts); use one of these, or another backend"
            )
        return cpu_setting(self.name, self.version, device, precision, batch, threads, spin=threads > 1)

    def forms(self) -> tuple[Int8Form, ...]:
        """uint8 between two convolutions, sums and pools included."""
        return onnx_runtime()

    def build(self, model: bytes, setting: Setting) -> OrtEngine:
        """Optimise an ONNX model; BuildError with the runtime's words if it refuses."""
        return OrtEngine(
            self._quantized(model, form_of(self, setting.form)) if setting.precision == "int8" else model,
            setting,
        )

    def load(self, path: Path, setting: Setting) -> OrtEngine:
        """Load an ``.ort`` or ``.onnx`` file; DataFormatError if it is missing or damaged."""
        if not path.is_file():
            raise InputError(f"engine {path} does not exist")
        try:
            if path.suffix == ".onnx":
                return self.build(read_model(path), setting)
            return OrtEngine(path.read_bytes(), setting)
        except BuildError as exc:
            raise DataFormatError(f"engine {path} cannot be loaded by ONNX Runtime: {exc}") from exc


FORMAT = Format(Ort.name, "ONNX Runtime's optimised graph", Ort.suffix, backend=Ort.name)


class OrtEngine(Life):
    """One session with its input resident in memory."""

    def __init__(self, model: bytes, setting: Setting) -> None:
        if setting.precision not in PRECISIONS:
            raise InputError(f"the ort backend runs {' and '.join(PRECISIONS)}, not {setting.precision}")
        if setting.affinity is not None and len(setting.affinity) != setting.threads:
            raise InputError(
                f"affinity {setting.affinity} must name one core for each of {setting.threads} threads"
            )
        self.setting = setting
        self._model = model
        self._session = _session(model, setting)
        ports, outputs = self._session.get_inputs(), self._session.get_outputs()
        if len(ports) != 1 or ports[0].type != "tensor(float)":
            raise BuildError(f"expected one float32 input, found {[(p.name, p.type) for p in ports]}")
        self._input, self._output = ports[0].name, outputs[0].name
        self.shape = tuple(n if isinstance(n, int) else 0 for n in ports[0].shape)
        if self.shape and self.shape[0] not in (0, setting.batch):
            raise InputError(f"the model has batch {self.shape[0]}, the setting has batch {setting.batch}")
        self._binding = self._bind(setting.batch)

    def _bind(self, batch: int) -> Any:
        shape = (batch, *self.shape[1:])
        if 0 in shape:
            raise BuildError(f"the model's input has unknown sizes besides the batch: {self.shape}")
        binding = self._session.io_binding()
        binding.bind_ortvalue_input(self._input, ort.OrtValue.ortvalue_from_numpy(random_input(shape)))
        binding.bind_output(self._output)
        return binding

    def run(self, images: Float32s) -> Float32s:
        """Scores of `images` (batch, channels, height, width)."""
        array = self._check_images(images)
        with refusals_of(_name()):
            scores: Float32s = self._session.run([self._output], {self._input: array})[0]
        return scores

    def time(self, calls: int) -> CallTimes:
        """Time single calls on bound input; outputs are written where the runtime put them before."""
        self._check_calls(calls)
        call, binding = self._session.run_with_iobinding, self._binding
        with refusals_of(_name()):
            return time_calls(lambda: call(binding), calls, self.setting)

    def save(self, path: Path) -> None:
        """Write the optimised graph in ONNX Runtime's format."""
        self._check_open()
        if is_ort_format(self._model):  # it was loaded from such a file: the very same bytes
            write_bytes(path, self._model)
            return
        with scratch() as folder, atomic_path(path) as temporary:
            written = folder / "engine.ort"
            _session(self._model, self.setting, save_to=written)
            temporary.write_bytes(written.read_bytes())

    def close(self) -> None:
        """Drop the session."""
        self._open = False
        self._session = self._binding = None


def is_ort_format(model: bytes) -> bool:
    """Whether bytes are ONNX Runtime's format: a flatbuffer with the file identifier ORTM."""
    return model[4:8] == b"ORTM"


def _name() -> str:
    return f"ONNX Runtime {ort.__version__}"


def _session(model: bytes, setting: Setting, save_to: Path | None = None) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = setting.threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3  # errors; the warning that .ort files are made for one processor is known
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if setting.spin else "0")
    if setting.affinity is not None and setting.threads > 1:
        # One entry a helper thread (the calling thread is the first), cores counted from 1.
        helpers = ";".join(str(core + 1) for core in setting.affinity[1 : setting.threads])
        options.add_session_config_entry("session.intra_op_thread_affinities", helpers)
    if save_to is not None:
        options.optimized_model_filepath = str(save_to)
        options.add_session_config_entry("session.save_model_format", "ORT")
    with refusals_of(_name()):
        session = ort.InferenceSession(model, options, providers=[PROVIDER])
    check_provider(session.get_providers(), PROVIDER)
    return session


def check_provider(got: list[str], asked: str) -> None:
    """Refuse a session that fell back: the runtime does so with no more than a log line."""
    if not got or got[0] != asked:
        raise BackendUnavailable(
            f"ONNX Runtime was asked for {asked} and gave {got[0] if got else 'none'}; "
            "its times would be those of another device"
        )
