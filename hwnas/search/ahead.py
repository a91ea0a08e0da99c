"""Trials that are begun before earlier ones are done, as far as the strategy does not look at those.

The log stays in the order of the proposals, so that the events of a search are the same however many
trainings run at once, and whichever is done first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from hwnas.errors import BuildError
from hwnas.records import Proposal, Trial
from hwnas.search.state import SearchState, finish, looked_at, updated
from hwnas.search.strategy import Decision, asked, proposed
from hwnas.search.workers import Begun


@dataclass
class _Next:
    """A trial that is not in the log yet; `training` is None where it was refused, or not begun."""

    decisions: list[Decision]
    proposal: Proposal
    trial: Trial
    measuring_s: float
    training: Begun | None = None

    def done(self) -> bool:
        """Whether it can be written without waiting."""
        return bool(self.trial.error) or (self.training is not None and self.training.done())


@dataclass
class Ahead:
    """The trials of one search that come behind those of its log.

    Attributes:
        job: the search.
        waiting: in the order of their numbers.
    """

    job: SearchState
    waiting: deque[_Next] = field(default_factory=deque)
    _shown: list[Trial] = field(default_factory=list)

    @property
    def images(self) -> int:
        """Training images that the waiting trials will have cost, if all succeed."""
        return sum(one.proposal.images or 0 for one in self.waiting if not one.trial.error)

    @property
    def count(self) -> int:
        """Trials in the log and waiting ones."""
        return len(self.job.trials) + len(self.waiting)

    def has_room(self) -> bool:
        """Whether another training may be begun, and the strategy proposes without the missing results."""
        if not self.waiting:
            return True
        history = self._history()
        if self._seen(history) > len(history) - len(self.waiting):
            return False
        workers = self.job.workers
        if workers.in_waves and any(one.training is not None for one in self.waiting):
            return False
        return sum(not one.done() for one in self.waiting) < workers.jobs

    def propose(self) -> tuple[list[Proposal], list[Decision]]:
        """What the strategy proposes next, from what it may see and a seed of the trials' number alone."""
        history = self._history()
        seen = self._seen(history)
        shown = [*history[:seen], *self._shown[seen:]]
        rng = np.random.default_rng([self.job.seed, self.count])
        return proposed(self.job.strategy, shown, 1, rng)

    def _history(self) -> list[Trial]:
        """The trials of the log, and those that wait, without results."""
        known = self.job.log.searched
        # A trial without its result stays what it is, with any number of jobs; so each is made once.
        self._shown += map(_untold, known[len(self._shown) :])
        waiting = [one.trial for one in self.waiting]
        self._shown += map(_untold, waiting[len(self._shown) - len(known) :])
        return [*known, *self._shown[len(known) :]]

    def _seen(self, history: Sequence[Trial]) -> int:
        with asked(self.job.strategy, "sees"):
            return self.job.strategy.sees(history)

    def add(self, proposal: Proposal, decisions: list[Decision]) -> None:
        """Look at a proposal, and begin its training unless it is refused or others are measured first."""
        if not self.waiting:  # else they wait with it, for the log is in order
            self.job.log.decisions(decisions)
            decisions = []
        trial, measuring_s = looked_at(self.job, proposal, [one.trial for one in self.waiting])
        self.waiting.append(_Next(decisions, proposal, trial, measuring_s))
        if not self.job.workers.in_waves:
            self._begin()
        while self.waiting and self.waiting[0].trial.error:
            self.settle()

    def _begin(self) -> None:
        for one in self.waiting:
            if one.training is None and not one.trial.error:
                one.training = self.job.workers.begin(one.proposal, one.trial.index)

    def settle(self) -> None:
        """Write the first waiting trial into the log; waits for its training."""
        self._begin()
        first = self.waiting[0]
        self.job.log.decisions(first.decisions)
        finish(self.job, first.trial, first.training, first.measuring_s)
        self.waiting.popleft()
        _raise_if_all_fail(self.job.trials)

    def settle_done(self) -> None:
        """Wait until there is room, or the first trial is done; write down those that are done in order."""
        self._begin()
        while not self.waiting[0].done() and not self.has_room():
            self.job.workers.wait()
        while self.waiting and self.waiting[0].done():
            self.settle()


def _untold(trial: Trial) -> Trial:
    """A trial as a strategy sees it that must not look at its result, with any number of jobs."""
    if trial.state == "over_budget" and trial.error:  # known before any training
        return trial
    return updated(trial, state="pending", evaluation=None, error="")


def _raise_if_all_fail(trials: Sequence[Trial]) -> None:
    """Stop after three failures in a row: they are not the fault of one network."""
    last = trials[-3:]
    if len(last) == 3 and all(trial.state == "failed" for trial in last):
        raise BuildError(f"three networks in a row could not be trained; the last: {last[-1].error}")
