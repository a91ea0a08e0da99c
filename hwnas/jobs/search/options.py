"""The options of `hwnas search`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hwnas import budgets, executors
from hwnas.errors import InputError
from hwnas.jobs.conditions import TableAndLimits
from hwnas.jobs.search import plan
from hwnas.measure.patience import PATIENCE_S
from hwnas.pixel_scales import PixelScaleName
from hwnas.search.strategy import find

# Where the user names no strategy.
STRATEGY = "auto"
# What that is in the space of all families.
FAMILIES = "families"


@dataclass(frozen=True)
class SearchOptions(TableAndLimits):
    """What to search for, where, with what effort; images are resized to `input_shape`.

    Attributes:
        latency_budget: ``0.6ms``, ``18ms@p95``, a list, or ``1.15x:resnet20`` (`hwnas.budgets`).
        data: see `hwnas.train.data.load`; None takes the built-in digits, as large as the images of the
            newest table, else as those that the device is usually asked for.
        strategy: name of a plug-in; None goes on with that of the run in `out`, and begins with "auto".
        space: name of a plug-in; None takes that of the newest table of such images, else the one that
            suits their size. In "auto" all families of networks compete.
        model: a model of the user's own in the place of a space (`hwnas.nets.model.sources.load`); the
            strategy is then ``fit``, and in a budget the word ``model`` stands for it.
        weights: of that model.
        normalise: the scale of pixels that the model was trained on (`hwnas.train.normalisation`).
        trainer: ``package.module:function``, a loop of the user's own that fine-tunes (`hwnas.train.own`).
        repeats: how often in a row a piece of it may stand, where the budget allows more than the model.
        backend: "auto" or a list, too; where a table is measured first, the fastest of them is taken.
        preset: "quick", "default" or "thorough".
        images: training images of the search and the final training together; None by the preset.
        importance: of the stage-wise search: "probe", "gradient" or "vip".
        fidelity: "paper" for the published form of a strategy.
        settings: further options of the strategy.
        recipe: fields of `hwnas.train.options.Recipe` that differ from its defaults.
        init: a run, or a file of weights, that was trained on other data: networks without a parent begin
            with what they can take over of it (`hwnas.nets.transfer`); the classifier is new unless the
            classes are the same. Splits are the data's own.
        distill: with several budgets, let the largest network, trained out, teach the smaller ones.
        measure: measure each candidate whole before it is trained, besides the winner.
        max_trials: networks looked at, refused ones included.
        max_time_s: stop cleanly with the best so far.
        patience_s: seconds that may be waited in all while the machine is slower than it was seen to be.
        limit: use at most so many images for training and validation.
        strict: refuse data of which an image cannot be used, instead of leaving it out.
        seed: of everything random.
        out: run folder; None takes the next free one. The same one again resumes.
        profile: where no table fits, measure one first; False refuses to.
        executor: what runs the trainings (`hwnas.executors`): "local", "ray", "ray://ADDRESS".
        jobs: how many of them at once, where the strategy allows it.
        dry_run: say what would be done, touch nothing.
        further: more devices, each with its own budget: the search is then for one network that keeps all
            budgets, and for one for each device, from one path of growth (`hwnas.cost.several`).
    """

    latency_budget: str
    data: str | None = None
    strategy: str | None = None
    space: str | None = None
    model: str | None = None
    weights: Path | None = None
    trainer: str | None = None
    normalise: PixelScaleName = "auto"
    repeats: int = 2
    preset: str = "default"
    images: int | None = None
    importance: str | None = None
    fidelity: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    init: str | None = None
    distill: bool = False
    measure: bool = True
    max_trials: int = 200
    max_time_s: float | None = None
    patience_s: float = PATIENCE_S
    limit: int | None = None
    strict: bool = False
    seed: int = 0
    out: Path | None = None
    profile: bool = True
    executor: str = "local"
    jobs: int = 1
    dry_run: bool = False
    further: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        budgets.parse(self.latency_budget)
        if self.further:
            self._check_devices()
        plan.preset(self.preset)
        if self.strategy is not None:
            find(self.strategy)
        if self.model is not None and (
            self.space not in (None, self.model) or self.strategy not in (None, "auto", "fit")
        ):
            raise InputError(
                "--model stands in the place of --space, and only the strategy fit searches it; leave the "
                "other out"
            )
        if self.model is not None and self.init is not None:
            raise InputError("--model brings weights of its own (--weights names others); leave --init out")
        alone = self.weights is not None or self.trainer is not None or self.strategy == "fit"
        alone = alone or self.normalise != "auto"
        if self.model is None and alone:
            raise InputError(
                "--weights, --trainer, --normalise and the strategy fit need a model: --model "
                "torchvision:resnet18"
            )
        executors.parse(self.executor)
        if not 1 <= self.jobs <= executors.MOST_JOBS:
            raise InputError(f"jobs is {self.jobs}; expected a number from 1 to {executors.MOST_JOBS}")
        if self.images is not None and self.images < 1:
            raise InputError(f"images is {self.images}; a search needs at least one")
        if self.max_trials < 1:
            raise InputError(f"max_trials is {self.max_trials}; a search needs at least one")

    def _check_devices(self) -> None:
        """InputError unless each of several devices has one budget."""
        texts = [self.latency_budget, *(text for _, text in self.further)]
        parts = [budgets.parse(text) for text in texts]
        if any(len(part) > 1 for part in parts):
            raise InputError(
                "a search for several devices takes one budget for each; write --latency-budget once a device"
            )
        if len({part[0].percentile for part in parts}) > 1:
            raise InputError("the budgets of several devices must be of the same percentile")
        if self.device is None:
            raise InputError("name every device of a search for several: --device NAME")
        if self.table is not None or self.distill or self.model is not None:
            raise InputError(
                "a search for several devices takes the newest table of each and one space, so --table, "
                "--model and --distill are left out"
            )
