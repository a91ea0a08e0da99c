"""Under which conditions a profile measures: runtime and setting, as named or as the clock prefers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwnas.errors import HwnasError, InputError
from hwnas.jobs.profile.choose import choose, is_open, kept, takes
from hwnas.jobs.profile.near import anchors_near
from hwnas.jobs.profile.options import ProfileOptions
from hwnas.measure import device as devices
from hwnas.measure import table as tables
from hwnas.measure import table_folder
from hwnas.measure.candidates import in_forms, precision_of
from hwnas.measure.rows import NEAR, SUFFIX, Header
from hwnas.measure.sweep import header_for
from hwnas.measure.timing import TimingOptions
from hwnas.nets.families import Families
from hwnas.protocols import Backend, Emit, SearchSpace
from hwnas.records import BuildChoices, Setting
from hwnas.spec import NetworkSpec


@dataclass(frozen=True)
class Candidate:
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


def candidates_of(options: ProfileOptions, space: SearchSpace, emit: Emit | None) -> list[Candidate]:
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
            return [Candidate(*made, [])]
    if left_open and o.dla is not None:
        raise InputError("--dla: name one backend and one precision with it, not auto or a list")
    if o.out is not None and o.out.exists():
        # A second one beside it was begun because the first is too loose: it is gone on with.
        begun = [tables.load(path).setting for path in (o.out, second_of(o.out)) if path.exists()]
        return [Candidate(devices.backend_of(there), there, []) for there in begun]
    if (unfinished := _begun(o, space)) is not None:
        return [Candidate(devices.backend_of(unfinished), unfinished, [])]
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
        specs=None if o.dry_run else _compared(o, space, emit),
    )
    settings = worth_a_profile(settings, o.device) if left_open else settings[:1]
    return [Candidate(devices.backend_of(s), s, kept(compared)) for s in settings]


def second_of(out: Path) -> Path:
    """Where the profile of other conditions is written until it is known which of the two is kept.

    Hidden, as no table that a user names is: the one that is not kept is removed.
    """
    return out.with_name(f".{out.name.removesuffix(SUFFIX)}.second{SUFFIX}")


def _begun(options: ProfileOptions, space: SearchSpace) -> Setting | None:
    """The conditions of an unfinished profile near the same latency.

    What the clock chose is not chosen again: two that take about as long come out in another order.
    """
    if options.near_ms is None:
        return None
    member, place = space.smallest(), devices.resolve(options.device)
    for path, header in table_folder.headers():
        there = header.setting
        same = (header.space, header.input_shape, header.classes, header.protocol.get(NEAR)) == (
            space.name,
            member.input_shape,
            member.classes,
            options.near_ms,
        )
        asked = (place.name, options.batch or 1, options.threads)
        open_to = takes(options.backend, there.backend) and takes(options.precision, there.precision)
        if not same or (there.device, there.batch, there.threads) != asked or not open_to:
            continue
        try:
            unchanged = devices.conditions_of(there)[1] == there
        except HwnasError:  # its runtime is gone
            continue
        if unchanged and not table_folder.is_finished(path):
            return there
    return None


def _compared(options: ProfileOptions, space: SearchSpace, emit: Emit | None) -> list[NetworkSpec] | None:
    """The networks that runtimes are compared by near one latency; None where those of the space are."""
    if options.near_ms is None or not isinstance(space, Families):
        return None
    backend, setting = devices.conditions(
        options.device, None, precision="fp32", batch=options.batch or 1, threads=options.threads
    )
    return anchors_near(space, options.near_ms, backend, setting, emit)


def worth_a_profile(settings: Sequence[Setting], device: str) -> list[Setting]:
    """The fastest; and, where its networks cannot be predicted, fp32, that of the device's own runtime where
    it is among them. A profile takes minutes, so no more than two.
    """
    own = devices.resolve(device).backend
    floats = sorted((s for s in settings if s.precision == "fp32"), key=lambda s: s.backend != own)
    return list(dict.fromkeys([settings[0], *floats[:1]]))
