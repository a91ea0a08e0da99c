"""``hwnas bench``: measured latency of networks, ONNX files and engines, against each other."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hwnas import backends, runs
from hwnas.deploy import engine, manifest
from hwnas.deploy.engine import is_timed
from hwnas.errors import HwnasError, InputError
from hwnas.jobs.own_onnx import blamed_on, graph_of, in_int8, is_graph
from hwnas.jobs.resolve import networks
from hwnas.jobs.resolve.origin import origin
from hwnas.measure import device
from hwnas.measure.candidates import name_of
from hwnas.measure.levels import SentinelHistory
from hwnas.measure.patience import PATIENCE_S, Patience
from hwnas.measure.sentinel import memory_sentinel, watched
from hwnas.measure.timing import Builder, SessionOptions, TimingOptions, measure
from hwnas.nets import onnx
from hwnas.protocols import Backend, Emit, Engine, ManyStreams
from hwnas.records import BuildChoices, Measurement, Precision, Setting, to_json
from hwnas.results import DryRun, Result

# A machine that is slower than its best in less than this share of the time is quiet.
QUIET = 0.05
STREAMS_S = 2.0  # for which an engine is kept busy by several streams
BenchKind = Literal["network", "onnx", "engine"]


@dataclass(frozen=True)
class BenchOptions:
    """What to time, and under which conditions.

    Attributes:
        networks: each a NETWORK (file, run or example), an ``.onnx`` file, or an engine file. An
            engine with a manifest beside it runs under the conditions that it was built for.
        device, backend, precision, batch, threads: the conditions of everything else; batch None is one
            image, and of an engine for several sizes the largest.
        batches: further batch sizes that everything without conditions of its own is timed at.
        data: training images that ONNX files are calibrated on at int8; random ones where None.
        preset: "quick", "default" or "thorough".
        cache: "hot" (calls back to back) or "cold" (caches emptied before each call).
        max_time_s: begin no further session after this long.
        patience_s: seconds that may be waited in all while the machine is slower than it was seen to be.
        sustained_s: seconds for which the device is kept busy first.
        dla: core of a Jetson's deep-learning accelerator (`hwnas.records.BuildChoices`).
        streams: calls at once that each engine is timed with besides; one leaves that out.
        seed: of the random weights of networks, and of the order of measuring.
        dry_run: say what would be measured, touch nothing.
    """

    networks: tuple[str, ...]
    device: str = "auto"
    backend: str | None = None
    precision: Precision = "fp32"
    batch: int | None = None
    batches: tuple[int, ...] = ()
    threads: int = 1
    data: str | None = None
    preset: str = "default"
    cache: Literal["hot", "cold"] = "hot"
    max_time_s: float | None = None
    patience_s: float = PATIENCE_S
    sustained_s: float = 0.0
    dla: int | None = None
    streams: int = 1
    seed: int = 0
    dry_run: bool = False


@dataclass(frozen=True)
class _Benched:
    path: str
    kind: BenchKind
    build: Builder
    setting: Setting
    note: str = ""


class InStreams(Result):
    """Several calls of an engine at once: images a second of all, milliseconds of one meanwhile."""

    streams: int
    images_per_s: float
    median_ms: float
    p95_ms: float
    samples: int


class BenchLine(Result):
    """One entry of a bench: its times in milliseconds a call, against the first (`relative`).

    `differs` is whether the two floors are further apart than their standard errors explain, at 95 %;
    `images_per_s` is that of batches one after the other, `in_streams` what several at once give; `host_ms`
    and `enqueue_ms` are as in `Measurement`.
    """

    path: str
    kind: BenchKind
    setting: Setting
    note: str
    floor_ms: float
    se_ms: float
    median_ms: float
    p10_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    samples: int
    sessions: int
    gates: tuple[str, ...]
    images_per_s: float
    host_ms: float | None
    enqueue_ms: float | None
    in_streams: InStreams | None
    relative: float
    differs: bool


class Machine(Result):
    """How the machine was meanwhile: `slow_share` of the time in which it was slower than its best."""

    state: Literal["quiet", "slow", "unknown"]
    slow_share: float | None
    waited_s: float


class BenchOutcome(Result):
    """Entries timed in turn, in the order given, and the state of the machine."""

    networks: tuple[BenchLine, ...]
    cache: str
    preset: str
    machine: Machine


def bench(options: BenchOptions, emit: Emit | None = None) -> BenchOutcome | DryRun:
    """Time everything in interleaved sessions.

    Returns:
        The times of each; with `dry_run` what would be timed.

    Raises:
        InputError: nothing given, or not a network, a model or an engine.
        DataFormatError: a file is damaged, or holds a model that the runtime refuses.
        BackendUnavailable: device or runtime is not here.
        BuildError: the runtime refused a network.
    """
    if not options.networks:
        raise InputError("nothing to measure; give at least one network, ONNX file or engine")
    timing = _timing(options)
    entries = _entries(options)
    listed = [
        {"path": e.path, "kind": e.kind, "setting": to_json(e.setting), "note": e.note}
        for e in entries.values()
    ]
    if options.dry_run:
        sessions = len(entries) * timing.sessions
        return DryRun.of({"networks": listed, "measurements": sessions, "dry_run": True})
    runtime = next(iter(entries.values())).setting
    many = [_in_streams(name, entry, options.streams) for name, entry in entries.items()]
    guard, past = watched(device.backend_of(runtime), runtime)
    begun_s = past.now() if past is not None else 0.0
    patience = Patience(options.patience_s, emit=emit)
    found = measure(
        {name: entry.build for name, entry in entries.items()},
        timing,
        rng=np.random.default_rng(options.seed),
        emit=emit,
        deadline_s=options.max_time_s,
        sentinel=guard,
        refer=guard is not None,
        base_ms=past.best_ms() if past is not None else None,
        patience=patience,
        levels=past,
        memory=memory_sentinel(device.backend_of(runtime), runtime, device.detect().caches_bytes),
        sustained_s=options.sustained_s,
    )
    first = next(iter(found.values()))
    batches = [e.setting.batch for e in entries.values()]
    rows = [
        {**row, **_figures(m, first, b), "in_streams": s}
        for row, m, b, s in zip(listed, found.values(), batches, many)
    ]
    state = _state(past, begun_s, timing.gates.sentinel)
    body = {
        "networks": rows,
        "cache": options.cache,
        "preset": options.preset,
        "machine": {**state, "waited_s": round(patience.waited_s, 1)},
    }
    return BenchOutcome.of(body)


def _in_streams(name: str, entry: _Benched, streams: int) -> dict[str, Any] | None:
    """What an engine gives with several calls at once; None where one at a time is all that is asked."""
    if streams == 1:
        return None
    engine = entry.build()
    try:
        if not isinstance(engine, ManyStreams):
            raise InputError(
                f"--streams {streams}: {name} runs in {entry.setting.backend}, which takes one call at a time"
            )
        found = engine.in_streams(streams, STREAMS_S)
    finally:
        engine.close()
    return {
        "streams": found.streams,
        "images_per_s": found.images_per_s,
        "median_ms": float(np.median(found.wall_ms)),
        "p95_ms": float(np.quantile(found.wall_ms, 0.95)),
        "samples": len(found.wall_ms),
    }


def _state(past: SentinelHistory | None, begun_s: float, gate: float) -> dict[str, Any]:
    """What the sentinel said of the machine since a time; "unknown" where it was not seen often enough."""
    seen = past.slow_share(past.now() - begun_s, gate) if past is not None else None
    if seen is None:
        return {"state": "unknown", "slow_share": None}
    share = round(seen[0], 3)
    return {"state": "quiet" if share < QUIET else "slow", "slow_share": share}


def _timing(options: BenchOptions) -> TimingOptions:
    timing = TimingOptions.preset(options.preset)
    session = SessionOptions(
        timing.session.session_ms, timing.session.calls, timing.session.most_ms, cache=options.cache
    )
    return TimingOptions(
        timing.sessions, timing.sessions_max, timing.repeats, timing.target, session, gates=timing.gates
    )


def _entries(options: BenchOptions) -> dict[str, _Benched]:
    """Everything that is to be timed by a unique name, in the order given."""
    entries: dict[str, _Benched] = {}
    for given in options.networks:
        for batch in dict.fromkeys((options.batch, *options.batches)):
            entry = _entry(given, replace(options, batch=batch))
            if entry.setting.batch != batch and batch != options.batch:
                continue  # it was not built for that one
            first = given if not options.batches else f"{given} (batch {entry.setting.batch})"
            name, copy = first, 2
            while name in entries:  # the same file twice is an honest A/A test
                name, copy = f"{first}#{copy}", copy + 1
            entries[name] = entry
    return entries


def _entry(given: str, options: BenchOptions) -> _Benched:
    path = Path(given)
    if is_graph(path) and path.is_file():
        return _graph(path, options)
    if path.is_file() and path.suffix != ".json":
        return _engine(path, options)

    spec = networks.network(given, runs.RUNS)
    backend, setting = _conditions(options)
    graph = onnx.network(spec, batch=setting.batch, seed=options.seed)
    note = _searched_for(path, setting)
    return _Benched(given, "network", lambda: backend.build(graph, setting), setting, note)


def _searched_for(path: Path, setting: Setting) -> str:
    """That a run is of another runtime or precision than it is timed in; empty where it is not."""
    if not runs.is_run(path):
        return ""
    try:
        own = origin(str(path)).setting
    except HwnasError:  # of several budgets, or without a search
        return ""
    if own is None or (own.backend, own.precision) == (setting.backend, setting.precision):
        return ""
    return (
        f"the run is of {name_of(own)}: bench its engine, or add --backend {own.backend} --precision "
        f"{own.precision}"
    )


def _graph(path: Path, options: BenchOptions) -> _Benched:
    """An ONNX file, or a program of torch.export as one.

    One that was exported here is checked first, and runs as it was built for unless another runtime is asked
    for, or its own does not tell the time of its target.
    """

    batch = options.batch or 1
    if manifest.manifest_path(path).is_file():
        told = manifest.read_manifest(path)
        manifest.check_file(path, told)
        if options.backend in (None, told.setting.backend) and is_timed(told):
            return _engine(path, options)
        batch = told.setting.batch
    model = graph_of(path)
    backend, setting = _conditions(replace(options, batch=batch))
    note = ""
    if setting.precision == "int8":
        with blamed_on(path):
            model, note = in_int8(model, backend, options.data, batch)

    build = _tried(path, lambda: backend.build(model, setting))
    return _Benched(str(path), "onnx", build, setting, note)


def _tried(path: Path, build: Builder) -> Builder:
    """A builder whose engine has run once: some models of people are refused only then."""

    def tried() -> Engine:
        with blamed_on(path):
            engine = build()
            engine.time(1)
            return engine

    return tried


def _engine(path: Path, options: BenchOptions) -> _Benched:
    """An engine: checked against its manifest where it has one, else as the options say."""

    if manifest.manifest_path(path).is_file():
        setting = manifest.read_manifest(path).setting
        device.refuse_unasked(setting, options.device, f"engine {path}")
        if options.dla is not None and options.dla != setting.dla:
            raise InputError(f"--dla {options.dla}: {path} was not built for that core; export it again")
        size = options.batch if options.batch in setting.batches else None
        built = setting if size is None else setting.model_copy(update={"batch": size})
        return _Benched(str(path), "engine", lambda: engine.load(path, batch=size), built)
    runtime = backends.for_file(path)
    setting = _conditions(options, runtime.name)[1]
    return _Benched(str(path), "engine", _tried(path, lambda: runtime.load(path, setting)), setting)


def _conditions(options: BenchOptions, backend: str | None = None) -> tuple[Backend, Setting]:
    return device.conditions(
        options.device,
        backend or options.backend,
        precision=options.precision,
        batch=options.batch or 1,
        threads=options.threads,
        choices=BuildChoices(dla=options.dla),
    )


def _figures(m: Measurement, first: Measurement, batch: int) -> dict[str, Any]:
    body = to_json(m)
    body["images_per_s"] = batch / m.floor_ms * 1e3
    body["sessions"] = len(body.pop("session_ms"))
    apart = abs(m.floor_ms - first.floor_ms)
    body["relative"] = m.floor_ms / first.floor_ms
    body["differs"] = bool(apart > 1.96 * (m.se_ms**2 + first.se_ms**2) ** 0.5)
    return body
