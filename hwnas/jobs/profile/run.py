"""`hwnas profile`: measure a device into a latency table, and say how good its predictions are."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hwnas.cost.heldout import summary
from hwnas.cost.model import TableModel, cost_model
from hwnas.errors import BuildError, InputError, MissingMeasurement
from hwnas.jobs import own_model
from hwnas.jobs.profile.choose import choose, is_open, kept, ratios, tolerated_percent, with_errors
from hwnas.jobs.profile.estimate import estimate
from hwnas.jobs.profile.near import anchors_near, space_near
from hwnas.jobs.profile.options import ProfileOptions
from hwnas.jobs.profile.plan import PLANS, Plan, anchors, blocks_of, draw, priced_part, schedule
from hwnas.jobs.profile.result import ProfileOutcome
from hwnas.measure import device as devices
from hwnas.measure import table as tables
from hwnas.measure import table_folder
from hwnas.measure.candidates import in_forms, name_of, precision_of
from hwnas.measure.patience import Patience
from hwnas.measure.rows import NEAR, Header, RepeatRow
from hwnas.measure.sentinel import levels
from hwnas.measure.session import WARMUP_BATCHES, WARMUP_CALLS
from hwnas.measure.sweep import Sweep, SweepOptions, header_for
from hwnas.measure.table import LatencyTable
from hwnas.measure.timing import TimingOptions
from hwnas.measure.writer import TableWriter
from hwnas.nets import families, onnx, spaces
from hwnas.nets.count import count, count_block
from hwnas.nets.families import Families
from hwnas.protocols import Backend, Emit, SearchSpace
from hwnas.records import BuildChoices, Setting, to_json
from hwnas.results import DryRun
from hwnas.spec import BlockSpec, NetworkSpec

# Candidates that active probing chooses from, and how many it takes at a time.
_CANDIDATES, _BATCH = 256, 10


def profile(options: ProfileOptions, emit: Emit | None = None) -> ProfileOutcome | DryRun:
    """Measure (or estimate) a latency table.

    Returns:
        The table and how good it is; with `dry_run` what would be measured.

    Raises:
        InputError: an option is wrong.
        BackendUnavailable: device or runtime is not here; names the ways on.
    """
    plan = PLANS.get(options.preset)
    if plan is None:
        raise InputError(f"unknown preset {options.preset!r} (known: {', '.join(PLANS)})")
    if options.holdout is not None:
        plan = replace(plan, holdout=options.holdout)
    options = as_usual(options, emit)
    if options.estimate:
        return estimate(options)
    space = _space(options)
    if options.near_ms is not None and not isinstance(space, Families):
        raise InputError(
            f"a profile near one latency is of all families of networks, and {space.name} is one; leave out "
            "the latency budget, or take the space auto"
        )
    found = _conditions(options, space, emit)
    if options.dry_run:
        return _dry(options, plan, space, found[0])
    return _reliable(options, plan, space, found, emit)


@dataclass(frozen=True)
class _Candidate:
    """A runtime and setting, and what it was chosen among."""

    backend: Backend
    setting: Setting
    compared: list[Mapping[str, Any]]

    def header(self, space: SearchSpace, timing: TimingOptions, near_ms: float | None) -> Header:
        """Of a table under them."""
        member = space.smallest()
        found = header_for(self.setting, space.name, member.input_shape, member.classes, timing)
        if near_ms is None:
            return found
        return found.model_copy(update={"protocol": {**found.protocol, NEAR: near_ms}})


def _reliable(
    options: ProfileOptions, plan: Plan, space: SearchSpace, found: list[_Candidate], emit: Emit | None
) -> ProfileOutcome:
    """The table of the first of some conditions by which networks can be predicted; else the least doubtful.

    A runtime that is fast but cannot be predicted is of no use for a budget. Tables that were not taken are
    removed: the newest would be used by later commands.
    """
    begun = time.perf_counter()
    best: ProfileOutcome | None = None
    aside: Path | None = None
    off: dict[str, float] = {}  # percent, by runtime and precision
    try:
        for at, conditions in enumerate(found):
            left_s = options.max_time_s
            if left_s is not None and best is not None:
                left_s -= time.perf_counter() - begun
                if left_s <= 0:
                    break
            told = replace(conditions, compared=with_errors(conditions.compared, off))
            made = _profiled(replace(options, max_time_s=left_s), plan, space, told, emit)
            path = Path(made.table)
            off[name_of(made.setting)] = _error(made)
            if best is not None and not (made.complete and _error(made) < _error(best)):
                path.unlink()
                continue
            if aside is not None:
                aside.unlink()
            best, aside = made, None
            if not made.complete or at == len(found) - 1:
                break
            if _error(made) <= tolerated_percent(told.compared, made.setting, found[at + 1].setting):
                break
            aside = path.rename(path.with_name(f"{path.name}.aside"))
            _note(emit, _too_loose(made, found[at + 1].setting))
    finally:
        if best is not None and aside is not None:
            aside.rename(best.table)
    assert best is not None
    return best


def _error(made: ProfileOutcome) -> float:
    """Percent by which predictions were off on other networks; 0 where that was not measured."""
    return 0.0 if made.holdout is None else made.holdout.mape_percent


def _too_loose(made: ProfileOutcome, after: Setting) -> str:
    return (
        f"predictions of {name_of(made.setting)} are {_error(made):.1f} % off on other networks, too much "
        f"for a budget: {name_of(after)}, which is predicted best, is profiled, too"
    )


def _profiled(
    options: ProfileOptions, plan: Plan, space: SearchSpace, conditions: _Candidate, emit: Emit | None
) -> ProfileOutcome:
    """One table."""
    setting, compared = conditions.setting, conditions.compared
    timing = TimingOptions.preset(options.preset)
    header = conditions.header(space, timing, options.near_ms)
    path = _path(options, header)
    begun = time.perf_counter()
    if options.near_ms is not None and isinstance(space, Families):
        space, spans = space_near(space, options.near_ms, conditions.backend, setting, path)
        header = header.model_copy(update={"run": {**header.run, "widths": spans}})
    with closing(TableWriter(path, header)) as writer:
        sweep_options = SweepOptions(
            timing=timing,
            seed=options.seed,
            deadline_s=options.max_time_s,
            sustained_s=options.sustained_s,
        )
        patience = Patience(options.patience_s, emit=emit)
        sweep = Sweep(writer, conditions.backend, sweep_options, emit, patience=patience)
        task = _Profile(sweep, space, plan, options, compared)
        finished = writer.table.complete and writer.table.header.protocol == header.protocol
        if options.only_missing or not finished:  # a finished table stays what it is, and so does its id
            task.run()
    seconds = time.perf_counter() - begun
    table = writer.table
    body = {
        "table": str(path),
        "table_id": table.table_id,
        "complete": table.complete,
        "setting": to_json(setting),
        "space": space.name,
        "near_ms": table.header.protocol.get(NEAR),
        "model": options.model,
        "preset": options.preset,
        "rows": len(table.rows),
        "failures": [
            {"blocks": [b.key for b in f.blocks], "error": f.error} for f in table.failures.values()
        ],
        "probes": sum(net.role != "holdout" for net in table.networks),
        "measurements": task.sweep.measured,
        "seconds": seconds,
        "gates": task.sweep.report_gates(),
        **table.summary,
        "chosen_among": compared,
    }
    return ProfileOutcome.of(body)


def as_usual(options: ProfileOptions, emit: Emit | None) -> ProfileOptions:
    """With what the device is usually asked for in the place of what the user left out, which is said.

    Where nothing is usual, small images are profiled for all families of networks, as a search takes them.
    """
    named = (options.space, options.model, options.input_shape, options.near_ms)
    found = devices.usual(options.device) if named == (None, None, None, None) else None
    if found is not None:
        batch = options.batch or found.batch
        text = (
            f"no --space given: {found.space} at batch {batch}, what this device is usually asked for "
            f"({found.why})"
        )
        _note(emit, text)
        return replace(options, space=found.space, batch=batch)
    options = replace(options, batch=options.batch or 1)
    if options.space is not None or options.model is not None or options.estimate:
        return options
    if options.near_ms is None:
        if not spaces.is_small(options.input_shape):
            return options
        text = (
            "no --space given: all families of networks (auto), for any budget; --latency-budget TIME "
            "measures only what matters near one, in about a minute"
        )
        _note(emit, text)
    return replace(options, space=families.NAME)


def _note(emit: Emit | None, text: str) -> None:
    if emit is not None:
        emit("note", {"text": text})


def _space(options: ProfileOptions) -> SearchSpace:
    """What is swept: a space, or the pieces of the user's model."""
    shape, classes = options.input_shape, options.classes
    if options.model is not None:
        return own_model.space(options.model, options.weights, input_shape=shape, classes=classes)
    return spaces.make(options.space or spaces.advised(shape), input_shape=shape, classes=classes)


def _conditions(options: ProfileOptions, space: SearchSpace, emit: Emit | None) -> list[_Candidate]:
    """Runtime and setting; where the user leaves them open, those that keep the scores, fastest first, and
    what they were chosen among.

    A table that is there is continued under its own setting; a dry run times nothing.
    """
    o = options
    left_open = is_open(o.backend, o.precision)
    if not left_open:
        precision = precision_of(o.precision)
        made = devices.conditions(
            o.device,
            o.backend,
            precision=precision,
            batch=o.batch or 1,
            threads=o.threads,
            choices=BuildChoices(dla=o.dla),
        )
        # Which form of int8 is the fastest is left to the clock, whatever is named.
        if len(in_forms(*made)) == 1:
            return [_Candidate(*made, [])]
    if left_open and o.dla is not None:
        raise InputError("--dla: name one backend and one precision with it, not auto or a list")
    if o.out is not None and o.out.exists():
        there = tables.load(o.out).setting
        return [_Candidate(devices.backend_of(there), there, [])]
    settings, compared = choose(
        space,
        o.device,
        o.backend,
        o.precision,
        batch=o.batch or 1,
        threads=o.threads,
        seed=o.seed,
        emit=emit,
        timed=not o.dry_run,
        specs=None if o.dry_run else _compared(o, space),
    )
    settings = worth_a_profile(settings, o.device) if left_open else settings[:1]
    return [_Candidate(devices.backend_of(s), s, kept(compared)) for s in settings]


def _compared(options: ProfileOptions, space: SearchSpace) -> list[NetworkSpec] | None:
    """The networks that runtimes are compared by near one latency; None where the anchors are."""
    if options.near_ms is None or not isinstance(space, Families):
        return None
    backend, setting = devices.conditions(
        options.device, None, precision="fp32", batch=options.batch or 1, threads=options.threads
    )
    return anchors_near(space, options.near_ms, backend, setting)


def worth_a_profile(settings: Sequence[Setting], device: str) -> list[Setting]:
    """The fastest; and, where its networks cannot be predicted, fp32, that of the device's own runtime where
    it is among them. A profile takes minutes, so no more than two.
    """
    own = devices.resolve(device).backend
    floats = sorted((s for s in settings if s.precision == "fp32"), key=lambda s: s.backend != own)
    return list(dict.fromkeys([settings[0], *floats[:1]]))


def _path(options: ProfileOptions, header: Header) -> Path:
    """The file to write: the user's, an unfinished one of the same conditions, or a new one."""
    if options.out is not None:
        return options.out
    for path, other in table_folder.headers():
        same = (other.setting, other.space, other.input_shape, other.classes, other.protocol) == (
            header.setting,
            header.space,
            header.input_shape,
            header.classes,
            header.protocol,
        )
        if not same:
            continue
        if options.only_missing or not table_folder.is_finished(path):
            return path
    if options.only_missing:
        raise MissingMeasurement(
            f"no table of {header.setting.describe()} and space {header.space} to extend; leave out "
            "--only-missing to make one"
        )
    return table_folder.new_path(header)


def _most(plan: Plan, options: ProfileOptions) -> int:
    return plan.blocks if options.near_ms is None else plan.blocks_near


def _blocks(space: SearchSpace, plan: Plan, options: ProfileOptions) -> Sequence[BlockSpec]:
    return space.blocks() if options.only_missing else blocks_of(space, _most(plan, options), options.seed)


class _Profile:
    """One run over a table: blocks, calibration, active probes, holdout, summary."""

    def __init__(
        self,
        sweep: Sweep,
        space: SearchSpace,
        plan: Plan,
        options: ProfileOptions,
        compared: Sequence[Mapping[str, Any]],
    ) -> None:
        self.sweep, self.space, self.plan, self.options = sweep, space, plan, options
        # The table is fitted and judged by networks whose blocks it measures.
        self.priced = priced_part(space, _most(plan, options))
        self.compared = list(compared)
        self.table: LatencyTable = sweep.writer.table

    def run(self) -> None:
        """Everything that is still missing; unfinished where the time ran out."""
        self.sweep.blocks(_blocks(self.space, self.plan, self.options))
        if self.sweep.late:
            return
        if self.options.only_missing and self.table.summary:
            self._improve()
            return
        if not self.table.rows:
            raise BuildError(
                f"none of the {len(self.table.failures)} blocks could be measured; see the table"
            )
        self._random()
        self._probe()
        self._repeat()
        self._finish()

    def _improve(self) -> None:
        """More sessions where the finished table is least sure, and its figures again."""
        again = {spec.key for spec in self.sweep.improve()}
        held = [n.spec for n in self.table.networks if n.role == "holdout" and n.spec.key in again]
        for key, found in self.sweep.again(held).items():
            value_ms = min(found.floor_ms, self.table.repeats.get(key, found.floor_ms))
            self.sweep.writer.append(RepeatRow(network=key, value_ms=value_ms))
        self._finish()

    def _finish(self) -> None:
        """Mark the table as finished, with its figures."""
        if not self.sweep.late:
            past = levels(self.table.setting)
            states = past.state_sd() if past is not None else None
            states_percent = None if states is None else 100.0 * states
            self.sweep.finish({**summary(self.table, states_percent), **ratios(self.compared)})

    def _random(self) -> None:
        """Networks drawn from the space, the same ones however often the run was interrupted."""
        have = {net.spec.key for net in self.table.networks}
        self.sweep.networks(
            [
                (spec, role)
                for spec, role in schedule(self.priced, self.plan, self.options.seed)
                if spec.key not in have and spec.blocks not in self.table.failures
            ]
        )

    def _repeat(self) -> None:
        """Measure the holdout networks again, later: how far two measurements differ."""
        todo = [
            net.spec
            for net in self.table.networks
            if net.role == "holdout" and net.spec.key not in self.table.repeats
        ]
        for key, found in self.sweep.again(todo).items():
            self.sweep.writer.append(RepeatRow(network=key, value_ms=found.floor_ms))

    def _probe(self) -> None:
        """Measure where the model is least sure, until it is good enough on random networks."""
        fixed = {spec.key for spec in anchors(self.space)}
        done = sum(net.role == "probe" and net.spec.key not in fixed for net in self.table.networks)
        for batch in self._batches(done):
            model = cost_model(self.table)
            error = float(np.abs(model.errors).mean()) if len(model.errors) else 1.0
            if error <= self.plan.target or self.sweep.late:
                return
            self.sweep.networks([(spec, "probe") for spec in self._uncertain(model, batch)])

    def _batches(self, done: int) -> Iterator[int]:
        for at in range(done, self.plan.probes, _BATCH):
            yield min(_BATCH, self.plan.probes - at)

    def _uncertain(self, model: TableModel, n: int) -> list[NetworkSpec]:
        seen = {net.spec.key for net in self.table.networks}
        candidates = draw(self.priced, _CANDIDATES, self.options.seed, "candidates")
        candidates = [spec for spec in candidates if spec.key not in seen]
        return model.most_uncertain(candidates, n) if candidates else []


@dataclass(frozen=True)
class _Speed:
    """How fast networks are built (by the block) and called (by the MAC) here, from one of them."""

    build_s: float
    call_s: float

    @staticmethod
    def of(backend: Backend, setting: Setting, space: SearchSpace) -> _Speed:
        """From a member of middle size, built and called a few times."""
        spec = anchors(space)[len(anchors(space)) // 2]
        model = onnx.network(spec, batch=setting.batch, seed=0)
        begun = time.perf_counter()
        engine = backend.build(model, setting)
        built_s = time.perf_counter() - begun
        try:
            engine.time(1)
            call_s = float(engine.time(3).wall_ms.min()) / 1e3
        finally:
            engine.close()
        return _Speed(built_s / len(spec.blocks), call_s / count(spec).macs)

    def seconds(self, graphs: Iterable[Sequence[BlockSpec]], timing: TimingOptions) -> float:
        """Of all sessions of some graphs: building, warming up, timed calls."""
        session, total = timing.session, 0.0
        for blocks in graphs:
            call_s = self.call_s * sum(count_block(block).macs for block in blocks)
            warm_s = WARMUP_CALLS * call_s + WARMUP_BATCHES * max(call_s, session.batch_ms / 1e3)
            timed_s = min(max(session.session_ms / 1e3, session.calls * call_s), session.most_ms / 1e3)
            total += timing.sessions * (self.build_s * len(blocks) + warm_s + max(timed_s, call_s))
        return total


def _dry(options: ProfileOptions, plan: Plan, space: SearchSpace, conditions: _Candidate) -> DryRun:
    """What would be measured, and how long that takes, from the speed of one network."""
    timing = TimingOptions.preset(options.preset)
    path = _path(options, conditions.header(space, timing, options.near_ms))
    speed = _Speed.of(conditions.backend, conditions.setting, space)
    blocks = _blocks(space, plan, options)
    missing = list(blocks)
    if path.exists():
        table = tables.load(path)
        missing = [b for b in blocks if b not in table]
    whole = [
        spec.blocks for spec in draw(priced_part(space, _most(plan, options)), 16, options.seed, "random")
    ]
    networks = len(anchors(space)) + plan.calibration + plan.probes + 2 * plan.holdout
    seconds = speed.seconds([[block] for block in missing], timing) + networks / len(whole) * speed.seconds(
        whole, timing
    )
    body = {
        "dry_run": True,
        "table": str(path),
        "blocks": len(blocks),
        "missing": len(missing),
        "networks": {"calibration": plan.calibration, "probes": plan.probes, "holdout": plan.holdout},
        "measurements": len(missing) + networks,
        "seconds": seconds,
    }
    return DryRun.of(body)
