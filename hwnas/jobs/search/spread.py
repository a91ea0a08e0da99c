"""The trainings and measurements of a search on an executor; this process alone writes the run folder."""

from __future__ import annotations

import hashlib
import json
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from hwnas import seals
from hwnas.errors import DataFormatError, HwnasError
from hwnas.estimates import Budget
from hwnas.jobs.preparations.prepare import Facts, Prepared
from hwnas.jobs.search import tasks
from hwnas.jobs.search.tasks import Bench, Order
from hwnas.protocols import Emit, Executor, Move, Needs, Running
from hwnas.records import Evaluation, Measurement, Promise, Proposal, Setting
from hwnas.runs import read_manifest
from hwnas.search.workers import Begun
from hwnas.spec import NetworkSpec
from hwnas.store import write_bytes
from hwnas.train.evaluator import Evaluator


@dataclass(eq=False)
class _HandedOver:
    """A training that was handed over."""

    owner: Spread
    proposal: Proposal
    index: int
    running: Running | None
    outcome: Evaluation | HwnasError | None = None
    where: str = ""
    took_s: float = 0.0

    def done(self) -> bool:
        """See `Begun.done`."""
        return self.outcome is not None

    def result(self) -> Evaluation:
        """See `Begun.result`."""
        while self.outcome is None:
            self.owner.wait()
        if isinstance(self.outcome, HwnasError):
            raise self.outcome
        return self.outcome


@dataclass
class Spread:
    """Trains proposals on an executor; see `hwnas.search.workers.Workers`.

    A training that is done is in the run folder before anything else, whatever its turn in the log is, so
    that a search that is killed and repeated finds it there. A final training, beside which nothing
    runs, has every core where the executor is this machine's, and is one task of another one.
    """

    executor: Executor
    evaluator: Evaluator
    folder: Path
    growths: Callable[[Proposal], Sequence[Move]]
    needs: Needs
    in_waves: bool
    emit: Emit
    open: list[_HandedOver] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.run = run_key(self.folder)
        self._shared = self.executor.share(self.evaluator.portable())

    @property
    def jobs(self) -> int:
        """See `Workers.jobs`."""
        return self.executor.jobs

    def begin(self, proposal: Proposal, index: int) -> Begun:
        """See `Workers.begin`; what an earlier session trained is not trained again."""
        known = self.evaluator.finished(proposal, index)
        if known is not None:
            return _HandedOver(self, proposal, index, None, known, took_s=known.wall_s)
        if proposal.role == "final" and not self.executor.times_elsewhere:
            return self._here(proposal, index)
        names = [path for at in tasks.ancestors(proposal) for path in self.evaluator.files(at)]
        files = tuple((str(path.relative_to(self.folder)), path.read_bytes()) for path in names)
        order = Order(self.run, proposal, index, tuple(self.growths(proposal)), files)
        running = self.executor.submit(f"trial {index}", self.needs, tasks.train, self._shared, order)
        one = _HandedOver(self, proposal, index, running)
        self.open.append(one)
        return one

    def _here(self, proposal: Proposal, index: int) -> Begun:
        """A final training, beside which nothing runs, in this process."""
        one, start = _HandedOver(self, proposal, index, None), time.monotonic()
        try:
            one.outcome = self.evaluator(proposal, index)
        except HwnasError as exc:
            one.outcome = exc
        one.took_s = time.monotonic() - start
        return one

    def wait(self) -> None:
        """See `Workers.wait`."""
        self.executor.wait([one.running for one in self.open if one.running is not None])
        for one in [one for one in self.open if one.running is not None and one.running.done()]:
            self.open.remove(one)
            self._keep(one)

    def _keep(self, one: _HandedOver) -> None:
        assert one.running is not None
        try:
            for name, data in one.running.result():  # the evaluation last: it says that the weights are there
                write_bytes(self._place(name), data)
            one.outcome = self.evaluator.finished(one.proposal, one.index)
            if one.outcome is None:
                one.outcome = HwnasError(
                    f"trial {one.index} was trained at {one.running.where} in another precision than would "
                    "be used here; name one with --recipe precision=fp32"
                )
        except HwnasError as exc:
            one.outcome = exc
        one.where, one.took_s = one.running.where, one.running.took_s

    def _place(self, name: str) -> Path:
        """Where a file that came back belongs; it may not leave the run folder."""
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise DataFormatError(f"a training elsewhere gave a file {name!r}, which is outside its folder")
        return self.folder / name

    def abandon(self) -> int:
        """See `Workers.abandon`."""
        left = [one for one in self.open if one.running is not None and not one.running.done()]
        for one in left:
            assert one.running is not None
            one.running.cancel()
        for one in [one for one in self.open if one not in left]:  # done, and worth keeping
            self._keep(one)
        self.open.clear()
        return len(left)


@dataclass(frozen=True)
class Preparer:
    """Prepares a strategy as one task of an executor; see `hwnas.jobs.preparations.prepare.Make`.

    Its passes over the images depend on each other, so that they are one task, which may need a GPU that this
    machine has not.
    """

    executor: Executor
    needs: Needs

    def __call__(self, strategy: str, target: str, facts: Facts) -> Prepared | None:
        """What was prepared; what was told meanwhile is written into the run."""
        apart = {"run", "emit"}
        given = {one.name: getattr(facts, one.name) for one in fields(facts) if one.name not in apart}
        config = read_manifest(facts.run.path)["config"]
        run = run_key(facts.run.path, json.dumps(config, sort_keys=True))
        shared = self.executor.share(given)
        running = self.executor.submit(
            f"preparing {strategy}", self.needs, tasks.prepare, shared, strategy, target, run
        )
        prepared, events = running.result()
        quiet = replace(facts, emit=lambda kind, told: None)  # it was told already while it went on
        for event in events:
            kind, key = event.pop("event"), event.pop(tasks.KEY)
            own = {name: value for name, value in event.items() if name not in ("at", seals.LINE)}
            quiet.note(kind, own, key=key)
        found: Prepared | None = prepared
        return found


def run_key(folder: Path, more: str = "") -> str:
    """Of a run, so that two searches on one machine have scratch folders of their own."""
    return hashlib.sha256(f"{socket.gethostname()}:{folder.resolve()}{more}".encode()).hexdigest()[:12]


@dataclass
class Bencher:
    """Measures networks whole on the machine of an executor that has the device."""

    executor: Executor
    bench: Bench
    patience_s: float

    @property
    def needs(self) -> Needs:
        """The device, and nothing beside the measurement."""
        return Needs(device=self.bench.setting.device, timing=True)

    def conditions(self) -> Setting:
        """The setting there; DeviceUnavailable where no machine has the device."""
        setting: Setting = self.executor.submit(
            "conditions", self.needs, tasks.conditions, self.bench
        ).result()
        return setting

    def measure(self, spec: NetworkSpec) -> Measurement:
        """See `parts.NetworkBuilder.measure`."""
        name = f"measuring {spec.depths_text}"
        running = self.executor.submit(name, self.needs, tasks.measure, self.bench, self.patience_s, spec)
        measured, waited_s = running.result()
        self.patience_s -= waited_s
        found: Measurement = measured
        return found

    def confirm(self, spec: NetworkSpec, weights: Path | None, budget: Budget) -> tuple[Promise, Measurement]:
        """See `parts.NetworkBuilder.confirm`."""
        data = None if weights is None else weights.read_bytes()
        running = self.executor.submit(
            f"testing {spec.depths_text}",
            self.needs,
            tasks.confirm,
            self.bench,
            self.patience_s,
            spec,
            data,
            budget,
        )
        found, waited_s = running.result()
        self.patience_s -= waited_s
        promise, measured = found
        return promise, measured
