"""The options of `hwnas train`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from hwnas.errors import InputError
from hwnas.plugins import unknown


@dataclass(frozen=True)
class TrainOptions:
    """What to train, on what, for how long.

    Attributes:
        network: a run, a ``network.json`` or a shipped example's name. Its number of classes is set
            to the data's; images are resized to its input.
        data: see `hwnas.train.data.load`; None takes the run's, and a run's weights go on with the images
            and the splits that they were trained on alone: else validation images would have been trained on.
        epochs: how often every training image is seen; may be a fraction.
        out: run folder; None takes the next free one. The same one again resumes.
        init: a run, or a file of weights, of the same network trained on other data: training begins with all
            of its weights but the classifier's, which is new. Splits are the data's own.
        start: ``weights`` continues from the run's weights, where it has any; ``scratch`` does not.
        distill: run with weights to learn from as well (its network and its weights).
        ema: keep a moving average of the weights, with a decay of 0.999 a step.
        seed: of first weights, order, augmentation and the validation split; None takes the run's, else 0.
        limit: use at most so many images for training and validation; None takes the run's.
        strict: refuse data of which an image cannot be used, instead of leaving it out.
        recipe: fields of `hwnas.train.options.Recipe` that differ from its defaults.
        jobs: processes of this machine that share every step (`hwnas.train.ranks`); under torchrun they are
            those that it has started, here and on other machines.
        dry_run: say what would be trained, touch nothing.
    """

    network: str
    data: str | None = None
    epochs: float = 20.0
    out: Path | None = None
    init: str | None = None
    start: Literal["weights", "scratch"] = "weights"
    distill: str | None = None
    ema: bool = False
    seed: int | None = None
    limit: int | None = None
    strict: bool = False
    recipe: Mapping[str, Any] = field(default_factory=dict)
    jobs: int = 1
    dry_run: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.epochs < float("inf"):
            raise InputError(f"epochs {self.epochs} must be greater than zero")
        if self.start not in ("weights", "scratch"):
            raise InputError(unknown("start", self.start, ("weights", "scratch")))
        if self.init is not None and self.start == "scratch":
            raise InputError("--init gives the first weights and --scratch asks for new ones; leave one out")
