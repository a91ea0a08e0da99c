"""Which network wins: validation accuracy within the budget, then a promise kept by measurement."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from hwnas.errors import BudgetInfeasible
from hwnas.estimates import Budget, Estimate
from hwnas.protocols import SearchContext
from hwnas.records import Measurement, Promise, Trial
from hwnas.search.log import SearchLog
from hwnas.search.ranking import accuracy, candidates
from hwnas.spec import NetworkSpec
from hwnas.units import format_ms

# Measures a network whole, its weights beside it, against one budget.
Confirm = Callable[[NetworkSpec, Path | None, Budget], tuple[Promise, Measurement]]
Observe = Callable[[NetworkSpec, Measurement], None]
# Tests of a candidate that stays undecided: before its final training, and after.
TESTS = 2


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
    spec = min(options, key=lambda one: context.estimate(one).bound_ms)
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
        binding = budget.overruns(estimate)
        times = budget.tightest(estimate)
        fixed_ms = sum(estimate.by_stage_ms.get(part, 0.0) for part in ("stem", "head"))
        below = ""
        if budget.latency_ms is not None and budget.latency_ms < fixed_ms and times is estimate:
            below = f"; stem and classifier alone take {format_ms(fixed_ms)}"
        over = "; ".join(f"{option}: {text}" for option, text in binding.items())
        bound_ms = estimate.bound_of(times)
        least = {"--latency-budget": f" to {format_ms(bound_ms)} or more"}
        raised = [option + least.get(option, "") for option in binding]
        raise BudgetInfeasible(
            f"no network of the space {context.space.name!r} meets the budget {budget.describe()}: the "
            f"smallest, {spec.depths_text}, is over {over} (predicted {format_ms(times.latency_ms)}, "
            f"allow {format_ms(bound_ms)}){below}. Raise {' and '.join(raised)}, or take another "
            "space",
            smallest_ms=bound_ms,
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
    """The first candidate whose measured promise is kept, or could not be decided yet.

    Each measurement feeds the cost model before the next candidate is looked at. A candidate that
    is predicted no faster than one that broke its promise would break it too, and is passed over. One
    whose test was disturbed has not been refused: it is tested again after its final training (`settle`).

    Raises:
        BudgetInfeasible: there is none.
    """
    broken: list[tuple[Trial, Measurement]] = []
    undecided: list[tuple[Trial, Measurement]] = []
    for trial in ranked:
        if not budget.fits(context.estimate(trial.spec)) or _hopeless(trial, broken, budget):
            continue
        before = log.verdicts(trial.index, budget)
        promise, measured = before[-1] if before else _test(log, trial, trial, budget, confirm, observe)
        if promise.verdict == "kept":
            return trial
        if not promise.may_be_kept:
            broken.append((trial, measured))
        elif len(before) < TESTS:
            return trial
        else:
            undecided.append((trial, measured))
    error = _none_kept(budget, broken, undecided)
    log.infeasible(str(error))
    raise error


def settle(
    log: SearchLog, winner: Trial, trained: Trial, budget: Budget, confirm: Confirm, observe: Observe | None
) -> tuple[Promise, Measurement]:
    """The verdict on a winner, tested again where it is undecided.

    The final training is the longest wait that a search has, longer than any slow spell.

    Args:
        log: of the search.
        winner: the candidate that won.
        trained: the trial with its final weights.
        budget: the budget.
        confirm: tests it.
        observe: teaches the cost model what was measured.
    """
    last = log.verdicts(winner.index, budget)[-1]
    if not last[0].may_be_kept:
        return last
    return _test(log, winner, trained, budget, confirm, observe)


def undecided(
    log: SearchLog, untold: Sequence[tuple[Trial, Budget, Measurement]], kept: Sequence[Budget]
) -> BudgetInfeasible:
    """The end of a search whose trained winners could not be tested for the machine's sake; written down.

    Args:
        log: of the search.
        untold: trials with their final weights, each with its budget and what its last test found.
        kept: the other budgets, which have a winner.
    """
    each = "; ".join(
        f"trial {trained.index} {trained.spec.depths_text} is trained and may meet {budget.describe()}: it "
        f"took {format_ms(measured.at(budget.percentile))} as found"
        for trained, budget, measured in untold
    )
    others = f"; {' and '.join(budget.describe() for budget in kept)} kept" if kept else ""
    error = BudgetInfeasible(
        f"{each}, but the machine was too disturbed to show it, before the final training and after{others}. "
        "Repeat the command when the machine is quiet (see `hwnas doctor`), or with a longer --patience: it "
        "is tested again, and nothing is trained again",
        smallest_ms=min(measured.floor_ms for _, _, measured in untold),
    )
    log.infeasible(str(error))
    return error


def _hopeless(trial: Trial, broken: Sequence[tuple[Trial, Measurement]], budget: Budget) -> bool:
    return any(budget.load(other.estimate) <= budget.load(trial.estimate) for other, _ in broken)


def _test(
    log: SearchLog,
    trial: Trial,
    trained: Trial,
    budget: Budget,
    confirm: Confirm,
    observe: Observe | None,
) -> tuple[Promise, Measurement]:
    """Test the promise of a trial, with the weights of `trained`, and write the verdict down."""
    weights = trained.outcome.weights
    start = time.monotonic()
    promise, measured = confirm(trial.spec, log.run.path / weights if weights else None, budget)
    log.confirm(trial.index, promise, measured, time.monotonic() - start)
    if observe is not None and not promise.may_be_kept:  # nothing is learned from a disturbed machine
        observe(trial.spec, measured)
    return promise, measured


def _none_kept(
    budget: Budget,
    broken: Sequence[tuple[Trial, Measurement]],
    undecided: Sequence[tuple[Trial, Measurement]],
) -> BudgetInfeasible:
    if undecided:
        trial, measured = undecided[0]
        return BudgetInfeasible(
            f"{len(undecided)} networks may meet {budget.describe()}, but the machine was too disturbed to "
            f"show it; the first, trial {trial.index} {trial.spec.depths_text}, took "
            f"{format_ms(measured.at(budget.percentile))} as found. Repeat the command when the machine is "
            "quiet (see `hwnas doctor`): they are tested again, and nothing is trained again",
            smallest_ms=measured.floor_ms,
        )
    if not broken:
        return BudgetInfeasible(
            f"no network that was trained is within {budget.describe()} after the measurements; "
            "give more trials (--max-trials) or a larger budget"
        )
    trial, measured = min(broken, key=lambda pair: pair[1].at(budget.percentile))
    least_ms = measured.at(budget.percentile)
    number = "1 network was" if len(broken) == 1 else f"{len(broken)} networks were"
    took = f"took {format_ms(least_ms)}"
    if budget.latency_ms is not None and least_ms <= budget.latency_ms:
        # Over all calls it is within; the promise is about sessions, and too many of these were not.
        took += " over all calls, but more of its sessions were slower than the promise allows"
    return BudgetInfeasible(
        f"{number} predicted within {budget.describe()}, but none met it when measured; "
        f"the nearest, trial {trial.index} {trial.spec.depths_text}, {took}. "
        "If the machine is busy (see `hwnas doctor`), repeat the command when it is idle; otherwise profile "
        "again",
        smallest_ms=least_ms,
    )
