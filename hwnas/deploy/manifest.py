"""The manifest beside an engine: what it computes, what it was built for, how fast it was, the proof.

An engine without one cannot be told from another a month later. `<engine>.manifest.json` holds the
whole network, the conditions, the hashes, the parity and the latency that were measured.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field, model_validator

import hwnas
from hwnas import plugins, schemas
from hwnas.arrays import Float32s
from hwnas.by_block import Mixed
from hwnas.by_class import ByClass
from hwnas.documents import read_json
from hwnas.errors import DataFormatError, InputError
from hwnas.estimates import Budget, Estimate
from hwnas.record import Record
from hwnas.records import Check, Measurement, Promise, Setting, now_utc, to_json
from hwnas.seals import file_sha256
from hwnas.spec import NetworkSpec
from hwnas.store import parse, write_json
from hwnas.traced import AnyNetwork

Weights = Mapping[str, Float32s]
# Less spread than a quarter of one of 255 levels is no image's, and a division by it is no normalisation.
LEAST_STD = 1e-3
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Parity(Record):
    """How far an engine's scores are from those of the torch module with the same weights, in fp32.

    `max_abs_err` is in units of the scores (raw logits), `scale` the largest absolute score of the
    reference, `cosine_min` the smallest cosine between the two score vectors of one image,
    `top1_agreement` the share of images for which both name the same class. `data` says which
    images, `distinct` how many of them differ from all others, `labelled` how many top-1 is judged by.
    """

    images: int = Field(gt=0)
    distinct: int | None = Field(default=None, gt=0)
    labelled: int | None = Field(default=None, gt=0)
    data: str
    max_abs_err: float = Field(ge=0)
    scale: float = Field(ge=0)
    cosine_min: float = Field(ge=-1.001, le=1.001)  # rounding may pass 1
    top1_agreement: float = Field(ge=0, le=1)
    top1_reference: float | None = Field(default=None, ge=0, le=1)
    top1_engine: float | None = Field(default=None, ge=0, le=1)


class Preprocessing(Record):
    """Time that one picture of a stated size takes from bytes to the network's input, on this host.

    It comes on top of the network's latency, which a budget is about; decoding a file is not in it.
    """

    width: int = Field(gt=0)
    height: int = Field(gt=0)
    median_ms: float = Field(gt=0)
    samples: int = Field(gt=0)


class SpeedGain(Record):
    """An engine beside the fp32 engine of the same network in the same runtime, timed in turn.

    `differs` is whether the two floors are further apart than their standard errors explain, at 95 %.
    """

    floor_ms: float = Field(gt=0)
    fp32_floor_ms: float = Field(gt=0)
    differs: bool

    @property
    def slower(self) -> bool:
        """Whether the engine is shown to be slower than fp32."""
        return self.differs and self.floor_ms > self.fp32_floor_ms


class FineTuned(Record):
    """An int8 engine of weights that were fine-tuned for it, with the float network as the teacher.

    `lost_before` and `lost_after` are shares of the images compared that the engine got wrong beyond the
    network. `weights_sha256` of the manifest stays that of the float network.
    """

    steps: int = Field(gt=0)
    lost_before: float
    lost_after: float


class LayerTime(Record):
    """Mean time of one layer that the runtime made of the network, in milliseconds.

    From the runtime's own profiler, which runs the layers one by one: for seeing where the time
    goes. The layers add up to more than the engine takes. `kind`, `kernel` and `types` (of the
    outputs) are in the runtime's words, empty where it does not tell.
    """

    name: str
    ms: float = Field(ge=0)
    kind: str = ""
    kernel: str = ""
    types: str = ""


class EngineManifest(Record):
    """What stands beside an engine file.

    Attributes:
        engine: the file's name, in the manifest's own folder.
        format: name of an export format.
        setting: what it was built for and measured under.
        engine_sha256, onnx_sha256, weights_sha256: of the engine file, of the ONNX model that it
            was built from, of the weights (`weights_digest`).
        network, network_key: what it computes.
        classes, mean, std: names of the classes and the normalisation of images in [0, 1], by
            channel, where the training data gave them.
        dynamic_batch: whether the file takes any number of images at once.
        table_id: the latency table that the search used.
        fine_tuned: whether its weights were fine-tuned for int8, and what that gave.
        forms: by name (empty: the usual one), how long the network takes in each int8 form, over the fastest,
            which the engine has (`setting.form`). None where its runtime has one form only, or the latencies
            that it was searched by fix the form.
        mixed: precision by block, for an int8 engine with blocks in float; None where all are in int8.
        speed: beside fp32, for an engine of another precision that is timed here.
        preprocessing: what preparing a picture costs beside `measured`.
        by_class: how right the engine is on the labelled images that it was compared on, class by class.
        layers: times of the runtime's layers, in order, where it tells them.
        float_layers: layers of an int8 engine that stay float, since the runtime has no int8 kernels for
            them.
        accuracy: fraction of images right, by split, of the network that was exported.
        run: name of the run that it came from.
    """

    engine: str
    format: str
    setting: Setting
    engine_sha256: Digest
    engine_bytes: int = Field(gt=0)
    onnx_sha256: Digest | None = None
    weights_sha256: Digest
    network_key: str
    network: AnyNetwork
    classes: tuple[str, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    dynamic_batch: bool = False
    table_id: str = ""
    run: str = ""
    budget: Budget | None = None
    predicted: Estimate | None = None
    measured: Measurement | None = None
    fine_tuned: FineTuned | None = None
    mixed: Mixed | None = None
    forms: dict[str, float] = Field(default_factory=dict)
    speed: SpeedGain | None = None
    preprocessing: Preprocessing | None = None
    promise: Promise | None = None
    parity: Parity | None = None
    by_class: ByClass | None = None
    layers: tuple[LayerTime, ...] = ()
    float_layers: tuple[str, ...] = ()
    accuracy: dict[str, float] = Field(default_factory=dict)
    checks: tuple[Check, ...] = ()
    hwnas: str = hwnas.__version__
    created: str = Field(default_factory=now_utc)

    @model_validator(mode="after")
    def _check(self) -> EngineManifest:
        if self.format not in (known := plugins.names("formats")):
            raise ValueError(plugins.unknown("export format", self.format, known))
        if self.network.key != self.network_key:
            raise ValueError(
                f"network_key is {self.network_key}, but the network in the manifest has the key "
                f"{self.network.key}: the manifest was edited"
            )
        for name in ("mean", "std"):
            given = len(getattr(self, name))
            if given not in (0, self.network.stem.c_in):
                raise ValueError(f"{name} has {given} values for {self.network.stem.c_in} channels")
        if not all(0 <= value <= 1 for value in self.mean):
            raise ValueError(
                f"mean {self.mean} does not fit images in [0, 1]; each value must be from 0 to 1"
            )
        if not all(LEAST_STD <= value <= 1 for value in self.std):
            raise ValueError(
                f"std {self.std} does not fit images in [0, 1]; each value must be from {LEAST_STD} to 1"
            )
        if bool(self.mean) != bool(self.std):
            raise ValueError("only one of mean and std is given; give both or neither")
        if self.classes and len(self.classes) != self.network.classes:
            raise ValueError(f"{len(self.classes)} class names for {self.network.classes} classes")
        twice = sorted({name for name in self.classes if self.classes.count(name) > 1 or not name.strip()})
        if twice:
            raise ValueError(f"class names must be unique and not empty: {', '.join(map(repr, twice[:3]))}")
        if not all(0 <= value <= 1 for value in self.accuracy.values()):
            raise ValueError(f"accuracy {self.accuracy} is not a fraction")
        return self

    @property
    def normalisation(self) -> tuple[Float32s, Float32s]:
        """Mean and standard deviation by channel, of images in [0, 1]; 0 and 1 where none are known."""
        channels = self.network.stem.c_in
        mean = np.array(self.mean or (0.0,) * channels, np.float32)
        return mean, np.array(self.std or (1.0,) * channels, np.float32)

    @property
    def passed(self) -> bool:
        """Whether it was verified and every check passed."""
        return bool(self.checks) and all(check.passed for check in self.checks)


def manifest_path(engine: Path) -> Path:
    """Where the manifest of an engine file lies."""
    return engine.with_name(f"{engine.name}.manifest.json")


def write_manifest(folder: Path, manifest: EngineManifest) -> Path:
    """Write a manifest beside its engine, atomically; gives its path."""
    path = manifest_path(folder / manifest.engine)
    write_json(path, {"schema": schemas.ENGINE, **to_json(manifest)}, sealed=True)
    return path


def read_manifest(engine: Path) -> EngineManifest:
    """The manifest of an engine file (or the manifest itself, if its path is given).

    Raises:
        InputError: the engine has no manifest.
        DataFormatError: the manifest is damaged, unsealed, of another schema, or of another engine.
    """
    path = engine if engine.name.endswith(".manifest.json") else manifest_path(engine)
    if not path.is_file():
        raise InputError(
            f"{engine} has no manifest ({path.name} beside it), so nothing says what it computes or what it "
            f"was built for; export it again with `hwnas export`"
        )
    body = read_json(path, "engine manifest", schemas.ENGINE, sealed=True)
    del body["schema"]
    manifest = parse(EngineManifest, body, f"engine manifest {path}")
    if path != manifest_path(path.parent / manifest.engine):
        raise DataFormatError(
            f"engine manifest {path} belongs to {manifest.engine!r}; rename both files or neither"
        )
    return manifest


def sha256(data: bytes) -> str:
    """Hexadecimal SHA-256."""
    return hashlib.sha256(data).hexdigest()


def weights_digest(weights: Weights) -> str:
    """SHA-256 over names, shapes and values: the same for the same weights in any file."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        array = np.ascontiguousarray(weights[name], dtype="<f4")
        digest.update(f"{name}:{array.shape}:".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def engine_name(suffix: str, precision: str) -> str:
    """``engine.onnx``, or ``engine-int8.onnx`` where the precision is not fp32."""
    return f"engine{'' if precision == 'fp32' else f'-{precision}'}{suffix}"


def describe(
    path: Path,
    file_format: str,
    spec: NetworkSpec,
    weights: Weights,
    setting: Setting,
    *,
    onnx: bytes | None,
    **about: Any,
) -> EngineManifest:
    """The manifest of an engine file; of one that is not there yet, a manifest that no engine fits."""
    there = path.is_file()
    known = {
        "engine": path.name,
        "format": file_format,
        "setting": setting,
        "engine_sha256": file_sha256(path) if there else sha256(b""),
        "engine_bytes": path.stat().st_size if there else 1,
        "onnx_sha256": None if onnx is None else sha256(onnx),
        "weights_sha256": weights_digest(weights),
        "network_key": spec.key,
        "network": spec,
    }
    return parse(EngineManifest, {**known, **about}, f"manifest of {path}")


def check_file(path: Path, manifest: EngineManifest) -> None:
    """DataFormatError unless the file is, byte for byte, the one that the manifest describes."""
    if not path.is_file():
        raise InputError(f"engine {path} does not exist")
    found = file_sha256(path)
    if found != manifest.engine_sha256:
        raise DataFormatError(
            f"{path} is not the engine that its manifest describes: its SHA-256 is {found[:12]}..., the "
            f"manifest says {manifest.engine_sha256[:12]}... ({path.stat().st_size} bytes, "
            f"{manifest.engine_bytes} expected); it was changed or cut short, export it again"
        )


def find_engine(path: Path) -> Path:
    """The engine at a path: the file itself, or the one engine of a folder.

    Raises:
        InputError: nothing there, or several engines to choose from.
    """
    if not path.is_dir():
        return path
    found = sorted(p.with_name(p.name.removesuffix(".manifest.json")) for p in path.glob("*.manifest.json"))
    if len(found) == 1:
        return found[0]
    if not found:
        raise InputError(f"{path} holds no engine; `hwnas export` makes one")
    raise InputError(f"{path} holds {len(found)} engines; name one: {', '.join(p.name for p in found)}")
