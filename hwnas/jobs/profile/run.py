"""`hwnas profile`: measure a device into a latency table, and say how good its predictions are."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from hwnas.errors import InputError, MissingMeasurement
from hwnas.jobs import own_model
from hwnas.jobs.profile import dry
from hwnas.jobs.profile.choose import tolerated_percent, with_errors
from hwnas.jobs.profile.conditions import Candidate, candidates_of, second_of
from hwnas.jobs.profile.estimate import estimate
from hwnas.jobs.profile.measuring import Measuring
from hwnas.jobs.profile.near import space_near
from hwnas.jobs.profile.options import ProfileOptions
from hwnas.jobs.profile.plan import PLANS, Plan
from hwnas.jobs.profile.result import ProfileOutcome
from hwnas.measure import device as devices
from hwnas.measure import table as tables
from hwnas.measure import table_folder
from hwnas.measure.candidates import name_of
from hwnas.measure.patience import Patience
from hwnas.measure.rows import NEAR, Header
from hwnas.measure.sweep import Sweep, SweepOptions
from hwnas.measure.timing import TimingOptions
from hwnas.measure.writer import TableWriter
from hwnas.nets import families, spaces
from hwnas.nets.families import Families
from hwnas.protocols import Emit, SearchSpace
from hwnas.records import Setting, to_json
from hwnas.results import DryRun
from hwnas.units import format_ms


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
    if options.estimate and options.near_ms is not None:
        raise InputError("an estimate is of every block of a space; leave out the latency budget")
    options = as_usual(_extended(options), emit)
    if options.estimate:
        return estimate(options)
    space = _space(options)
    if options.near_ms is not None and not isinstance(space, Families):
        raise InputError(
            f"a profile near one latency is of all families of networks, and {space.name} is one; leave out "
            "the latency budget, or take the space auto"
        )
    found = candidates_of(options, space, emit)
    if options.dry_run:
        header = found[0].header(space, TimingOptions.preset(options.preset), options.near_ms)
        path = _path(options, header)
        _check_file(path, header)
        return dry.planned(options, plan, space, found[0], path)
    return _reliable(options, plan, space, found, emit)


def _reliable(
    options: ProfileOptions, plan: Plan, space: SearchSpace, found: list[Candidate], emit: Emit | None
) -> ProfileOutcome:
    """The table of the first of some conditions by which networks can be predicted; else the least doubtful.

    A runtime that is fast but cannot be predicted is of no use for a budget. Whole tables that were not taken
    are removed: the newest would be used by later commands.
    """
    begun = time.perf_counter()
    best: ProfileOutcome | None = None
    off: dict[str, float] = {}  # percent, by runtime and precision
    for at, conditions in enumerate(found):
        left_s = options.max_time_s
        if left_s is not None and best is not None:
            left_s -= time.perf_counter() - begun
            if left_s <= 0:
                break
        told = replace(conditions, compared=with_errors(conditions.compared, off))
        out = options.out if at == 0 or options.out is None else second_of(options.out)
        made = _profiled(replace(options, max_time_s=left_s, out=out), plan, space, told, emit)
        off[name_of(made.setting)] = _error(made)
        worse = made
        if best is None or (made.complete and _error(made) < _error(best)):
            best, worse = made, best
        if worse is not None and worse.complete:  # one that the time cut off is gone on with
            Path(worse.table).unlink()
        if not made.complete or at == len(found) - 1:
            break
        if _error(made) <= tolerated_percent(told.compared, made.setting, found[at + 1].setting):
            break
        _note(emit, _too_loose(made, found[at + 1].setting))
    assert best is not None
    if options.out is not None and Path(best.table) != options.out:
        moved = Path(best.table).replace(options.out)
        best = ProfileOutcome.of({**best.as_json(), "table": str(moved)})
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
    options: ProfileOptions, plan: Plan, space: SearchSpace, conditions: Candidate, emit: Emit | None
) -> ProfileOutcome:
    """One table."""
    setting, compared = conditions.setting, conditions.compared
    timing = TimingOptions.preset(options.preset)
    header = conditions.header(space, timing, options.near_ms)
    path = _path(options, header)
    _check_file(path, header)
    begun = time.perf_counter()
    if options.near_ms is not None and isinstance(space, Families):
        space, spans = space_near(space, options.near_ms, conditions.backend, setting, path, emit)
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
        task = Measuring(sweep, space, plan, options, compared)
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


def _extended(options: ProfileOptions) -> ProfileOptions:
    """A table that is extended stays near the latency that it is near."""
    if not options.only_missing or options.near_ms is not None or options.out is None:
        return options
    if not options.out.exists():
        return options
    near_ms = tables.load(options.out).header.protocol.get(NEAR)
    return replace(options, near_ms=near_ms)


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


def _check_file(path: Path, header: Header) -> None:
    """InputError where a file is of another space, or near another latency: rows of both would mix."""
    if not path.exists():
        return
    there = tables.load(path).header
    if there.space not in ("", header.space):
        raise InputError(f"{path} is a table of {there.space}, not of {header.space}; choose another --out")
    known, asked = there.protocol.get(NEAR), header.protocol.get(NEAR)
    if known != asked:
        raise InputError(
            f"{path} was profiled {_about(known)}, and this would be {_about(asked)}; choose another --out, "
            "or remove the file"
        )


def _about(near_ms: float | None) -> str:
    return "for any budget" if near_ms is None else f"near {format_ms(near_ms)}"


def _of_images(header: Header) -> str:
    shape = "" if header.input_shape is None else f", input {'x'.join(map(str, header.input_shape))}"
    return shape + ("" if header.classes is None else f", {header.classes} classes")


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
            f"no table of {header.setting.describe()}, space {header.space}{_of_images(header)} to extend; "
            "name its --input and --classes (`hwnas table list`), or leave out --only-missing to make one"
        )
    return table_folder.new_path(header)
