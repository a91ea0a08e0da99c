"""Where the proposals of a search are trained: in this process, or by whatever else is `Workers`."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from typing import Protocol

from hwnas.protocols import Evaluate
from hwnas.records import Evaluation, Proposal


class Begun(Protocol):
    """A training that was begun, here or elsewhere.

    Attributes:
        where: the place that it ran at, in words; empty for this process.
        took_s: seconds that it took there.
    """

    where: str
    took_s: float

    def done(self) -> bool:
        """Whether `result` would answer at once."""
        ...

    def result(self) -> Evaluation:
        """What it gave; waits for it, and raises what it raised."""
        ...


class Workers(Protocol):
    """What trains.

    Attributes:
        jobs: how many trainings may run at once.
        in_waves: whether candidates are measured on processors that also train: then some are measured, and
            after that trained at once, as a measurement waits until nothing is trained.
    """

    @property
    def jobs(self) -> int: ...  # noqa: D102

    @property
    def in_waves(self) -> bool: ...  # noqa: D102

    def begin(self, proposal: Proposal, index: int) -> Begun:
        """Begin to evaluate the proposal that will be trial `index`."""
        ...

    def wait(self) -> None:
        """Return once another of those that were begun is done."""
        ...

    def abandon(self) -> int:
        """Stop what is not done; how many trainings those were."""
        ...


@dataclass
class _InTurn:
    """A training of `InProcess`."""

    evaluate: Evaluate
    proposal: Proposal
    index: int
    where: str = ""
    took_s: float = 0.0
    outcome: Evaluation | Exception | None = None

    def run(self) -> None:
        start = time.monotonic()
        try:
            self.outcome = self.evaluate(self.proposal, self.index)
        except Exception as exc:  # raised where the result is asked for
            self.outcome = exc
        self.took_s = time.monotonic() - start

    def done(self) -> bool:
        """See `Begun.done`."""
        return self.outcome is not None

    def result(self) -> Evaluation:
        """See `Begun.result`."""
        if self.outcome is None:
            self.run()
        if isinstance(self.outcome, Exception):
            raise self.outcome
        assert self.outcome is not None
        return self.outcome


@dataclass(frozen=True)
class InProcess:
    """One training after the other, in this process; each runs when it is waited for."""

    evaluate: Evaluate
    jobs: int = 1
    in_waves: bool = False
    begun: deque[_InTurn] = field(default_factory=deque)

    def begin(self, proposal: Proposal, index: int) -> Begun:
        """See `Workers.begin`."""
        self.begun.append(_InTurn(self.evaluate, proposal, index))
        return self.begun[-1]

    def wait(self) -> None:
        """See `Workers.wait`."""
        while self.begun:
            one = self.begun.popleft()
            if not one.done():
                one.run()
                return

    def abandon(self) -> int:
        """Nothing runs beside this."""
        return 0
