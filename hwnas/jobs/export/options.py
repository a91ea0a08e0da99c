"""What to export, and for what."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hwnas.backends import formats
from hwnas.deploy.engine import refuse_batches
from hwnas.errors import InputError
from hwnas.jobs.conditions import Conditions
from hwnas.jobs.export.remedy import MAX_LOSS
from hwnas.measure.patience import PATIENCE_S
from hwnas.records import Compatible


@dataclass(frozen=True)
class ExportOptions(Conditions):
    """What to export, for what; conditions that are left open are the run's.

    Attributes:
        run: run, target of a run, or network file; None takes the newest search or training.
        format: name of an export format.
        weights: file of weights, for a network file.
        out: folder of the engine; None takes the network's own.
        data: real images for the check of the outputs; None takes what the run was trained on.
        latency_budget: None takes the run's.
        dynamic_batch: the file takes any number of images at once, where its format can.
        images: how many validation images are compared.
        max_loss: share of the images that int8 may get wrong beyond the network before it is fine-tuned or
            some of its blocks stay in float.
        batches, compatible, dla: see `hwnas.records.BuildChoices`.
        verify: whether outputs and latency are checked at all.
        max_time_s: for the test of the budget, which is ambiguous when undecided by then.
        patience_s: seconds that may be waited in all while the machine is slower than it was seen to be.
        sustained_s: seconds for which the device is kept busy before the engine is timed.
    """

    run: str | None = None
    format: str = formats.PORTABLE
    weights: Path | None = None
    out: Path | None = None
    data: str | None = None
    latency_budget: str | None = None
    dynamic_batch: bool = False
    images: int = 512
    max_loss: float = MAX_LOSS
    batches: tuple[int, ...] = ()
    compatible: tuple[Compatible, ...] = ()
    dla: int | None = None
    verify: bool = True
    max_time_s: float | None = None
    patience_s: float = PATIENCE_S
    sustained_s: float = 0.0

    def __post_init__(self) -> None:
        refuse_batches(formats.get(self.format), dynamic=self.dynamic_batch, several=bool(self.batches))
        if self.images < 1:
            raise InputError(f"images {self.images} must be at least 1")
