"""Which network wins: validation accuracy within the budget, then a promise kept by measurement."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from hwnas.errors import BudgetInfeasible
from hwnas.protocols import SearchContext
from hwnas.records import Budget, Estimate, Measurement, Promise, Trial
from hwnas.search.log import SearchLog
from hwnas.search.ranking import accuracy, candidates
from hwnas.spec import NetworkSpec
from hwnas.units import format_ms

# Measures a network whole, its weights beside it, against one budget.
Confirm = Callable[[NetworkSpec, Path | None, Budget], tuple[Promise, Measurement]]
Observe = Callable[[NetworkSpec, Measurement], None]


def pareto(trials: Sequence[Trial]) -> tuple[int, ...]:
    """Indices of the trained networks that no other beats in both accuracy and latency, fastest first."""
    front: list[Trial] = []
    for trial in sorted(candidates(trials), key=lambda t: (t.estimate.latency_ms, -accuracy(t), t.index)):
        if not front or accuracy(trial) > accuracy(front[-1]):
            front.append(trial)
    return tuple(trial.index for trial in front)


def smallest_latency(context: SearchContext) -> tuple[NetworkSpec, Estimate]:
    """The fastest network that growth can start from, with its estimate."""
    smallest = context.space.smallest()
    options = [smallest, *context.space.uniform()[:1]]
    spec = min(options, key=lambda one: context.estimate(one).high_ms)
    return spec, context.estimate(spec)


def refuse_infeasible(context: SearchContext, budgets: Sequence[Budget]) -> None:
    """BudgetInfeasible if the smallest network overruns a budget.

    The message names the smallest reachable latency, and the other limits where they are what
    cannot be kept.
    """
    spec, estimate = smallest_latency(context)
    for budget in budgets:
        if budget.fits(estimate):
            continue
        fixed_ms = sum(estimate.by_stage_ms.get(part, 0.0) for part in ("stem", "head"))
        below = ""
        if budget.latency_ms is not None and budget.latency_ms < fixed_ms:
            below = f"; stem and classifier alone take {format_ms(fixed_ms)}"
        raise BudgetInfeasible(
            f"no network of the space {context.space.name!r} meets the budget {budget.describe()}: the "
            "smallest, "
            f"{spec.depths_text}, is predicted at {format_ms(estimate.latency_ms)} (at most "
            f"{format_ms(estimate.high_ms)}), {estimate.macs / 1e6:.3g} MMAC, {estimate.params / 1e3:.4g} "
            f"kparam{below}. Give a budget of {format_ms(estimate.high_ms)} or more, or another space",
            smallest_ms=estimate.high_ms,
        )


def crown(
    log: SearchLog,
    ranked: Sequence[Trial],
    budget: Budget,
    *,
    context: SearchContext,
    confirm: Confirm,
    observe: Observe | None,
) -> Trial:
    """The first candidate whose measured promise is kept.

    Each measurement feeds the cost model before the next candidate is looked at. A candidate that
    is predicted no faster than one that broke its promise would break it too, and is passed over.

    Raises:
        BudgetInfeasible: none kept it.
    """
    broken: list[tuple[Trial, Measurement]] = []
    for trial in ranked:
        if not budget.fits(context.estimate(trial.spec)) or _hopeless(trial, broken):
            continue
        # Measure the candidate; if it is over the budget, slower ones are skipped.
        promise, measured = _confirmed(log, trial, budget, confirm, observe)
        if promise.verdict == "kept":
            return trial
        broken.append((trial, measured))
    error = _none_kept(budget, broken)
    log.infeasible(str(error))
    raise error


def _hopeless(trial: Trial, broken: Sequence[tuple[Trial, Measurement]]) -> bool:
    return any(other.estimate.latency_ms <= trial.estimate.latency_ms for other, _ in broken)


def _confirmed(
    log: SearchLog, trial: Trial, budget: Budget, confirm: Confirm, observe: Observe | None
) -> tuple[Promise, Measurement]:
    """The verdict on a trial for a budget; from the log if an earlier session of the run has it."""
    for promise, measured in log.verdicts(trial.index):
        if (promise.budget_ms, promise.percentile) == (budget.latency_ms, budget.percentile):
            return promise, measured
    weights = trial.outcome.weights
    start = time.monotonic()
    promise, measured = confirm(trial.spec, log.run.path / weights if weights else None, budget)
    log.confirm(trial.index, promise, measured, time.monotonic() - start)
    if observe is not None:
        observe(trial.spec, measured)
    return promise, measured


def _none_kept(budget: Budget, broken: Sequence[tuple[Trial, Measurement]]) -> BudgetInfeasible:
    if not broken:
        return BudgetInfeasible(
            f"no network that was trained is within {budget.describe()} after the measurements; "
            "give more trials (--max-trials) or a larger budget"
        )
    trial, measured = min(broken, key=lambda pair: pair[1].at(budget.percentile))
    least_ms = measured.at(budget.percentile)
    return BudgetInfeasible(
        f"{len(broken)} networks were predicted within {budget.describe()}, but none met it when measured; "
        f"the nearest, trial {trial.index} {trial.spec.depths_text}, took {format_ms(least_ms)}. "
        "If the machine is busy (see `hwnas doctor`), repeat the command when it is idle; otherwise profile "
        "again",
        smallest_ms=least_ms,
    )
