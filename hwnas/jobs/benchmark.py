"""``hwnas benchmark``: one network in every runtime, format and precision that works here, in one table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hwnas import runs, schemas
from hwnas.arrays import Float32s
from hwnas.by_engine import BENCHMARK, BenchmarkOutcome
from hwnas.deploy.engine import run_all
from hwnas.deploy.parity import compare, judge
from hwnas.errors import BackendUnavailable, BuildError, DataFormatError, HwnasError, InputError
from hwnas.jobs.export.remedy import MAX_LOSS
from hwnas.jobs.export.samples import samples
from hwnas.jobs.own_onnx import (
    Subject,
    as_it_stands,
    blamed_on,
    graph_of,
    in_int8_form,
    is_graph,
    own_model,
)
from hwnas.jobs.resolve import networks
from hwnas.jobs.resolve.origin import origin
from hwnas.measure.candidates import AUTO, RuntimeCandidate, candidates
from hwnas.measure.timing import Builder, TimingOptions, measure
from hwnas.protocols import Emit, Engine
from hwnas.records import Measurement, to_json
from hwnas.store import scratch, write_json

if TYPE_CHECKING:
    from hwnas.deploy.manifest import Parity


@dataclass(frozen=True)
class BenchmarkOptions:
    """Which network, in what.

    Attributes:
        network: a run, a network file, an example's name or an ``.onnx`` file.
        data: real images; None takes those that a run was trained on.
        weights: file of weights, where the network is a file.
        max_loss: share of the images that a faster engine may get wrong beyond the network's own errors.
        device, batch, threads: conditions of all engines.
        backends, precisions: none for all that work here.
        images: how many validation images are compared.
        preset: how long each engine is timed.
        max_time_s: begin no further session of timing after this long.
        seed: of random weights and images, and of the order of timing.
    """

    network: str
    data: str | None = None
    weights: Path | None = None
    max_loss: float = MAX_LOSS
    device: str = AUTO
    batch: int = 1
    threads: int = 1
    backends: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ()
    images: int = 512
    preset: str = "quick"
    max_time_s: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.max_loss <= 1:
            raise InputError(f"max loss {self.max_loss} is not a share from 0 to 1; write for example 0.005")


@dataclass
class Row:
    """One engine of the table; `error` where it is not available."""

    candidate: RuntimeCandidate
    error: str | None = None
    path: Path | None = None
    model: bytes = b""
    parity: Parity | None = None
    measured: Measurement | None = None
    checks: list[Any] = field(default_factory=list)


def benchmark(options: BenchmarkOptions, emit: Emit | None = None) -> BenchmarkOutcome:
    """Build, compare and time a network in everything that works here; timings are interleaved.

    Returns:
        One line for each runtime, format and precision, and the fastest.

    Raises:
        InputError: no such network, or data of another shape.
        DataFormatError: an ONNX file that is damaged, or that every runtime asked for refuses.
        BuildError: a network that every runtime asked for refuses.
        BackendUnavailable: no runtime here serves the device.
    """
    wanted = candidates(
        options.device, options.backends, options.precisions, batch=options.batch, threads=options.threads
    )
    given = Path(options.network)
    with blamed_on(given) if is_graph(given) else nullcontext():
        subject = _subject(options)
        reference = _reference(subject, options)
    with scratch() as folder:
        rows = [_built(candidate, subject, reference, folder / str(i)) for i, candidate in enumerate(wanted)]
        if all(row.error is not None for row in rows):
            raise _nothing(given, rows)
        able = {str(i): _loader(row) for i, row in enumerate(rows) if row.error is None}
        timing = TimingOptions.preset(options.preset)
        rng = np.random.default_rng(options.seed)
        found = measure(able, timing, rng=rng, emit=emit, deadline_s=options.max_time_s)
        sizes = [row.path.stat().st_size if row.path is not None else None for row in rows]
    for i, row in enumerate(rows):
        row.measured = found.get(str(i))
    body = {
        "network": options.network,
        "device": wanted[0].setting.device,
        "device_arch": wanted[0].setting.device_arch,
        "batch": options.batch,
        "threads": options.threads,
        "images": len(subject.images),
        "max_loss": options.max_loss,
        "accuracy": None if reference.top1 is None else reference.top1,
        "engines": [_line(row, size) for row, size in zip(rows, sizes)],
        "fastest": _fastest(rows),
        "fastest_within_loss": _fastest(rows, lambda row: _keeps(row, subject, options.max_loss)),
        "notes": list(subject.notes),
    }
    if subject.folder is not None:
        write_json(subject.folder / BENCHMARK, {"schema": schemas.BENCHMARK, **body})
    return BenchmarkOutcome.of(body)


@dataclass(frozen=True)
class _Reference:
    scores: Float32s
    top1: float | None


def _subject(options: BenchmarkOptions) -> Subject:
    path = Path(options.network)
    if is_graph(path):
        return own_model(graph_of(path), options.data, options.images, options.batch, options.seed)
    from hwnas.nets import onnx

    found = networks.find(options.network, runs.RUNS)
    if options.weights is None and not found.with_name("weights.safetensors").is_file():
        spec = networks.network(options.network, runs.RUNS)
        model = onnx.network(spec, batch=options.batch, seed=options.seed)
        given = own_model(model, options.data, options.images, options.batch, options.seed)
        note = (
            "the network has no weights: times are valid, accuracy and agreement are those of random weights"
        )
        return Subject(given.model, given.images, given.calibration, False, None, (*given.notes, note))

    source = origin(options.network, options.weights)
    model = onnx.network(source.spec, source.read_weights(), batch=options.batch)
    drawn = samples(options.data, source, options.images)
    if drawn.prepared is None or drawn.calibration is None:
        return own_model(model, None, options.images, options.batch, options.seed)
    return Subject(model, drawn.prepared, drawn.calibration, True, drawn.labels, (drawn.text,), source.folder)


def _reference(subject: Subject, options: BenchmarkOptions) -> _Reference:
    """Scores of the fp32 graph as it stands: ONNX Runtime without optimisation."""
    with as_it_stands(subject.model, options.batch, options.threads) as scores_of:
        scores = scores_of(subject.images)
    if subject.labels is None:
        return _Reference(scores, None)
    judged = subject.labels >= 0
    return _Reference(scores, float((scores.argmax(axis=1) == subject.labels)[judged].mean()))


def _built(candidate: RuntimeCandidate, subject: Subject, reference: _Reference, path: Path) -> Row:
    """Write an engine and compare its scores; a refusal of the runtime becomes the line's text."""

    row, backend, setting = Row(candidate), candidate.backend, candidate.setting
    try:
        model = subject.model
        if setting.precision == "int8":
            model = in_int8_form(model, backend, subject, setting.form)
        engine = backend.build(model, setting)
    except (BuildError, BackendUnavailable, InputError) as exc:
        row.error = str(exc)
        return row
    try:
        scores = run_all(engine, subject.images)
        row.path = path.with_suffix(backend.suffix)
        engine.save(row.path)
    except BuildError as exc:  # some models are refused only when they run
        row.error = str(exc)
        return row
    finally:
        engine.close()
    distinct = len({image.tobytes() for image in subject.images})
    try:
        row.parity = compare(reference.scores, scores, subject.labels, subject.notes[0], distinct)
    except DataFormatError as exc:
        row.error = str(exc)
        return row
    row.checks = [c for c in judge(row.parity, setting.precision) if c.name != "images"]
    return row


def _nothing(given: Path, rows: list[Row]) -> HwnasError:
    """Why there is no engine at all; of a user's file it is the file's fault."""
    reasons = dict.fromkeys(f"{row.candidate.name}: {row.error}" for row in rows)
    kind = DataFormatError if is_graph(given) else BuildError
    return kind(f"{given} could be built in nothing that was asked for: {'; '.join(reasons)}")


def _loader(row: Row) -> Builder:
    backend, setting, path = row.candidate.backend, row.candidate.setting, row.path
    assert path is not None

    def load() -> Engine:
        return backend.load(path, setting)

    return load


def _line(row: Row, size: int | None) -> dict[str, Any]:
    m, p, setting = row.measured, row.parity, row.candidate.setting
    times: Mapping[str, Any] = to_json(m) if m is not None else {}
    return {
        "backend": setting.backend,
        "precision": setting.precision,
        "form": setting.form,
        "format": row.candidate.backend.suffix.removeprefix("."),
        "bytes": size,
        **{key: times.get(key) for key in ("floor_ms", "se_ms", "median_ms", "p95_ms", "samples")},
        "accuracy": None if p is None else p.top1_engine,
        "top1_agreement": None if p is None else p.top1_agreement,
        "parity": None if p is None else {"max_abs_err": p.max_abs_err, "cosine_min": p.cosine_min},
        "passed": None if p is None else all(check.passed for check in row.checks),
        "error": row.error,
    }


def _keeps(row: Row, subject: Subject, max_loss: float) -> bool:
    """Whether an engine is shown to lose no more than is allowed: on labels, else by agreement.

    Random images show nothing about int8; fp32 and bf16 are then judged by parity.
    """
    assert row.parity is not None
    if not subject.real:
        return row.candidate.setting.precision != "int8" and all(c.passed for c in row.checks)
    if row.parity.top1_reference is not None and row.parity.top1_engine is not None:
        return row.parity.top1_reference - row.parity.top1_engine <= max_loss + 1e-9
    return 1.0 - row.parity.top1_agreement <= max_loss + 1e-9


def _fastest(rows: list[Row], fits: Callable[[Row], bool] = bool) -> int | None:
    """Place of the line with the lowest floor among those that `fits`; None where there is none."""
    floors = {
        i: row.measured.floor_ms for i, row in enumerate(rows) if row.measured is not None and fits(row)
    }
    return min(floors, key=lambda i: floors[i], default=None)
