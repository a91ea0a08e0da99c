"""`hwnas search --score proxy`: plan without training, data or the device.

The exact optimum of a score that needs no training (`hwnas.search.solve.entropy`) within a budget on
predicted latency, over all networks of a densely connected space, and the published networks of
that space beside it. Nothing is trained and nothing is measured, and the answer says so.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hwnas.cost.model import cost_model
from hwnas.errors import BudgetInfeasible, InputError
from hwnas.jobs import predict
from hwnas.jobs.resolve import networks
from hwnas.jobs.search import plan
from hwnas.jobs.search.options import SearchOptions
from hwnas.measure.table import LatencyTable
from hwnas.nets import spaces
from hwnas.protocols import Emit, SearchSpace
from hwnas.records import Budget, Estimate
from hwnas.search.densenas.choice import Chooser
from hwnas.search.densenas.strategy import dense_space
from hwnas.search.solve.entropy import entropy
from hwnas.spec import NetworkSpec
from hwnas.store import read_network, write_json, write_network

PLAN_SCHEMA = "hwnas.plan/1"
NOTE = "planned by an untrained score: nothing was trained and nothing was measured"


def search(options: SearchOptions, emit: Emit | None = None) -> dict[str, Any]:
    """Plan.

    Returns:
        ``best{network, depths, predicted_ms, low_ms, high_ms, macs, params, score, extrapolated}`` for the
        largest budget; ``sure``, the best whose whole interval is within it, or None;
        ``within_budget`` (of the prediction); ``targets`` for several budgets; ``published``;
        ``trials``, ``trained`` and ``train_macs``, all 0; ``members``, ``table``, ``conditions``,
        ``seconds{total}``, ``note``. With `options.out` the best network is written there.

    Raises:
        InputError: the strategy or the space is not of this kind.
        BudgetInfeasible: no network is predicted within a budget; names the smallest latency.
        MissingMeasurement: there is no table for the space.
    """
    started = time.monotonic()
    if options.strategy != "densenas":
        raise InputError(f"--score proxy plans for strategy densenas, not {options.strategy!r}")
    table = _table(options)
    space = _space(options, table)
    model = cost_model(table)
    notes = [NOTE, *table.warnings, *plan.check_coverage(table, space)]
    limits = (options.max_macs, options.max_params, options.max_memory)
    budgets = plan.budgets(options.latency_budget, model, *limits)
    tail = plan.TailModel(model, plan.tail_factor(table, budgets[0].percentile))
    targets = [_target(space, budget, tail.estimate) for budget in budgets]
    body: dict[str, Any] = {
        **targets[-1],
        **({"targets": targets} if len(targets) > 1 else {}),
        "published": published(space, budgets[-1], tail.estimate),
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
    return {**body, "seconds": {"training": 0.0, "measuring": 0.0, "total": time.monotonic() - started}}


def _table(o: SearchOptions) -> LatencyTable:
    named = Path(o.table) if o.table is not None else None
    conditions = {name: getattr(o, name) for name in ("backend", "precision", "batch", "threads")}
    return predict.find(named, device=o.device, space=o.space, **conditions)


def _space(options: SearchOptions, table: LatencyTable) -> SearchSpace:
    """The space for the images and classes that the table was made for."""
    header = table.header
    shape = options.input_shape or header.input_shape
    given: dict[str, Any] = {"input_shape": shape} if shape else {}
    if header.classes:
        given["classes"] = header.classes
    return spaces.make(options.space, **given)


def _target(
    space: SearchSpace, budget: Budget, estimate: Callable[[NetworkSpec], Estimate]
) -> dict[str, Any]:
    """The plan for one budget."""
    dense = dense_space(space)
    best = Chooser(dense, None, lambda spec: central(estimate(spec))).optimum(budget)
    try:
        sure = Chooser(dense, None, estimate).optimum(budget)
    except BudgetInfeasible:
        sure = None
    return {
        "budget": budget.describe(),
        "best": _row(best.spec, estimate, budget),
        "sure": None if sure is None else _row(sure.spec, estimate, budget),
        "within_budget": budget.fits(best.estimate),
    }


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


def _keep(folder: Path, body: dict[str, Any]) -> None:
    """Write the plan and its network; a folder that holds something else is refused."""
    if folder.exists() and any(folder.iterdir()) and not (folder / "plan.json").is_file():
        raise InputError(f"{folder} is not empty and holds no plan; choose another --out")
    write_network(folder / "network.json", NetworkSpec.model_validate(body["best"]["spec"]))
    write_json(folder / "plan.json", {"schema": PLAN_SCHEMA, **body})
