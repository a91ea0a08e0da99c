"""``hwnas export``: an engine with its manifest, and the proof that it is right and fast enough."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwnas.arrays import Float32s
from hwnas.backends import formats
from hwnas.budgets import parse_latency
from hwnas.deploy import engine as engines
from hwnas.deploy.engine import is_timed
from hwnas.deploy.manifest import EngineManifest, write_manifest
from hwnas.deploy.parity import TOLERANCES
from hwnas.errors import BackendUnavailable
from hwnas.estimates import Budget
from hwnas.jobs.export.conditions import conditions, in_form
from hwnas.jobs.export.elsewhere import left_for_target
from hwnas.jobs.export.options import ExportOptions
from hwnas.jobs.export.outcome import ExportOutcome, summary
from hwnas.jobs.export.remedy import Remedy
from hwnas.jobs.export.samples import Samples, samples
from hwnas.jobs.resolve.origin import Origin, origin
from hwnas.locks import Lock
from hwnas.measure import device as devices
from hwnas.measure import reliability
from hwnas.protocols import Backend, Emit
from hwnas.records import Setting

if TYPE_CHECKING:
    from hwnas.deploy.verify import Verified


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
        raise left_for_target(options, source, folder, exc) from exc
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


def _say(emit: Emit | None, text: str) -> None:
    if emit is not None:
        emit("note", {"text": text})
