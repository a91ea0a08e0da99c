"""The options of `hwnas profile`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hwnas.measure.patience import PATIENCE_S


@dataclass(frozen=True)
class ProfileOptions:
    """What to profile and how thoroughly.

    Attributes:
        device, backend, precision, batch, threads: the conditions; backend None takes the device's, batch
            None one image, or as many as the device is usually asked for where it decides the space, too.
            Where backend or precision is "auto" or a list separated by commas, a few of its networks are
            timed in all of them and the fastest that keeps the scores is profiled.
        space, input_shape, classes: what is swept; None takes what the device is usually asked for
            (`measure.device.usual`), else all families of networks for small images, `mbv2-imagenet` for
            large ones; and the size and classes that the space was made for.
        model, weights: a model of the user's own in the place of a space, whose pieces are swept.
        preset: "quick", "default" or "thorough".
        out: table file; None takes a new one in the user's data folder, or goes on with an
            unfinished one of the same conditions.
        only_missing: add what an existing table lacks (`out`, or the newest of these conditions).
        near_ms: latency that networks are to be near: of the space of all families, only widths that can
            matter there are measured (`near`); None measures for every latency.
        holdout: networks that are measured twice and never fitted; None takes the preset's number.
        estimate: plan from the device's description instead of measuring.
        max_time_s: stop cleanly after this long; the table is then unfinished and can be resumed.
        patience_s: seconds that may be waited in all while the machine is slower than it was seen to be.
        sustained_s: seconds for which the device is kept busy before the first measurement.
        dla: core of a Jetson's deep-learning accelerator (`hwnas.records.BuildChoices`).
        seed: draws networks and the order of measuring.
        dry_run: say what would be measured, touch nothing.
    """

    device: str = "auto"
    space: str | None = None
    model: str | None = None
    weights: Path | None = None
    backend: str | None = None
    precision: str = "fp32"
    batch: int | None = None
    threads: int = 1
    input_shape: tuple[int, int, int] | None = None
    classes: int | None = None
    preset: str = "default"
    out: Path | None = None
    only_missing: bool = False
    near_ms: float | None = None
    holdout: int | None = None
    estimate: bool = False
    max_time_s: float | None = None
    patience_s: float = PATIENCE_S
    sustained_s: float = 0.0
    dla: int | None = None
    seed: int = 0
    dry_run: bool = False
