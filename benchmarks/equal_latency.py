"""Networks of the space `auto` that take about one latency, spread over families, widths and depths.

Candidates are drawn by predictions of a table near the budget, and measured in turns in one run; those whose
floor lies within `WINDOW` below the budget are taken, and measured once more, all in one run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.frontier import Bench, of_spec
from hwnas.arrays import Float64s, ImageShape
from hwnas.cost.model import cost_model
from hwnas.jobs.profile import ProfileOptions, ProfileOutcome, profile
from hwnas.measure import table as tables
from hwnas.nets.families import MOST_DEPTH, Families, Family, auto, narrowed
from hwnas.nets.levels import Gene
from hwnas.spec import NetworkSpec

# Part of the budget that a network may leave unused.
WINDOW = 0.08
# Draws of one family before it is left out, and rounds of drawing and measuring.
TRIES, ROUNDS = 30, 6
# Candidates measured for each network that is still wanted: some miss the window.
SPARE = 1.5

Price = Callable[[Sequence[NetworkSpec]], Float64s]  # predicted milliseconds of networks


def profiled(budget_ms: float, backend: str, shape: ImageShape, classes: int, path: Path) -> None:
    """Measure a table near a budget; a finished one stays as it is, a begun one is gone on with."""
    made = profile(
        ProfileOptions(
            device="cpu",
            space="auto",
            backend=backend,
            precision="fp32",
            batch=1,
            input_shape=shape,
            classes=classes,
            preset="quick",
            near_ms=budget_ms,
            out=path,
        )
    )
    assert isinstance(made, ProfileOutcome)
    if not made.complete:
        raise SystemExit(f"{path}: the profile was not finished; repeat the command")


def priced(path: Path, shape: ImageShape, classes: int) -> tuple[Families, Price]:
    """The space with the widths of a table near a budget, and what predicts milliseconds by it."""
    table = tables.load(path)
    space = auto(input_shape=shape, classes=classes)
    spans = {}
    for one in space.families:
        low, high = (tuple(end) for end in table.header.run["widths"][one.label])
        spans[one.label] = (one.widths.index(low), one.widths.index(high))
    model = cost_model(table)
    return narrowed(space, spans), lambda specs: np.array([e.latency_ms for e in model.estimates(specs)])


def drawn(
    space: Families,
    price: Price,
    budget_ms: float,
    wanted: int,
    rng: np.random.Generator,
    known: Iterable[str] = (),
) -> dict[str, dict[str, Any]]:
    """Members predicted within the window, the families in turn.

    Args:
        space: all families.
        price: predicts milliseconds.
        budget_ms: largest latency.
        wanted: networks; fewer where no family has another one.
        rng: draws depths, operators and width.
        known: keys of networks that are not to come again.

    Returns:
        By key the network, its family and its predicted milliseconds.
    """
    seen, found = set(known), dict[str, dict[str, Any]]()
    left = [space.families[at] for at in rng.permutation(len(space.families))]
    while left and len(found) < wanted:
        for one in list(left):
            made = _member(one, price, budget_ms, rng, seen)
            if made is None:
                left.remove(one)
                continue
            spec, ms = made
            seen.add(spec.key)
            found[spec.key] = {"family": one.label, "predicted_ms": ms, "spec": spec.model_dump(mode="json")}
            if len(found) == wanted:
                break
    return found


def _member(
    one: Family, price: Price, budget_ms: float, rng: np.random.Generator, seen: set[str]
) -> tuple[NetworkSpec, float] | None:
    """A new member within the window: depths and operators at random, then a width at which they fit."""
    for _ in range(TRIES):
        gene = one.space.gene(one.scaled(0, 1))
        operators = []
        for stage, level in enumerate(one.space.levels[at] for at in gene.path):
            depth = 1 if one.lean and stage == 0 else int(rng.integers(1, MOST_DEPTH // 2 + 1))
            picks = rng.integers(len(level.operators), size=depth)
            operators.append(tuple(level.operators[int(pick)] for pick in picks))
        paths = [one.space.gene(one.scaled(width, 1)).path for width in range(len(one.widths))]
        specs = [one.space.express(Gene(path, tuple(operators))) for path in paths]
        times_ms = price(specs)
        fits = [
            at for at in np.flatnonzero(within(times_ms, budget_ms)).tolist() if specs[at].key not in seen
        ]
        if fits:
            at = fits[int(rng.integers(len(fits)))]
            return specs[at], float(times_ms[at])
    return None


def within(ms: Any, budget_ms: float) -> Any:
    """Whether latencies are at most the budget, and at least `WINDOW` below it."""
    return (ms >= (1 - WINDOW) * budget_ms) & (ms <= budget_ms)


def spread(candidates: dict[str, dict[str, Any]], wanted: int) -> list[str]:
    """Keys of so many candidates, the families in turn, in the order in which they were drawn."""
    by_family: dict[str, list[str]] = {}
    for key, one in candidates.items():
        by_family.setdefault(one["family"], []).append(key)
    longest = max((len(keys) for keys in by_family.values()), default=0)
    turns = [keys[turn] for turn in range(longest) for keys in by_family.values() if turn < len(keys)]
    return turns[:wanted]


def chosen(
    bench: Bench, space: Families, price: Price, budget_ms: float, wanted: int, seed: int
) -> list[dict[str, Any]]:
    """Networks whose measured floor lies within the window.

    Returns:
        Of each `key`, `family`, `spec`, `predicted_ms`, and `floor_ms` and `ms` (the median) of one last run
        of all of them in turns.

    Raises:
        SystemExit: fewer were found.
    """
    rng = np.random.default_rng([seed, wanted])
    measured: dict[str, dict[str, Any]] = {}
    fitting: dict[str, dict[str, Any]] = {}
    for number in range(ROUNDS):
        more = int(np.ceil(SPARE * (wanted - len(fitting))))
        candidates = drawn(space, price, budget_ms, more, rng, measured)
        if not candidates:
            break
        for key, floor_ms, _ in _measured(bench, candidates, "quick"):
            measured[key] = candidates[key]
            if within(floor_ms, budget_ms):
                fitting[key] = candidates[key]
        print(f"round {number}: {len(fitting)} of {len(measured)} measured are in the window", flush=True)
        if len(fitting) >= wanted:
            break
    if len(fitting) < wanted:
        raise SystemExit(
            f"{len(fitting)} networks were found that take {budget_ms:g} ms or at most {100 * WINDOW:g} % "
            f"less, and {wanted} are asked for; ask for fewer"
        )
    taken = {key: fitting[key] for key in spread(fitting, wanted)}
    return [
        {"key": key, **taken[key], "floor_ms": floor_ms, "ms": ms}
        for key, floor_ms, ms in _measured(bench, taken, "default")
    ]


def _measured(
    bench: Bench, candidates: dict[str, dict[str, Any]], preset: str
) -> list[tuple[str, float, float]]:
    """Key, floor and median of each, measured in turns."""
    specs = {key: NetworkSpec.model_validate(one["spec"]) for key, one in candidates.items()}
    engines = {key: bench.engine(of_spec(spec)) for key, spec in specs.items()}
    found = bench.measured(engines, preset)
    return [(key, one.floor_ms, one.median_ms) for key, one in found.items()]
