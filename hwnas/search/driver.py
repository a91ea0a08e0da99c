"""The loop of every search: propose, refuse or train, measure, record; then choose a winner.

Strategies differ in what they propose and in nothing else. Whatever happens is an event in the run
folder before the loop goes on, and the loop's state is those events, so a killed search that is
repeated ends as if it had never stopped.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hwnas
from hwnas import seals
from hwnas.errors import InputError
from hwnas.estimates import Budget
from hwnas.protocols import Emit, Evaluate, SearchContext
from hwnas.records import Measurement, Proposal, SearchedDevice, SearchResult, Setting, Target, Trial
from hwnas.runs import RunFolder
from hwnas.search.ahead import Ahead
from hwnas.search.final import Final, train_out
from hwnas.search.log import SearchLog, images_of
from hwnas.search.ranking import accuracy, by_accuracy
from hwnas.search.state import Clock, Limits, Measure, Pace, SearchState
from hwnas.search.strategy import Strategy, ranked
from hwnas.search.winner import Confirm, Observe, crown, pareto, refuse_infeasible, settle, undecided
from hwnas.search.workers import InProcess, Workers
from hwnas.store import atomic_path, write_network


def search(
    strategy: Strategy[Any],
    context: SearchContext,
    *,
    evaluate: Evaluate | Workers,
    confirm: Confirm,
    run: RunFolder,
    setting: Setting,
    table_id: str,
    seed: int,
    limits: Limits | None = None,
    emit: Emit = lambda kind, fields: None,
    measure: Measure | None = None,
    observe: Observe | None = None,
    targets: Sequence[Budget] = (),
    devices: Sequence[SearchedDevice] = (),
    distill: bool = False,
    clock: Clock = time.monotonic,
    pace: Pace | None = None,
) -> SearchResult:
    """Search until the strategy has no more proposals or a limit is reached, and choose a winner.

    Args:
        strategy: proposes, tells what it decided, ranks what was trained.
        context: space, estimates and the (largest) budget.
        evaluate: trains a proposal; `Workers` train several at a time, where the strategy allows it.
        confirm: measures a candidate winner whole and tests the budget's promise.
        run: where events, ``result.json``, ``network.json`` and ``weights.safetensors`` go.
        setting, table_id: conditions of the latencies, for the result.
        seed: with the history it decides all that is random.
        limits: what may be spent.
        emit: told of every event.
        measure: measures a candidate whole before it is trained; None leaves that to `confirm`.
        observe: teaches the cost model what was measured.
        targets: all budgets of a search for several; the largest must be the context's. Or those of several
            devices, each alone and all together (`cost.several`).
        devices: of a search for several, for the result.
        distill: let the winner of the largest budget, trained out, teach the smaller ones.
        clock: seconds, for `limits.seconds`.
        pace: training images a second of a network here, where the limit of seconds must be kept by a final
            training that is the first one.

    Raises:
        InputError: the budget names no latency.
        BudgetInfeasible: the smallest network does not fit, or no trained one kept its promise.
    """
    # All devices together come last, as the largest budget does: theirs is the main result.
    budgets = sorted(
        targets or (context.budget,), key=lambda b: (len(b.by_device_ms) > 1, b.latency_ms or 0.0)
    )
    if any(budget.latency_ms is None for budget in budgets):
        raise InputError("a search needs a latency budget; write for example --latency-budget 0.6ms")
    log = SearchLog(run, emit)
    done = log.finished()
    if done is not None:
        return done
    if observe is not None:
        for spec, measured in log.observed:
            observe(spec, measured)
    job = SearchState(
        strategy,
        context,
        InProcess(evaluate) if callable(evaluate) else evaluate,
        confirm,
        measure,
        observe,
        log,
        limits or Limits(),
        seed,
        distill,
        clock,
        clock(),
        pace,
    )
    if not log.trials:
        refuse_infeasible(context, budgets)
    try:
        stopped, complete = _loop(job)
        winners = _finish(job, budgets)
    finally:
        abandoned = job.workers.abandon()
        if abandoned:
            log.abandoned(abandoned)
    result = _result(job, winners, setting, table_id, stopped, devices)
    save_winners(run, result)
    log.result(result, complete=complete)
    return result


def _loop(job: SearchState) -> tuple[str, bool]:
    """Run trials until the end; why it ended, and whether a repeated command would end there too."""
    closed = job.log.closed
    if closed is not None:
        return closed, True
    ahead = Ahead(job)
    while True:
        # Step 1: stop at a limit of this session; what is being trained is waited for.
        reason = _limit(job)
        if reason is not None:
            while ahead.waiting:
                ahead.settle()
            return reason, False
        # Step 2: wait until a training more may be begun.
        if not ahead.has_room():
            ahead.settle_done()
            continue
        # Step 3: the strategy proposes, from the history and a seed of its length alone.
        proposals, decisions = ahead.propose()
        # Step 4: stop if there is nothing to try or the budget of trials or images is used up.
        reason = _end(job, ahead, proposals)
        if reason and ahead.waiting:  # one that fails costs no images, and another may follow
            ahead.settle()
            continue
        if reason:
            job.log.decisions(decisions)
            told = next((one.text for one in decisions if one.kind == "stop"), None)
            job.log.close(told or reason, said=told is not None)
            return told or reason, True
        # Step 5: reject or train each proposal; either way it is a trial.
        for number, proposal in enumerate(proposals):
            ahead.add(proposal, [] if number else decisions)


def _limit(job: SearchState) -> str | None:
    """The limit of this session that was reached, as text; None if none was."""
    seconds = job.limits.seconds
    if seconds is None or job.elapsed_s() < seconds * job.limits.search_share:
        return None
    if not by_accuracy(job.trials):
        return None
    return "the time limit (--max-time) was reached; repeat the command to continue"


def _end(job: SearchState, ahead: Ahead, proposals: Sequence[Proposal]) -> str:
    """Why the search ends; empty if it continues."""
    if not proposals:
        return "the strategy has no further network to propose"
    if ahead.count >= job.limits.trials:
        return f"the limit of {job.limits.trials} networks (--max-trials) was reached"
    total = job.limits.images
    spent = job.log.images + ahead.images
    if total is not None and spent + (proposals[0].images or 0) > total:
        return f"the training images are used up: {spent:,} of {total:,}"
    return ""


def _result(
    job: SearchState,
    winners: Sequence[Target],
    setting: Setting,
    table_id: str,
    stopped: str,
    devices: Sequence[SearchedDevice],
) -> SearchResult:
    main = winners[-1]
    seconds = {"training": job.log.training_s, "measuring": job.log.measuring_s}
    # Trainings of earlier sessions count as well; of several at once each takes its own time.
    alone = job.log.measuring_s + job.log.training_s / job.workers.jobs
    seconds["total"] = max(job.elapsed_s() + job.log.prepared_s, alone)
    return SearchResult(
        strategy=job.strategy.name,
        space=job.context.space.name,
        seed=job.seed,
        budget=main.budget,
        setting=setting,
        table_id=table_id,
        trials=tuple(job.trials),
        best=main.best,
        pareto=pareto(job.trials),
        measured=main.measured,
        promise=main.promise,
        seconds={name: round(value, 3) for name, value in seconds.items()},
        version=hwnas.__version__,
        targets=tuple(winners) if len(winners) > 1 else (),
        devices=tuple(devices),
        stopped=stopped + _passed_over(job, main),
    )


def _passed_over(job: SearchState, winner: Target) -> str:
    """Which larger networks were no answer: why budget is left where the strategy had filled it."""
    best = job.trials[winner.best]
    larger = [
        trial.spec.depths_text
        for trial in job.log.searched
        if trial.estimate.latency_ms > best.estimate.latency_ms
        and any(promise.verdict != "kept" for promise, _ in job.log.verdicts(trial.index, winner.budget)[-1:])
    ]
    return f"; larger networks did not keep it when measured ({', '.join(larger)})" if larger else ""


def _finish(job: SearchState, budgets: Sequence[Budget]) -> list[Target]:
    """Choose and train the winner of each budget; the largest budget's before the others where it teaches."""
    largest_first = list(reversed(budgets))
    if not job.distill:
        return _finish_each(job, largest_first, None)[::-1]
    found = _finish_each(job, largest_first[:1], None)
    return [*found, *_finish_each(job, largest_first[1:], found[0].best)][::-1]


def _finish_each(job: SearchState, budgets: Sequence[Budget], teacher: int | None) -> list[Target]:
    """Choose the winner for each budget and give it what is left of the training.

    A winner whose promise could not be decided before its final training is tested again after it; where
    it is broken then, the next candidate takes its place, with the images that are left. Where a disturbed
    machine leaves it undecided again, no barely trained network takes the place of a trained one: once the
    other budgets have their winners the search ends, and a repeated command tests again and trains nothing.

    Raises:
        BudgetInfeasible: no candidate kept its promise, or it could not be decided.
    """
    found: dict[int, Target] = {}
    untold: dict[int, tuple[Trial, Budget, Measurement]] = {}
    while len(found) + len(untold) < len(budgets):
        # Step 1: for each budget the first candidate that keeps its promise, or may keep it.
        winners: dict[int, Trial] = {}
        for at, budget in enumerate(budgets):
            if at not in found and at not in untold:
                order = ranked(job.strategy, job.log.searched)
                winners[at] = crown(
                    job.log, order, budget, context=job.context, confirm=job.confirm, observe=job.observe
                )
        # Step 2: their final trainings, or the rest of them; at once where there are machines for it.
        plans = [
            Final(one, job.log.verdicts(one.index, budgets[at])[-1][1], teacher, _lost(job, one, budgets[at]))
            for at, one in winners.items()
        ]
        train_out(job, plans)
        # Step 3: the promises once more, where they are undecided.
        for at, winner in winners.items():
            finals = [trial for trial in job.trials if trial.winner == winner.index]
            # Where validation tells no difference, the weights that saw more images.
            best, budget = max([winner, *finals], key=lambda t: (accuracy(t), t.index)), budgets[at]
            promise, measured = settle(job.log, winner, best, budget, job.confirm, job.observe)
            if promise.verdict == "kept":
                found[at] = Target(budget=budget, best=best.index, measured=measured, promise=promise)
                continue
            if promise.may_be_kept and finals:  # though the final weights may be no better on validation
                untold[at] = (best, budget, measured)
                continue
            job.log.passed_over(winner.index, promise)
    if untold:
        raise undecided(job.log, list(untold.values()), [target.budget for target in found.values()])
    return [found[at] for at in range(len(budgets))]


def _lost(job: SearchState, winner: Trial, budget: Budget) -> int:
    """Training images of candidates that were trained out for a budget and then passed over."""
    images = 0
    for trial in job.trials:
        if trial.winner is None or trial.winner == winner.index:
            continue
        verdicts = [promise for promise, _ in job.log.verdicts(trial.winner, budget)]
        if len(verdicts) > 1 and verdicts[0].may_be_kept and verdicts[-1].verdict != "kept":
            images += images_of(trial)
    return images


def save_winners(run: RunFolder, result: SearchResult) -> None:
    """Write the winner's network and weights; those of each budget under ``targets/``."""
    _save_one(run.path, run.path, result.trials[result.best])
    for target in result.targets:
        _save_one(run.path, target_folder(run.path, target), result.trials[target.best])


def target_folder(run: Path, target: Target) -> Path:
    """Where the winner for one of several budgets, or devices, lies."""
    devices = list(target.budget.by_device_ms)
    if not devices:
        return run / "targets" / f"{target.budget.latency_ms:g}ms"
    # An address holds characters that folders are better without.
    return run / "targets" / ("all" if len(devices) > 1 else re.sub(r"[^A-Za-z0-9.]+", "-", devices[0]))


def _save_one(run: Path, folder: Path, trial: Trial) -> None:
    write_network(folder / "network.json", trial.spec)
    done = trial.evaluation
    if done is not None and done.weights is not None:
        if done.weights_sha256 is not None:
            cure = f"remove the events from trial {trial.index} on, or search into a new folder"
            seals.check_file(run / done.weights, done.weights_sha256, cure)
        with atomic_path(folder / "weights.safetensors") as temporary:
            shutil.copyfile(run / done.weights, temporary)
