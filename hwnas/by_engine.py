"""One network in every engine that works on a machine: the table that `hwnas benchmark` gives and keeps."""

from __future__ import annotations

from hwnas.records import Precision
from hwnas.results import Result

BENCHMARK = "benchmark.json"  # beside the network of a run, for its report


class EngineLine(Result):
    """One line of the table; `error` says why there is no engine, and the figures are None then. `form` is
    that of int8, empty for the runtime's usual one.
    """

    backend: str
    precision: Precision
    form: str = ""
    format: str
    bytes: int | None
    floor_ms: float | None
    se_ms: float | None
    median_ms: float | None
    p95_ms: float | None
    samples: int | None
    accuracy: float | None
    top1_agreement: float | None
    parity: dict[str, float] | None
    passed: bool | None
    error: str | None


class BenchmarkOutcome(Result):
    """A network in everything that works here.

    Attributes:
        network, device, device_arch, batch, threads: what was timed, where.
        images: how many were compared.
        accuracy: of the fp32 network on them; None without labels.
        max_loss: the accuracy that fewer bits may cost.
        engines: by runtime, format, precision and form of int8.
        fastest, fastest_within_loss: places in `engines`; None where none is.
        notes: what the reader should know.
    """

    network: str
    device: str
    device_arch: str
    batch: int
    threads: int
    images: int
    max_loss: float
    accuracy: float | None
    engines: tuple[EngineLine, ...]
    fastest: int | None
    fastest_within_loss: int | None
    notes: tuple[str, ...]
