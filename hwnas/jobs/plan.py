"""`hwnas plan`: plan without training, data or the device.

The optimum of a score that needs no training (`hwnas.search.solve.entropy`) within a budget on predicted
latency, by the choice of a strategy that has one, and the published networks of that space beside it.
Nothing is trained and nothing is measured, and the answer says so.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from hwnas import budgets as grammar
from hwnas import plugins, schemas
from hwnas.cost.model import cost_model
from hwnas.errors import BudgetInfeasible, InputError
from hwnas.estimates import Budget, Estimate
from hwnas.jobs import predict
from hwnas.jobs.conditions import TableAndLimits
from hwnas.jobs.resolve import networks
from hwnas.jobs.search import plan as search_plan
from hwnas.measure import reliability
from hwnas.measure.table import LatencyTable
from hwnas.nets import spaces
from hwnas.protocols import Emit, SearchContext, SearchSpace
from hwnas.results import Result
from hwnas.search.solve.entropy import entropy
from hwnas.search.strategy import Strategy, asked, find
from hwnas.spec import NetworkSpec
from hwnas.store import read_network, write_json, write_network

NOTE = "planned by an untrained score: nothing was trained and nothing was measured"


@dataclass(frozen=True)
class PlanOptions(TableAndLimits):
    """What to plan for, besides the table and the limits.

    Attributes:
        latency_budget: ``0.6ms``, ``18ms@p95``, a list, or ``1.15x:resnet20`` (`hwnas.budgets`).
        strategy, space: names of plug-ins; the strategy must be able to choose by an untrained score.
        out: folder for the plan and its network; None writes nothing.
        dry_run: write nothing.
    """

    latency_budget: str
    strategy: str = "densenas"
    space: str = "densenas-mbv2"
    out: Path | None = None
    dry_run: bool = False

    def __post_init__(self) -> None:
        if not find(self.strategy).plans():
            raise InputError(
                f"strategy {self.strategy!r} cannot choose by an untrained score; use one of "
                f"{', '.join(planners())}, or train: hwnas search --strategy {self.strategy}"
            )
        grammar.parse(self.latency_budget)


class Planned(Result):
    """A network of a plan: its predicted costs and its untrained score."""

    network: str
    depths: tuple[int, ...]
    widths: tuple[int, ...]
    predicted_ms: float
    low_ms: float
    high_ms: float
    coverage: float
    macs: int
    params: int
    score: float
    extrapolated: tuple[str, ...]
    within_budget: bool


class PlanTarget(Result):
    """The best network for a budget, and the best whose whole interval is within it (None: there is none)."""

    budget: str
    best: Planned
    sure: Planned | None
    within_budget: bool


class NetworkPlan(PlanTarget):
    """A plan; of several budgets its own figures are those of the largest.

    Attributes:
        targets: one for each of several budgets.
        published: the shipped networks of the space, priced.
        strategy, space, members: how and out of how many networks.
        trials, trained, train_macs: 0, for nothing is trained.
        table, table_id, conditions: what latencies are from.
        note, notes: what a plan is worth.
        run: where it was written.
        seconds: how long it took.
    """

    targets: tuple[PlanTarget, ...] = ()
    published: tuple[Planned, ...]
    strategy: str
    space: str
    members: float | None
    trials: int
    trained: int
    train_macs: float
    table: str
    table_id: str
    conditions: str
    note: str
    notes: tuple[str, ...]
    run: str | None
    seconds: dict[str, float]


def planners() -> list[str]:
    """The strategies that choose by an untrained score; broken packages are left out."""
    able = []
    for name in plugins.names("strategies"):
        with suppress(InputError):
            able += [name] * find(name).plans()
    return able


def plan(options: PlanOptions, emit: Emit | None = None) -> NetworkPlan:
    """Plan.

    Returns:
        The best network for each budget. With `options.out` the best one is written there.

    Raises:
        InputError: the strategy or the space is not of this kind.
        BudgetInfeasible: no network is predicted within a budget; names the smallest latency.
        MissingMeasurement: there is no table for the space.
    """
    started = time.monotonic()
    if options.out is not None:
        _refuse_other(options.out)
    table = _table(options)
    reliability.require(table, options.insist)
    space = _space(options, table)
    model = cost_model(table)
    notes = [NOTE, *table.warnings, *search_plan.check_coverage(table, space)]
    limits = (options.max_macs, options.max_params, options.max_memory)
    budgets = search_plan.budgets(options.latency_budget, model, *limits, space=space)
    tail = search_plan.TailModel(model, search_plan.tail_factor(table, budgets[0].percentile))
    estimate = cache(tail.estimate)  # every budget, and its surest network, asks for the same ones
    strategy = find(options.strategy)
    targets = [_target(strategy, space, budget, estimate) for budget in budgets]
    body: dict[str, Any] = {
        **targets[-1],
        **({"targets": targets} if len(targets) > 1 else {}),
        "published": published(space, budgets[-1], estimate),
        "strategy": options.strategy,
        "space": space.name,
        "members": getattr(space, "members", None),
        "score": "proxy",
        "trials": 0,
        "trained": 0,
        "train_macs": 0,
        "table": str(table.path),
        "table_id": table.table_id,
        "conditions": table.setting.describe(),
        "note": NOTE,
        "notes": notes,
        "run": None,
    }
    if emit is not None:
        for note in notes:
            emit("note", {"text": note})
    if options.out is not None and not options.dry_run:
        body["run"] = str(options.out)
        _keep(options.out, body)
    seconds = {"training": 0.0, "measuring": 0.0, "total": time.monotonic() - started}
    return NetworkPlan.of({**body, "seconds": seconds})


def _table(o: PlanOptions) -> LatencyTable:
    named = Path(o.table) if o.table is not None else None
    conditions = {name: getattr(o, name) for name in ("backend", "precision", "batch", "threads")}
    # Where a size is named, the table must be of it, and what makes one is told with it.
    sized = [] if o.input_shape is None else [spaces.make(o.space, input_shape=o.input_shape).smallest()]
    return predict.find(named, sized, device=o.device, space=o.space, **conditions)


def _space(options: PlanOptions, table: LatencyTable) -> SearchSpace:
    """The space for the images and classes that the table was made for."""
    header = table.header
    shape = options.input_shape or header.input_shape
    given: dict[str, Any] = {"input_shape": shape} if shape else {}
    if header.classes:
        given["classes"] = header.classes
    return spaces.make(options.space, **given)


def _target(
    strategy: type[Strategy[Any]],
    space: SearchSpace,
    budget: Budget,
    estimate: Callable[[NetworkSpec], Estimate],
) -> dict[str, Any]:
    """The plan for one budget."""
    best = _chosen(strategy, SearchContext(space, lambda spec: central(estimate(spec)), budget))
    try:
        sure = _chosen(strategy, SearchContext(space, estimate, budget))
    except BudgetInfeasible:
        sure = None
    return {
        "budget": budget.describe(),
        "best": _row(best, estimate, budget),
        "sure": None if sure is None else _row(sure, estimate, budget),
        "within_budget": budget.fits(central(estimate(best))),
    }


def _chosen(strategy: type[Strategy[Any]], context: SearchContext) -> NetworkSpec:
    with asked(strategy, "plan"):
        found = strategy.plan(context)
    if not isinstance(found, NetworkSpec):
        raise InputError(
            f"strategy {strategy.name}: plan gave {type(found).__name__}; expected a NetworkSpec"
        )
    return found


def central(estimate: Estimate) -> Estimate:
    """The estimate without its interval."""
    return estimate.model_copy(update={"low_ms": estimate.latency_ms, "high_ms": estimate.latency_ms})


def published(
    space: SearchSpace, budget: Budget, estimate: Callable[[NetworkSpec], Estimate]
) -> list[dict[str, Any]]:
    """The shipped examples of a space, priced; their classes may be others than the table's."""
    found = []
    for path in networks.examples().values():
        spec = read_network(path)
        if spec.input_shape != space.smallest().input_shape:
            continue
        if spec in spaces.make(space.name, input_shape=spec.input_shape, classes=spec.classes):
            found.append(_row(spec, estimate, budget))
    return found


def _row(spec: NetworkSpec, estimate: Callable[[NetworkSpec], Estimate], budget: Budget) -> dict[str, Any]:
    cost = estimate(spec)
    return {
        "network": spec.name or spec.key,
        "depths": list(spec.depths),
        "widths": [stage[0].c_out for stage in spec.stages],
        "predicted_ms": cost.latency_ms,
        "low_ms": cost.low_ms,
        "high_ms": cost.high_ms,
        "coverage": cost.coverage,
        "measured": None,
        "accuracy": None,
        "macs": cost.macs,
        "params": cost.params,
        "score": entropy(spec),
        "extrapolated": list(cost.extrapolated),
        "within_budget": budget.fits(central(cost)),
        "spec": spec.model_dump(mode="json"),
    }


def _refuse_other(folder: Path) -> None:
    """Refuse a folder that holds something else than a plan, before anything is computed."""
    if folder.exists() and any(folder.iterdir()) and not (folder / "plan.json").is_file():
        raise InputError(f"{folder} is not empty and holds no plan; choose another --out")


def _keep(folder: Path, body: dict[str, Any]) -> None:
    """Write the plan and its network."""
    write_network(folder / "network.json", NetworkSpec.model_validate(body["best"]["spec"]))
    write_json(folder / "plan.json", {"schema": schemas.PLAN, **body})
