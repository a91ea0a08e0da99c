"""What the steps of one search share, and how one proposal becomes a trial."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from hwnas.errors import BackendUnavailable, DataFormatError, HwnasError, InputError, TrainingFailed
from hwnas.estimates import Budget, Estimate
from hwnas.protocols import SearchContext
from hwnas.records import Asked, Measurement, Proposal, Trial
from hwnas.search.log import SearchLog
from hwnas.search.strategy import Strategy
from hwnas.search.winner import Confirm, Observe
from hwnas.search.workers import Begun, Workers
from hwnas.spec import NetworkSpec
from hwnas.units import format_ms

Measure = Callable[[NetworkSpec], Measurement]
Clock = Callable[[], float]
Pace = Callable[[NetworkSpec], float]


@dataclass(frozen=True)
class Limits:
    """What a search may spend; it ends cleanly with the best so far when any is used up.

    Attributes:
        trials: networks looked at, refused ones included.
        images: training images over the search and the final training. What the search leaves goes
            into the final training of the winner (of each winner when there are several budgets:
            then each gets as many as a single one would).
        seconds: wall time of this session; a repeated command gets it again.
        search_share: largest part of `seconds` that may go by before the final training starts.
    """

    trials: int = 200
    images: int | None = None
    seconds: float | None = None
    search_share: float = 0.6


@dataclass(frozen=True)
class SearchState:
    """What the steps of a search share; the history is the log's."""

    strategy: Strategy[Any]
    context: SearchContext
    workers: Workers
    confirm: Confirm
    measure: Measure | None
    observe: Observe | None
    log: SearchLog
    limits: Limits
    seed: int
    distill: bool
    clock: Clock
    started: float
    pace: Pace | None = None

    @property
    def trials(self) -> list[Trial]:
        """Every trial so far."""
        return self.log.trials

    def elapsed_s(self) -> float:
        """Seconds since this session began."""
        return self.clock() - self.started


def looked_at(job: SearchState, proposal: Proposal, waiting: Sequence[Trial] = ()) -> tuple[Trial, float]:
    """The trial before any training, with `error` where it is refused; seconds of a new measurement.

    Args:
        job: the search.
        proposal: what is looked at.
        waiting: trials before it that are not in the log yet.
    """
    budget, ahead = job.context.budget, len(waiting)
    trial = untrained(job, proposal, ahead)
    if proposal.spec not in job.context.space:
        return updated(trial, state="failed", error="not a member of the space"), 0.0
    if proposal.role != "candidate":
        return trial, 0.0
    if not budget.fits(trial.estimate):
        return updated(trial, error=overrun(budget, trial.estimate)), 0.0
    if job.measure is None:
        return trial, 0.0
    measured, measuring_s = _measured(job, proposal.spec, job.measure, waiting)
    before = trial.estimate if measuring_s else None  # the honest prediction, for the report
    trial = updated(untrained(job, proposal, ahead), measured=measured, predicted=before)
    if not budget.fits(trial.estimate):
        took = format_ms(measured.at(budget.percentile))
        trial = updated(trial, error=f"measured at {took}: {overrun(budget, trial.estimate)}")
    return trial, measuring_s


def untrained(job: SearchState, proposal: Proposal, ahead: int = 0) -> Trial:
    """The trial of a proposal before anything was done with it; `ahead` are not in the log yet."""
    return Trial(
        index=len(job.trials) + ahead,
        estimate=job.context.estimate(proposal.spec),
        state="over_budget",
        **{name: getattr(proposal, name) for name in Asked.model_fields},
    )


def finish(job: SearchState, trial: Trial, training: Begun | None, measuring_s: float = 0.0) -> Trial:
    """Wait for a training (None where the proposal was refused) and add the trial to the log.

    An error of ours (training diverged, ...) makes it a failed trial. Not so a damaged file of the
    run: it ends the search, for once the file is mended the network can be trained. Nor a wrong option,
    a machine that has gone or a file that cannot be written; and any other error is a bug.
    """
    if training is None:
        job.log.trial(trial, measuring_s, 0.0)
        return trial
    try:
        evaluation = training.result()
        trial = updated(trial, state="done", evaluation=evaluation)
        took_s = max(training.took_s, evaluation.wall_s)  # a part may be an earlier session's
    except (BackendUnavailable, DataFormatError, InputError, TrainingFailed):
        raise
    except HwnasError as exc:
        trial = updated(trial, state="failed", error=str(exc))
        took_s = training.took_s
    job.log.trial(trial, measuring_s, took_s, training.where)
    return trial


def updated(trial: Trial, **fields: Any) -> Trial:
    """A copy with other fields, checked."""
    return Trial.model_validate({**dict(trial), **fields})


def overrun(budget: Budget, estimate: Estimate) -> str:
    """The limits that an estimate overruns, in words."""
    over = "; ".join(f"{option}: {text}" for option, text in budget.overruns(estimate).items())
    return f"over the budget: {over}"


def _measured(
    job: SearchState, spec: NetworkSpec, measure: Measure, waiting: Sequence[Trial]
) -> tuple[Measurement, float]:
    """A whole measurement, and the seconds it took (0 where an earlier trial had the same network)."""
    known = job.log.measured.get(spec.key)
    if known is not None:
        return known, 0.0
    for trial in waiting:
        if trial.measured is not None and trial.spec.key == spec.key:
            return trial.measured, 0.0
    start = time.monotonic()
    measured = measure(spec)
    if job.observe is not None:
        job.observe(spec, measured)
    return measured, max(time.monotonic() - start, 1e-6)
