"""What `hwnas search` gives."""

from __future__ import annotations

from hwnas.by_class import ByClass
from hwnas.records import Promise
from hwnas.results import Result


class Latency(Result):
    """What a winner takes as a whole, in milliseconds a call."""

    median_ms: float
    p95_ms: float


class Winner(Result):
    """The network that won for a budget: validation accuracy, prediction with its interval, measurement."""

    network: str
    depths: tuple[int, ...]
    accuracy: float
    predicted_ms: float
    low_ms: float
    high_ms: float
    measured: Latency
    macs: int
    params: int


class OnDevice(Result):
    """What a winner takes on one of several devices.

    Attributes:
        device, conditions, table: which, and its latency table.
        budget, within_budget: what is allowed there, and whether it is kept.
        predicted_ms, low_ms, high_ms, measured: latency in milliseconds a call.
    """

    device: str
    conditions: str
    table: str
    budget: str
    predicted_ms: float
    low_ms: float
    high_ms: float
    measured: Latency
    within_budget: bool


class TargetOutcome(Result):
    """The winner for one of several budgets, or of several devices; figures by split, "val" and "test"."""

    budget: str
    best: Winner
    within_budget: bool
    devices: tuple[OnDevice, ...]
    accuracy: dict[str, float]
    accuracy_se: dict[str, float]
    balanced_accuracy: dict[str, float]
    by_class: dict[str, ByClass]


class Seconds(Result):
    """Where the time of a search went."""

    training: float
    measuring: float
    total: float


class SearchOutcome(Result):
    """A finished search.

    Attributes:
        run, table: the run folder and the latency table.
        best: the winner, of the largest budget where there are several; of several devices that which keeps
            all budgets, with its times on the first.
        within_budget, promise: whether its measured promise is kept, and the test.
        budget, conditions, strategy: what was asked for, in words.
        trials, trained, images, train_macs: how much was tried.
        seconds: where the time went.
        stopped: why it ended.
        pareto: indices of the trials that no other beats in both accuracy and latency.
        accuracy, accuracy_se, balanced_accuracy: of the winner by split, "val" and "test".
        by_class: figures of every class, by split.
        classes, mean, std: names of the classes, normalisation of images in [0, 1].
        targets: the winners for several budgets; of several devices that of each, and that of all.
        devices: of a search for several, what the winner takes on each.
        began_from: the weights that networks began with, in words; None where they were new.
    """

    run: str
    table: str
    best: Winner
    within_budget: bool
    promise: Promise
    budget: str
    conditions: str
    strategy: str
    trials: int
    trained: int
    images: int
    train_macs: float
    seconds: Seconds
    stopped: str
    pareto: tuple[int, ...]
    accuracy: dict[str, float]
    accuracy_se: dict[str, float]
    balanced_accuracy: dict[str, float]
    by_class: dict[str, ByClass]
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    data_notes: tuple[str, ...]
    targets: tuple[TargetOutcome, ...] = ()
    devices: tuple[OnDevice, ...] = ()
    began_from: str | None = None
