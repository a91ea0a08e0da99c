"""A profile for one latency budget: of the space of all families, only widths that can matter near it.

Two blocks a stage take the budget at some width of a family; with one or three, or other operators, at a
width nearby. A few networks of each family are timed once to find it. That takes seconds; blocks that no
network near the budget has would take minutes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from pydantic import StrictInt, TypeAdapter, ValidationError

from hwnas.arrays import Float64s
from hwnas.errors import BudgetInfeasible, DataFormatError, InputError
from hwnas.jobs.profile.plan import TRIED
from hwnas.measure import table as tables
from hwnas.measure.timing import SessionOptions, TimingOptions, measure
from hwnas.nets import onnx
from hwnas.nets.families import Families, Family, narrowed
from hwnas.protocols import Backend, Emit, Engine
from hwnas.records import Setting
from hwnas.spec import NetworkSpec
from hwnas.units import format_ms

# Times of the uniform member of two blocks a stage that its family's widths are kept between, as multiples
# of the budget: one block a stage takes about half of its time, three take half as much again.
LEAST, MOST = 0.5, 2.0
# One short session each: what is wanted is a width, which steps by a tenth or more.
ONCE = TimingOptions(sessions=1, sessions_max=1, repeats=0, session=SessionOptions(session_ms=20.0))
# Places among the widths that are timed, as far as they are needed.
STEP = 8
COMPARED = 3  # families
# A network that takes this many times the budget in one short session is over it, however bad the second was.
FAR_OVER = 1.5

Spans = dict[str, tuple[int, int]]
# Of a header: for each family the channels of the stages of its narrowest and its widest members. Places
# would mean others once the widths of a family change.
Ends = dict[str, tuple[tuple[StrictInt, ...], tuple[StrictInt, ...]]]


def space_near(
    space: Families,
    budget_ms: float,
    backend: Backend,
    setting: Setting,
    path: Path,
    emit: Emit | None = None,
) -> tuple[Families, Ends]:
    """The space with the widths near a budget, and the channels that they begin and end with.

    Args:
        space: all families in all widths.
        budget_ms: latency.
        backend, setting: under which networks are timed.
        path: table that is made; where it was begun, its own widths are taken.
        emit: progress.

    Raises:
        BudgetInfeasible: even the smallest networks take far longer.
    """
    spans = _begun(path, space)
    if spans is None:
        time_ms, spans = _timer(backend, setting), {}
        for done, one in enumerate(space.families):
            _progress(emit, f"looking for widths near {format_ms(budget_ms)}", done, len(space.families), one)
            spans[one.label] = span(one, budget_ms, time_ms)
        if not any(last for _, last in spans.values()):
            _require_possible(space, budget_ms, time_ms)
    near = narrowed(space, spans)
    return near, {one.label: (one.widths[0], one.widths[-1]) for one in near.families}


def span(family: Family, budget_ms: float, time_ms: Callable[[NetworkSpec], float]) -> tuple[int, int]:
    """First and last place of a family's widths near a budget; the nearest where none is near."""
    times = _times_ms(family, budget_ms, time_ms)
    inside = np.flatnonzero((times >= LEAST * budget_ms) & (times <= MOST * budget_ms))
    if len(inside):
        return int(inside[0]), int(inside[-1])
    nearest = _nearest(times, budget_ms)
    return nearest, nearest


def _require_possible(space: Families, budget_ms: float, time_ms: Callable[[NetworkSpec], float]) -> None:
    """BudgetInfeasible where all networks take far longer: a profile would be in vain."""
    smallest = [space.smallest(), *(one.scaled(0, 1) for one in space.families)]
    least_ms = min(map(time_ms, smallest))
    if least_ms > FAR_OVER * budget_ms:
        raise BudgetInfeasible(
            f"the fastest of the smallest networks of {space.name} takes {format_ms(least_ms)} here, and the "
            f"budget is {format_ms(budget_ms)}; raise the budget, or make the images smaller (--input)",
            smallest_ms=least_ms,
        )


def anchors_near(
    space: Families, budget_ms: float, backend: Backend, setting: Setting, emit: Emit | None = None
) -> list[NetworkSpec]:
    """Of each of the families that are tried first the member that takes about the budget.

    By these runtimes and precisions are compared: which is the fastest is another for small networks than for
    large ones.
    """
    time_ms, found = _timer(backend, setting), []
    for done, one in enumerate(space.families[:COMPARED]):
        _progress(emit, f"looking for networks of {format_ms(budget_ms)}", done, COMPARED, one)
        found.append(one.scaled(_nearest(_times_ms(one, budget_ms, time_ms), budget_ms), TRIED))
    return found


def _times_ms(family: Family, budget_ms: float, time_ms: Callable[[NetworkSpec], float]) -> Float64s:
    """By the place of a width the time of its uniform member, up to where it is too slow."""
    known: dict[int, float] = {}
    last = len(family.widths) - 1
    for at in (*range(0, last, STEP), last):
        known[at] = time_ms(family.scaled(at, TRIED))
        if known[at] > MOST * budget_ms:
            break
    # Between two that were timed a power of the width.
    times: Float64s = np.exp(np.interp(np.arange(max(known) + 1), list(known), np.log(list(known.values()))))
    return times


def _progress(emit: Emit | None, task: str, done: int, total: int, family: Family) -> None:
    if emit is not None:
        emit("progress", {"task": task, "done": done, "total": total, "note": family.label})


def _nearest(times_ms: Float64s, budget_ms: float) -> int:
    return int(np.abs(np.log(times_ms / budget_ms)).argmin())


def _begun(path: Path, space: Families) -> Spans | None:
    """The widths of a table that was begun, by their places; None where there is none."""
    if not path.exists():
        return None
    found = tables.load(path).header.run.get("widths")
    known = {one.label: one.widths for one in space.families}
    try:
        ends = TypeAdapter(Ends).validate_python(found)
        spans = {
            label: (known[label].index(low), known[label].index(high)) for label, (low, high) in ends.items()
        }
        narrowed(space, spans)
    except (ValidationError, KeyError, ValueError, InputError) as exc:
        raise DataFormatError(
            f"{path}: the widths in its header are not the narrowest and the widest of each family of the "
            f"space {space.name}; the file was damaged or is of another version: remove it, or profile into "
            "a new file"
        ) from exc
    return spans


def _timer(backend: Backend, setting: Setting) -> Callable[[NetworkSpec], float]:
    def time_ms(spec: NetworkSpec) -> float:
        graph = onnx.network(spec, batch=setting.batch, seed=0)

        def build() -> Engine:
            return backend.build(graph, setting)

        return measure({"one": build}, ONCE, rng=np.random.default_rng(0), emit=None)["one"].floor_ms

    return time_ms
