"""The records that travel between rooms. Frozen; the unit is in the field's name."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union

from pydantic import (
    Field,
    field_validator,
    model_validator,
)

from hwnas.budgets import Percentile
from hwnas.estimates import Budget, Estimate
from hwnas.record import OfDevices, Provenance, Record
from hwnas.traced import AnyNetwork

Precision = Literal["fp32", "fp16", "bf16", "int8"]


# Where an engine is to serve besides the machine that built it: under later versions of its runtime, on every
# GPU from Ampere on, on every GPU of the same compute capability.
Compatible = Literal["version", "ampere", "capability"]


@dataclass(frozen=True)
class BuildChoices:
    """What a user may ask of an engine beyond precision and batch; only some runtimes have it.

    Attributes:
        batches: ascending batch sizes that the engine is at its best for; the last is the largest it takes.
        compatible: where else the engine is to serve.
        dla: core of a Jetson's deep-learning accelerator that runs the network in the GPU's place.
    """

    batches: tuple[int, ...] = ()
    compatible: tuple[Compatible, ...] = ()
    dla: int | None = None

    def __bool__(self) -> bool:
        return self != BuildChoices()


class Setting(Record):
    """The conditions that a latency is true for.

    `device_arch` is the CPU model or the GPU's compute capability; `affinity` the cores that the
    threads were bound to; `spin` whether idle threads of the runtime spin; `provenance` how the
    numbers came about, never mixed in one table. `batches`, `compatible` and `dla` are what was asked of
    the engine besides (`BuildChoices`). `form` is which of the runtime's int8 graphs it is
    (`hwnas.protocols.Int8Form`), empty for the usual one: the same network takes another time in each.
    """

    device: str
    device_arch: str = ""
    backend: str
    backend_version: str = ""
    driver: str = ""
    precision: Precision = "fp32"
    form: str = ""
    batch: int = Field(default=1, gt=0, le=10**6)
    threads: int = Field(default=1, gt=0, le=10**5)
    affinity: tuple[int, ...] | None = None
    spin: bool | None = None
    clocks_mhz: float | None = None
    power_limit_w: float | None = None
    provenance: Provenance = "measured"
    batches: tuple[int, ...] = ()
    compatible: tuple[Compatible, ...] = ()
    dla: int | None = Field(default=None, ge=0, lt=64)

    @field_validator("device", "device_arch", "backend", "backend_version", "driver", "form")
    @classmethod
    def _one_line(cls, value: str) -> str:
        if not value.isprintable():  # it is printed on terminals, and may come from a foreign file
            raise ValueError(f"{value!r} holds characters that cannot be printed")
        return value

    @model_validator(mode="after")
    def _ascending(self) -> Setting:
        sizes = self.batches
        if sizes and (sizes[0] < 1 or list(sizes) != sorted(set(sizes)) or self.batch not in sizes):
            raise ValueError(f"batches {sizes}: expected ascending numbers from 1, {self.batch} among them")
        return self

    @property
    def choices(self) -> BuildChoices:
        """What was asked of the engine besides."""
        return BuildChoices(self.batches, self.compatible, self.dla)

    def describe(self) -> str:
        """One line for display: device, runtime and version, precision, batch, threads."""
        version = f" {self.backend_version}" if self.backend_version else ""
        precision = f"{self.precision} ({self.form})" if self.form else self.precision
        text = f"{self.device}, {self.backend}{version}, {precision}, batch {self.batch}"
        if self.device == "cpu":
            text += f", {self.threads} thread{'s' * (self.threads > 1)}"
        text += f", DLA core {self.dla}" if self.dla is not None else ""
        text += f", sizes {'/'.join(map(str, self.batches))}" if self.batches else ""
        text += f", for other machines ({', '.join(self.compatible)})" if self.compatible else ""
        return text if self.provenance == "measured" else f"{text}, {self.provenance}"


# Times beyond these are no times of a call: a femtosecond, and eleven days.
LEAST_MS, MOST_MS = 1e-12, 1e9


def checked_stamp(value: str) -> str:
    """A time stamp as it is; ValueError where it is none in ISO 8601 with its zone."""
    if datetime.datetime.fromisoformat(value).tzinfo is None:
        raise ValueError(f"the time {value!r} has no time zone; write for example 2026-01-02T03:04:05+00:00")
    return value


class Measurement(OfDevices):
    """What timing a whole graph gave, in milliseconds per call (a call is one batch).

    `floor_ms` is the statistic that tables and cost models use: the floor over interleaved
    sessions, which holds under load. `median_ms` to `p99_ms` are percentiles of single calls
    over the accepted sessions, for budgets on percentiles. `session_ms` holds each accepted
    session's own median. `gates` names the checks that fired and could not be cured. `sentinel_ms` is
    the floor of the sentinel in the state of the machine that `floor_ms` is referred to; None where
    nothing was referred (`hwnas.measure.timing`). On a device of its own, `host_ms` is what a program waits
    for one call and `enqueue_ms` what the host needs to start it (`protocols.CallTimes`). Of several devices
    the figures are those of the first, and `by_device` has each.
    """

    floor_ms: float = Field(gt=0, le=MOST_MS)
    median_ms: float = Field(gt=0, le=MOST_MS)
    p10_ms: float = Field(gt=0, le=MOST_MS)
    p90_ms: float = Field(gt=0, le=MOST_MS)
    p95_ms: float = Field(gt=0, le=MOST_MS)
    p99_ms: float = Field(gt=0, le=MOST_MS)
    se_ms: float = Field(default=0.0, ge=0, le=MOST_MS)
    session_ms: tuple[Annotated[float, Field(gt=0, le=MOST_MS)], ...] = ()
    samples: int = Field(gt=0, le=10**12)
    wall_cpu_ratio: float | None = None
    gates: tuple[str, ...] = ()
    sentinel_ms: float | None = Field(default=None, gt=0, le=MOST_MS)
    host_ms: float | None = Field(default=None, gt=0, le=MOST_MS)
    enqueue_ms: float | None = Field(default=None, gt=0, le=MOST_MS)
    taken_at: str = Field(default_factory=lambda: now_utc())
    by_device: dict[str, Measurement] = Field(default_factory=dict)

    @field_validator("taken_at")
    @classmethod
    def _stamp(cls, value: str) -> str:
        return checked_stamp(value)

    def at(self, percentile: Percentile) -> float:
        """Latency at a percentile of single calls."""
        return {"p50": self.median_ms, "p90": self.p90_ms, "p95": self.p95_ms, "p99": self.p99_ms}[percentile]


class StageImportance(Record):
    """Importance of one stage with its standard error, in the unit of the importance that gave it.

    `kind` is the kind of growth that it speaks for (`protocols.Move.kind`), `steps` how many steps of
    it; `images` how many training images finding it cost, for the accounts.
    """

    stage: int
    value: float
    se: float = 0.0
    kind: str = "deeper"
    steps: int = 1
    images: int = 0


# What a proposal is for: a network that may win, an instrument that may not (it is never kept, so
# a budget does not bind it), or the last training of a winner.
TrialRole = Literal["candidate", "probe", "final"]
Notes = dict[str, Union[int, float, str]]  # noqa: UP007  # a target of ssh may have Python 3.9


class Asked(Record):
    """What a proposal and its trial have in common: the network, and how it is trained.

    Attributes:
        spec: the network.
        parent: index of the trial whose weights are inherited; None trains from scratch.
        inherited_lr: learning rate of a network that continues from another, as a part of the recipe's;
            None leaves it to the recipe.
        frozen_norms: whether batch norm keeps the statistics that it came with.
        teacher: index of a trial whose network teaches this one; None where the labels alone do.
        reason: why this network, in words, for the log and the report.
        role: what it is for.
        winner: of a final training, the index of the trial that won; else None.
        cut: whether a final training got fewer images than were left, as time was short; a repeated
            search then goes on with it.
        notes: the strategy's own memory, which nothing else reads.
    """

    spec: AnyNetwork
    parent: int | None = None
    inherited_lr: float | None = Field(default=None, gt=0)
    frozen_norms: bool = False
    teacher: int | None = None
    reason: str = ""
    role: TrialRole = "candidate"
    winner: int | None = None
    cut: bool = False
    notes: Notes = Field(default_factory=dict)

    @model_validator(mode="after")
    def _final(self) -> Asked:
        if (self.role == "final") != (self.winner is not None):
            raise ValueError("a final training, and nothing else, names the trial that won")
        return self


class Proposal(Asked):
    """What a strategy asks to be evaluated next: `images` to train with, None for the run's default."""

    images: int | None = None


class Evaluation(Record):
    """What training a proposal gave. Accuracies are fractions on the validation split."""

    accuracy: float = Field(ge=0, le=1)
    accuracy_se: float = Field(default=0.0, ge=0)
    loss: float
    images: int = 0
    train_macs: float = 0.0
    wall_s: float = 0.0
    importance: tuple[StageImportance, ...] = ()
    weights: str | None = None  # file name inside the run folder
    weights_sha256: str | None = None  # of that file

    @field_validator("weights")
    @classmethod
    def _inside(cls, value: str | None) -> str | None:
        # A run may come from someone else, and this name is read from and copied.
        if value is not None and (
            value.startswith(("/", "\\")) or ".." in value.replace("\\", "/").split("/")
        ):
            raise ValueError("weights must be a file inside the run folder")
        return value


class Trial(Asked):
    """One network of a search, whatever became of it.

    `predicted` is the estimate from before this network was measured, where it was measured for
    this trial; `estimate` knows that measurement already. "pending" is a trial whose result a strategy must
    not look at (`Strategy.sees`); no file holds such a one.
    """

    index: int
    estimate: Estimate
    state: Literal["done", "over_budget", "failed", "pending"]
    evaluation: Evaluation | None = None
    measured: Measurement | None = None
    predicted: Estimate | None = None
    error: str = ""

    @property
    def outcome(self) -> Evaluation:
        """What its training gave; only a trained trial has one."""
        assert self.evaluation is not None, f"trial {self.index} was not trained"
        return self.evaluation


def trained(trials: Iterable[Trial]) -> list[Trial]:
    """The trials that were trained, instruments included."""
    return [trial for trial in trials if trial.evaluation is not None]


class Check(Record):
    """One thing that a verification looked at."""

    name: str
    passed: bool
    detail: str


class Promise(OfDevices):
    """Verdict of the measured budget test (order statistic over independent sessions).

    `confidence` is the probability that a network whose true session median is over the budget
    would have failed the test. `undecided` says why a verdict is ambiguous: "border" (sessions fall on
    both sides of the budget), "calls" (too few single calls within it), "disturbed" (over it, but on a
    disturbed machine) or "time" (the time was over). Of several devices it is the worst verdict, and
    `by_device` has each.
    """

    verdict: Literal["kept", "broken", "ambiguous"]
    undecided: Literal["border", "calls", "disturbed", "time"] | None = None
    budget_ms: float
    percentile: Percentile
    session_ms: tuple[float, ...]
    misses: int
    confidence: float
    note: str = ""
    by_device: dict[str, Promise] = Field(default_factory=dict)

    @property
    def may_be_kept(self) -> bool:
        """Whether the test was ambiguous for the machine's sake, so that another time may decide it."""
        return self.verdict == "ambiguous" and self.undecided in ("disturbed", "time")

    def is_about(self, budget: Budget) -> bool:
        """Whether it was tested against this budget."""
        limits = {name: one.budget_ms for name, one in self.by_device.items()}
        same = limits == budget.by_device_ms and (limits or self.budget_ms == budget.latency_ms)
        return bool(same) and self.percentile == budget.percentile


class Target(Record):
    """The winner for one of several budgets: trial index, whole measurement, kept promise."""

    budget: Budget
    best: int
    measured: Measurement
    promise: Promise


class SearchedDevice(Record):
    """One of several devices that a search is for: conditions, table, allowed latency."""

    setting: Setting
    table_id: str
    budget_ms: float


class SearchResult(Record):
    """What a search returns: every trial, the winner, the front, the conditions.

    `budget`, `best`, `measured` and `promise` are those of the largest budget, or of all devices together;
    `targets` holds every budget of a search for several, `devices` every device. `stopped` says in words why
    the search ended.
    """

    strategy: str
    space: str
    seed: int
    budget: Budget
    setting: Setting
    table_id: str
    trials: tuple[Trial, ...]
    best: int
    pareto: tuple[int, ...]
    measured: Measurement
    promise: Promise
    seconds: dict[str, float]
    version: str
    targets: tuple[Target, ...] = ()
    devices: tuple[SearchedDevice, ...] = ()
    stopped: str = ""

    @model_validator(mode="after")
    def _known_trials(self) -> SearchResult:
        named = (self.best, *self.pareto, *(target.best for target in self.targets))
        unknown = [index for index in named if not 0 <= index < len(self.trials)]
        if unknown:
            raise ValueError(f"trial {unknown[0]} is named, but there are {len(self.trials)} trials")
        return self


class Report(Record):
    """Whether an engine does what its network promises; `passed` is the conjunction of all checks."""

    network: str
    setting: Setting
    max_abs_err: float
    cosine_min: float
    top1_agreement: float
    top1_reference: float | None = None
    top1_engine: float | None = None
    predicted_ms: float | None = None
    measured: Measurement | None = None
    budget: Budget | None = None
    promise: Promise | None = None
    checks: tuple[Check, ...] = ()

    @property
    def passed(self) -> bool:
        """True when every check passed; a report without checks proves nothing and is False."""
        return bool(self.checks) and all(check.passed for check in self.checks)


def now_utc() -> str:
    """The present time in UTC, ISO 8601 with seconds."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def to_json(record: Record) -> dict[str, Any]:
    """A record as plain JSON types."""
    return record.model_dump(mode="json")
