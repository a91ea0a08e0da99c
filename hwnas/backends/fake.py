"""A deterministic device for testing everything without hardware: a roofline with a virtual clock.

`run` gives true outputs (computed by ONNX Runtime on first use); `time` gives the prices of
`hwnas.backends.fake_price`, disturbed by the faults that a test plants, and takes no real time.
Its figures describe no real device: tables taken on it are for tests and for learning the commands.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from hwnas import schemas
from hwnas.arrays import Bools, Float32s, Float64s
from hwnas.backends.base import Life, refusals_of
from hwnas.backends.fake_price import BYTES, FakeDevice, price_ms
from hwnas.documents import json_object, read_bytes
from hwnas.errors import BackendUnavailable, BuildError, DataFormatError, InputError
from hwnas.lazy import lazy_import
from hwnas.protocols import CallTimes, Int8Form
from hwnas.records import Precision, Setting
from hwnas.store import write_bytes

ort = lazy_import("onnxruntime")
onnx = lazy_import("onnx")

VERSION = "1"


@dataclass(frozen=True)
class FakeFaults:
    """What is wrong with the device. The default is a device without noise.

    Times are on the device's virtual clock, in seconds; a window (from, until) is where it acts.

    Attributes:
        seed: of everything random here.
        noise: jitter of single calls: each is slower by ``noise * |normal|``, in wall and CPU time.
        wander: amplitude of a slow wave (period `wander_period_s`) in the speed of calls.
        drift_per_s: the device gets slower by this share of its speed every second.
        throttle: factor on all times within `throttle_window`.
        neighbour: share of the core that another process takes, in slices of `slice_ms`: wall
            time grows, CPU time does not. Acts within `neighbour_window`.
        spike: probability that a call is interrupted for `spike_ms` (wall time only).
        build_spread: engines built from one model differ by exp(spread * normal).
        refuse: operator types that fail to build.
    """

    seed: int = 0
    noise: float = 0.0
    wander: float = 0.0
    wander_period_s: float = 0.02
    drift_per_s: float = 0.0
    throttle: float = 1.0
    throttle_window: tuple[float, float] = (0.0, float("inf"))
    neighbour: float = 0.0
    neighbour_window: tuple[float, float] = (0.0, float("inf"))
    slice_ms: float = 3.0
    spike: float = 0.0
    spike_ms: float = 20.0
    build_spread: float = 0.0
    refuse: tuple[str, ...] = ()


@dataclass
class FakeClock:
    """Virtual seconds; call it to read it, as `time.perf_counter`."""

    now_s: float = 0.0

    def __call__(self) -> float:
        """The present virtual time in seconds."""
        return self.now_s


class Fake:
    """Deterministic roofline device.

    Each instance has its own clock and its own count of builds.
    """

    name = "fake"
    suffix = ".fake"
    devices: tuple[str, ...] = ("fake",)
    version = VERSION

    def __init__(self, device: FakeDevice | None = None, faults: FakeFaults | None = None) -> None:
        self.device = device or FakeDevice()
        self.faults = faults or FakeFaults()
        self.clock = FakeClock()
        self._builds = 0
        self._known: dict[tuple[bytes, Precision, int, int], tuple[float, float]] = {}

    def unavailable(self) -> str | None:
        """None: it is always here."""
        return None

    def setting(self, device: str, precision: Precision, batch: int, threads: int) -> Setting:
        """Conditions of a run; fp32 and fp16, up to the device's cores."""
        if device != "fake":
            raise BackendUnavailable(f"the fake backend cannot run as device {device!r}; use --device fake")
        if precision not in BYTES:
            raise InputError(f"--precision {precision}: the fake device supports {', '.join(BYTES)}")
        if threads > self.device.cores:
            raise InputError(f"--threads {threads}: the fake device has {self.device.cores} cores")
        return Setting(
            device="fake",
            device_arch=_fingerprint(self.device),
            backend=self.name,
            backend_version=VERSION,
            precision=precision,
            batch=batch,
            threads=threads,
        )

    def forms(self) -> tuple[Int8Form, ...]:
        """None: it has no int8."""
        return ()

    def build(self, model: bytes, setting: Setting) -> FakeEngine:
        """Price a model; BuildError where it cannot be read or holds a refused operator."""
        price, cold = self._prices(model, setting)
        if self.faults.refuse:
            refused = sorted(_op_types(model) & set(self.faults.refuse))
            if refused:
                raise BuildError(f"the fake device does not support the operator {refused[0]}")
        rng = self._rng(model)
        factor = float(np.exp(self.faults.build_spread * rng.standard_normal()))
        return FakeEngine(self, model, setting, price * factor, cold * factor, rng)

    def load(self, path: Path, setting: Setting) -> FakeEngine:
        """Load a ``.fake`` file: the price that it had when it was built, and its model."""
        if not path.is_file():
            raise InputError(f"engine {path} does not exist")
        head, _, model = read_bytes(path, "engine").partition(b"\n")
        try:
            body = json_object(head.decode(), f"engine {path}")
            known = body["schema"] == schemas.FAKE_ENGINE
            prices = float(body["price_ms"]), float(body["cold_ms"])
            whole = body["sha256"] == hashlib.sha256(model).hexdigest()
        except (UnicodeDecodeError, DataFormatError, ValueError, KeyError, TypeError) as exc:
            raise DataFormatError(f"engine {path} is not an engine of the fake device") from exc
        if not known or not whole:
            raise DataFormatError(
                f"engine {path} is damaged: {'its model' if known else 'its schema'} differs"
            )
        return FakeEngine(self, model, setting, *prices, self._rng(model))

    def _prices(self, model: bytes, setting: Setting) -> tuple[float, float]:
        """Milliseconds of a call with hot and with cold caches; looked up where known already."""
        shape = (setting.precision, setting.batch, setting.threads)
        key = (hashlib.sha256(model).digest(), *shape)
        if key not in self._known:
            cold = replace(self.device, cache_bytes=0)
            self._known[key] = price_ms(model, self.device, *shape), price_ms(model, cold, *shape)
        return self._known[key]

    def _rng(self, model: bytes) -> np.random.Generator:
        self._builds += 1
        digest = int.from_bytes(hashlib.sha256(model).digest()[:8], "little")
        return np.random.default_rng((self.faults.seed, digest, self._builds))


@dataclass
class FakeEngine(Life):
    """A model with a price, on the clock of its backend."""

    backend: Fake
    model: bytes
    setting: Setting
    price_ms: float
    cold_ms: float
    rng: np.random.Generator = field(repr=False)

    def __post_init__(self) -> None:
        self.shape = _input_shape(self.model)
        if not self.shape:
            raise BuildError("the fake device takes batches of images; this model takes a single value")
        if self.shape[0] not in (0, self.setting.batch):
            raise InputError(f"the model has batch {self.shape[0]}, the setting batch {self.setting.batch}")
        self._session: Any = None
        self._cold = False

    def run(self, images: Float32s) -> Float32s:
        """True scores; at fp16 weights and images are rounded to it first."""
        array = self._check_images(images)
        if self._session is None:
            options = ort.SessionOptions()
            options.intra_op_num_threads = options.inter_op_num_threads = 1
            with refusals_of("the fake device"):
                self._session = ort.InferenceSession(
                    self.model if self.setting.precision == "fp32" else _rounded(self.model),
                    options,
                    providers=["CPUExecutionProvider"],
                )
        if self.setting.precision == "fp16":
            array = array.astype(np.float16).astype(np.float32)
        with refusals_of("the fake device"):
            scores: Float32s = self._session.run(None, {self._session.get_inputs()[0].name: array})[0]
        return scores

    def time(self, calls: int) -> CallTimes:
        """Virtual times of `calls` calls; the clock of the device moves on by their sum."""
        self._check_calls(calls)
        faults, clock = self.backend.faults, self.backend.clock
        starts_s = clock.now_s + self.price_ms / 1e3 * np.arange(calls, dtype=np.float64)
        work_ms = self.price_ms * self._speed(starts_s)
        if self._cold:
            work_ms[0] *= self.cold_ms / self.price_ms
            self._cold = False
        wall_ms = work_ms + self._waits_ms(work_ms, starts_s)
        if faults.spike:
            wall_ms = wall_ms + faults.spike_ms * (self.rng.random(calls) < faults.spike)
        clock.now_s += float(wall_ms.sum()) / 1e3
        cpu_ms = float(work_ms.sum()) * self.setting.threads
        return CallTimes(wall_ms, cpu_ms)

    def flush(self) -> None:
        """Empty the caches: the next call reads everything from memory."""
        self._check_open()
        self._cold = True

    def _speed(self, at_s: Float64s) -> Float64s:
        """Factor on the price of calls that start at `at_s`."""
        faults = self.backend.faults
        factor = 1.0 + faults.drift_per_s * at_s
        factor = factor * np.where(_inside(at_s, faults.throttle_window), faults.throttle, 1.0)
        if faults.wander:
            factor = factor * (1.0 + faults.wander * np.sin(2 * np.pi * at_s / faults.wander_period_s))
        if faults.noise:
            factor = factor * (1.0 + faults.noise * np.abs(self.rng.standard_normal(len(at_s))))
        return factor

    def _waits_ms(self, work_ms: Float64s, at_s: Float64s) -> Float64s:
        """Time that each call stands still because a neighbour has the core."""
        faults = self.backend.faults
        if not faults.neighbour:
            return np.zeros_like(work_ms)
        done = np.concatenate([[0.0], np.cumsum(work_ms)]) + self.rng.uniform(0, faults.slice_ms)
        preempted = np.diff(np.floor(done / faults.slice_ms))
        wait_ms = faults.slice_ms * faults.neighbour / (1.0 - faults.neighbour)
        waits: Float64s = preempted * wait_ms * _inside(at_s, faults.neighbour_window)
        return waits

    def save(self, path: Path) -> None:
        """Write price and model."""
        self._check_open()
        digest = hashlib.sha256(self.model).hexdigest()
        head = json.dumps(
            {
                "schema": schemas.FAKE_ENGINE,
                "price_ms": self.price_ms,
                "cold_ms": self.cold_ms,
                "sha256": digest,
            }
        )
        write_bytes(path, head.encode() + b"\n" + self.model)

    def close(self) -> None:
        """Drop what was loaded."""
        self._open, self._session = False, None


def faulty(**faults: Any) -> Fake:
    """A fake device with planted faults, for tests: ``faulty(neighbour=0.5)``."""
    return Fake(faults=replace(FakeFaults(), **faults))


def _inside(at_s: Float64s, window: tuple[float, float]) -> Bools:
    return (at_s >= window[0]) & (at_s < window[1])


def _fingerprint(device: FakeDevice) -> str:
    return "roofline-" + hashlib.sha256(repr(device).encode()).hexdigest()[:8]


def _op_types(model: bytes) -> set[str]:
    return {node.op_type for node in onnx.load_model_from_string(model).graph.node}


def _input_shape(model: bytes) -> tuple[int, ...]:
    ports = onnx.load_model_from_string(model).graph.input
    return tuple(max(d.dim_value, 0) for d in ports[0].type.tensor_type.shape.dim)


def _rounded(model: bytes) -> bytes:
    proto = onnx.load_model_from_string(model)
    for tensor in proto.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            values = onnx.numpy_helper.to_array(tensor).astype(np.float16).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    rounded: bytes = proto.SerializeToString()
    return rounded
