"""``hwnas export``: an engine with its manifest, and the proof that it is right and fast enough."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwnas import plugins
from hwnas.arrays import Float32s
from hwnas.backends import formats
from hwnas.backends.forms import form_of
from hwnas.budgets import parse_latency
from hwnas.by_block import Mixed
from hwnas.by_class import ByClass
from hwnas.deploy import engine as engines
from hwnas.deploy.engine import is_timed, metadata, one_batch, one_size
from hwnas.deploy.manifest import (
    EngineManifest,
    FineTuned,
    Parity,
    Preprocessing,
    SpeedGain,
    engine_name,
    manifest_path,
    write_manifest,
)
from hwnas.deploy.parity import TOLERANCES
from hwnas.errors import BackendUnavailable, InputError
from hwnas.estimates import Budget
from hwnas.jobs.conditions import Conditions
from hwnas.jobs.export.forms import fastest
from hwnas.jobs.export.remedy import MAX_LOSS, Remedy
from hwnas.jobs.export.samples import Samples, samples
from hwnas.jobs.resolve.origin import Origin, origin
from hwnas.locks import Lock
from hwnas.measure import device as devices
from hwnas.measure import reliability
from hwnas.measure.candidates import precision_of
from hwnas.measure.patience import PATIENCE_S
from hwnas.protocols import Backend, Emit
from hwnas.records import BuildChoices, Check, Compatible, Precision, Promise, Setting, to_json
from hwnas.results import Result
from hwnas.store import write_bytes

if TYPE_CHECKING:
    from hwnas.deploy.verify import Verified


@dataclass(frozen=True)
class ExportOptions(Conditions):
    """What to export, for what; conditions that are left open are the run's.

    Attributes:
        run: run, target of a run, or network file; None takes the newest search or training.
        format: name of an export format.
        weights: file of weights, for a network file.
        out: folder of the engine; None takes the network's own.
        data: real images for the check of the outputs; None takes what the run was trained on.
        latency_budget: None takes the run's.
        dynamic_batch: the file takes any number of images at once, where its format can.
        images: how many validation images are compared.
        max_loss: share of the images that int8 may get wrong beyond the network before it is fine-tuned or
            some of its blocks stay in float.
        batches, compatible, dla: see `hwnas.records.BuildChoices`.
        verify: whether outputs and latency are checked at all.
        max_time_s: for the test of the budget, which is ambiguous when undecided by then.
        patience_s: seconds that may be waited in all while the machine is slower than it was seen to be.
        sustained_s: seconds for which the device is kept busy before the engine is timed.
    """

    run: str | None = None
    format: str = formats.PORTABLE
    weights: Path | None = None
    out: Path | None = None
    data: str | None = None
    latency_budget: str | None = None
    dynamic_batch: bool = False
    images: int = 512
    max_loss: float = MAX_LOSS
    batches: tuple[int, ...] = ()
    compatible: tuple[Compatible, ...] = ()
    dla: int | None = None
    verify: bool = True
    max_time_s: float | None = None
    patience_s: float = PATIENCE_S
    sustained_s: float = 0.0

    def __post_init__(self) -> None:
        wanted = formats.get(self.format)
        if not wanted.any_batch and self.dynamic_batch:
            raise InputError(one_batch(self.format))
        if self.batches and not wanted.many_batches:
            raise InputError(one_size(self.format))
        if self.images < 1:
            raise InputError(f"images {self.images} must be at least 1")


class Times(Result):
    """What an engine takes, in milliseconds a call."""

    median_ms: float
    p95_ms: float
    samples: int | None = None


class ExportOutcome(Result):
    """An engine with its proof.

    Attributes:
        engine, manifest: the two files.
        format, setting, bytes, sha256: what the engine is, and what it was built for.
        parity: how near its scores are to the network's; None where it was not verified.
        measured: its latency; None where it is not timed here.
        fine_tuned, mixed, forms, speed, preprocessing, by_class: see `hwnas.deploy.manifest.EngineManifest`.
        dynamic_batch: whether it takes any number of images at once.
        budget: in words; None without one.
        promise: verdict of the measured budget test.
        within_budget: whether it is kept; None where no budget was judged, or undecided.
        checks: what was looked at.
        verified: whether anything was.
        passed: whether all checks passed; None where nothing was checked.
    """

    engine: str
    manifest: str
    format: str
    setting: Setting
    bytes: int
    sha256: str
    parity: Parity | None
    measured: Times | None
    fine_tuned: FineTuned | None
    mixed: Mixed | None
    forms: dict[str, float]
    speed: SpeedGain | None
    preprocessing: Preprocessing | None
    by_class: ByClass | None
    dynamic_batch: bool
    budget: str | None
    promise: Promise | None
    within_budget: bool | None
    checks: tuple[Check, ...]
    verified: bool
    passed: bool | None


def export(options: ExportOptions, emit: Emit | None = None) -> ExportOutcome:
    """Write an engine, verify that very file, complete its manifest.

    Returns:
        The two files and the proof.

    Raises:
        InputError: no run, no weights, unknown data, or another process writes there.
        BackendUnavailable: the runtime is not here. The ONNX model is written first, and the
            message has the command that finishes on the target.
        VerificationFailed: a check did not pass; `result` is what a pass would have returned.
    """
    source = origin(options.run, options.weights)
    if options.device is not None and source.devices:
        source = source.on(devices.spelling(options.device))
    if doubt := reliability.doubt(source.table_error_percent, name="the latency table of the search"):
        _say(emit, doubt)
    folder = options.out or source.folder
    with Lock(folder, folder=True):  # an engine and its manifest are two files
        return _export(options, source, folder, emit)


def _export(options: ExportOptions, source: Origin, folder: Path, emit: Emit | None) -> ExportOutcome:
    try:
        backend, setting = conditions(options, source)
    except BackendUnavailable as exc:
        if formats.get(options.format).backend is None:
            raise
        raise _elsewhere(options, source, folder, exc) from exc
    drawn = None
    if options.verify or setting.precision == "int8":
        drawn = samples(options.data, source, options.images, TOLERANCES[setting.precision].images)
    setting, forms = in_form(source, backend, setting, emit)
    manifest = _write(options, source, folder, backend, setting, drawn, forms=forms)
    if setting.precision == "int8" and drawn is not None and options.verify:
        remedy = Remedy(
            lambda tuned, floats: _write(
                options, source, folder, backend, setting, drawn, tuned, floats, forms
            ),
            folder,
            backend,
            source,
            drawn,
            data=options.data,
            max_loss=options.max_loss,
            emit=emit,
        )
        manifest = remedy.tried(manifest)
    path = folder / manifest.engine
    _say(emit, f"wrote {path} ({manifest.engine_bytes / 1024:.0f} KiB): {setting.describe()}")
    if drawn is None or not options.verify:
        return summary(path, manifest)
    patience = (options.max_time_s, options.patience_s)
    found = check(
        path,
        manifest,
        source,
        backend,
        drawn,
        budget=manifest.budget,
        patience=patience,
        sustained_s=options.sustained_s,
        emit=emit,
    )
    manifest = found.complete(manifest)
    write_manifest(folder, manifest)
    result = summary(path, manifest)
    found.require(path, result.as_json())
    return result


def in_form(
    source: Origin, backend: Backend, setting: Setting, emit: Emit | None
) -> tuple[Setting, dict[str, float]]:
    """The setting in a form of int8: that of the run's own latencies where they are of the same runtime and
    precision, else the fastest; and how long each takes over it, where they were timed.
    """
    known = source.setting
    if known is not None and (known.backend, known.precision) == (backend.name, setting.precision):
        return setting.model_copy(update={"form": known.form}), {}
    return fastest(source.spec, source.read_weights(), backend, setting, emit=emit)


def conditions(options: ExportOptions, source: Origin) -> tuple[Backend, Setting]:
    """Backend and setting: what the user asks for, else what the search was under."""

    known = source.setting
    precision = precision_of(options.precision or (known.precision if known else "fp32"))
    batch = options.batch or (known.batch if known else 1)
    threads = options.threads or (known.threads if known else 1)
    dla = known.dla if options.dla is None and known is not None else options.dla
    choices = BuildChoices(options.batches, options.compatible, dla)
    wanted = formats.get(options.format)
    bound = wanted.backend
    if options.backend is not None and bound not in (None, options.backend):
        raise InputError(
            f"--format {options.format} is written by {bound}, not by --backend {options.backend}"
        )
    stand_in = wanted.stand_in(source.spec, precision)
    backend = bound or options.backend or (known.backend if known and options.device is None else None)
    device = options.device or _device_for(bound, known)
    if known is not None and device == known.device:
        devices.refuse_unasked(known, options.device, "this run")
    if stand_in is None or precision in wanted.runtimes:
        try:
            return devices.conditions(
                device, backend, precision=precision, batch=batch, threads=threads, choices=choices
            )
        except (InputError, BackendUnavailable):
            if stand_in is None or options.backend is not None:
                raise
    # A file for another machine: its scores are compared here, its time is not.
    if choices:
        devices.with_choices(stand_in, known or stand_in.setting("cpu", precision, batch, threads), choices)
    return stand_in, stand_in.setting("cpu", precision, batch, threads)


def _device_for(bound: str | None, known: Setting | None) -> str:
    """The run's device where the format's runtime serves it, else this machine's CPU or GPU."""

    if known is not None and bound in (None, known.backend):
        return known.device
    kinds = plugins.load("backends", bound)().devices if bound else ("cpu",)
    if known is not None and known.device in kinds:
        return known.device
    return "cpu" if "cpu" in kinds else "auto"


def _write(
    options: ExportOptions,
    source: Origin,
    folder: Path,
    backend: Backend,
    setting: Setting,
    drawn: Samples | None,
    tuned: dict[str, Float32s] | None = None,
    floats: frozenset[str] = frozenset(),
    forms: Mapping[str, float] | None = None,
) -> EngineManifest:
    """Write engine and manifest without proof."""

    about: dict[str, Any] = {
        "table_id": source.table_id,
        "budget": with_latency(source.budget, options.latency_budget),
        "predicted": source.predicted,
        "accuracy": source.accuracy,
        "run": source.folder.resolve().name,
        "forms": dict(forms or {}),
        **(drawn.about if drawn else source.about),
    }
    return engines.export(
        source.spec,
        source.read_weights(),
        backend,
        setting,
        folder,
        file_format=options.format,
        calibration=drawn.calibration if drawn else None,
        dynamic_batch=options.dynamic_batch,
        tuned=tuned,
        floats=floats,
        **about,
    )


def with_latency(budget: Budget | None, text: str | None) -> Budget | None:
    """The budget with the latency that the user asks for; as it is where none is asked for."""
    if text is None:
        return budget
    latency_ms, percentile = parse_latency(text)
    return (budget or Budget()).model_copy(update={"latency_ms": latency_ms, "percentile": percentile})


def check(
    path: Path,
    manifest: EngineManifest,
    source: Origin,
    backend: Backend,
    drawn: Samples,
    *,
    budget: Budget | None,
    patience: tuple[float | None, float],
    sustained_s: float = 0.0,
    emit: Emit | None,
) -> Verified:
    """Verify an engine file; what no runtime here would run as the target does is not timed.

    `patience`: seconds that the test of the budget may take (None: as it needs), and that may be waited;
    `sustained_s`: for which the device is kept busy before.
    """
    from hwnas.deploy.verify import CheckOptions, verify

    return verify(
        path,
        spec=source.spec,
        weights=source.read_weights(),
        images=drawn.pictures,
        reference_images=drawn.prepared,
        labels=drawn.labels,
        training=drawn.training(source),
        checked=drawn.checks,
        budget=budget,
        data=drawn.text,
        backend=backend,
        options=CheckOptions(
            timed=is_timed(manifest),
            deadline_s=patience[0],
            patience_s=patience[1],
            sustained_s=sustained_s,
        ),
        emit=emit,
    )


def summary(path: Path, manifest: EngineManifest) -> ExportOutcome:
    """The result of an export or a verification as the command line gives it."""
    verdict = {"kept": True, "broken": False, "ambiguous": None}
    m, p = manifest.measured, manifest.parity
    body = {
        "engine": str(path),
        "manifest": str(manifest_path(path)),
        "format": manifest.format,
        "setting": to_json(manifest.setting),
        "bytes": manifest.engine_bytes,
        "sha256": manifest.engine_sha256,
        "parity": None if p is None else to_json(p),
        "measured": None
        if m is None
        else {"median_ms": m.median_ms, "p95_ms": m.p95_ms, "samples": m.samples},
        "fine_tuned": None if manifest.fine_tuned is None else to_json(manifest.fine_tuned),
        "mixed": None if manifest.mixed is None else to_json(manifest.mixed),
        "forms": dict(manifest.forms),
        "speed": None if manifest.speed is None else to_json(manifest.speed),
        "preprocessing": None if manifest.preprocessing is None else to_json(manifest.preprocessing),
        "by_class": None if manifest.by_class is None else to_json(manifest.by_class),
        "dynamic_batch": manifest.dynamic_batch,
        "budget": manifest.budget.describe() if manifest.budget else None,
        "promise": None if manifest.promise is None else to_json(manifest.promise),
        "within_budget": verdict[manifest.promise.verdict] if manifest.promise else None,
        "checks": [to_json(c) for c in manifest.checks],
        "verified": bool(manifest.checks),
        "passed": manifest.passed if manifest.checks else None,
    }
    return ExportOutcome.of(body)


def _elsewhere(
    options: ExportOptions, source: Origin, folder: Path, why: BackendUnavailable
) -> BackendUnavailable:
    """Leave the ONNX model for the target, and the words that finish there."""

    precision = precision_of(options.precision or (source.setting.precision if source.setting else "fp32"))
    batch = options.batch or (source.setting.batch if source.setting else 1)
    drawn = samples(options.data, source, 1) if precision == "int8" else None
    wanted = formats.get(options.format)
    network = formats.TrainedNetwork(
        source.spec,
        source.read_weights(),
        precision,
        batch,
        dynamic_batch=bool(options.batches),
        calibration=drawn.calibration if drawn else None,
        metadata=metadata(source.spec, **(drawn or source).about),
        form=form_of(plugins.load("backends", wanted.backend)()) if wanted.backend else None,
    )
    model, written = wanted.portable(network)
    # A name of its own: engine.onnx may be there with a manifest, and these bytes may differ.
    path = folder / engine_name(f"-{wanted.name}.onnx", precision)
    write_bytes(path, model)
    again = _again(options, source, precision)
    ways = f"To finish, copy {source.folder}/ to the target and run there: {again}"
    there = Setting(
        device=options.device or wanted.name,
        backend=wanted.backend or wanted.name,
        precision=precision,
        batch=batch,
        **asdict(BuildChoices(options.batches, options.compatible, options.dla)),
    )
    shape = source.spec.input_shape
    if without := wanted.elsewhere(path, there, shape):
        ways += f"\nWithout hwnas there: {without}"
    return BackendUnavailable(f"{why}\nThe network is written as ONNX ({written}): {path}\n{ways}")


def _again(options: ExportOptions, source: Origin, precision: Precision) -> str:
    """The same export as a command line, without what only holds on this machine (backend, folder)."""
    given = {
        "precision": precision,
        "batch": ",".join(map(str, options.batches)) or options.batch,
        "compatible": ",".join(options.compatible) or None,
        "dla": options.dla,
        "device": options.device,
        "weights": options.weights,
        "data": options.data,
        "latency-budget": options.latency_budget,
        "images": options.images if options.images != ExportOptions.images else None,
        "max-time": f"{options.max_time_s:g}s" if options.max_time_s is not None else None,
    }
    name = options.run if options.weights is not None else str(source.folder)
    words = ["hwnas", "export", str(name), "--format", options.format]
    for flag, value in given.items():
        words += [] if value is None else [f"--{flag}", str(value)]
    return shlex.join([*words, *([] if options.verify else ["--no-verify"])])


def _say(emit: Emit | None, text: str) -> None:
    if emit is not None:
        emit("note", {"text": text})
