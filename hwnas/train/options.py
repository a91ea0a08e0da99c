"""The options of a training, and what it gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hwnas.errors import InputError
from hwnas.plugins import unknown
from hwnas.train.augment import AugmentOptions

Device = Literal["auto", "cpu", "cuda"]
Mode = Literal["auto", "fp32", "bf16", "fp16"]
Schedule = Literal["onecycle", "cosine"]

_CHOICES = {
    "device": ("auto", "cpu", "cuda"),
    "precision": ("auto", "fp32", "bf16", "fp16"),
    "schedule": ("onecycle", "cosine"),
}
# Name, smallest value, largest value, whether the bounds themselves are allowed.
_RANGES = (
    ("images", 1, float("inf"), True),
    ("batch", 2, float("inf"), True),
    ("lr", 0, float("inf"), False),
    ("inherited_lr", 0, 1, True),
    ("momentum", 0, 1, True),
    ("weight_decay", 0, 1, True),
    ("label_smoothing", 0, 1, True),
    ("warmup", 0, 1, True),
    ("final_lr", 0, 1, True),
    ("clip", 0, float("inf"), False),
    ("ema", 0, 1, True),
    ("distill", 0, 1, True),
    ("temperature", 0, float("inf"), False),
    ("checkpoint_s", 0, float("inf"), True),
)


@dataclass(frozen=True)
class Recipe:
    """How a network is trained: one recipe for every network, so that they compare.

    The defaults were checked on CIFAR-10 with 50,000 images seen and on ``digits`` with 1,500 to
    10,000; docs/evidence/training.md has the figures.

    Attributes:
        images: length, in training images seen (an epoch counts every image once).
        batch: images a step; fewer where the data set is smaller. None takes the power of two from 8
            to 128 that gives at least 150 steps: a short training needs steps more than large ones.
        lr: peak learning rate of SGD with Nesterov momentum at 128 images a step; elsewhere it goes
            with the square root of the batch, as the noise of the gradient does.
        inherited_lr: factor on `lr` for a network that starts from its parent's weights.
        schedule: ``onecycle`` rises from a tenth of `lr` to `lr` and falls again; ``cosine`` falls only.
        warmup: share of the steps in which ``onecycle`` rises.
        final_lr: the last learning rate, as a fraction of `lr`.
        momentum, weight_decay, label_smoothing: as usual; batch norm and biases do not decay.
        clip: largest norm of the gradient.
        ema: decay a step of the weights' moving average, which is what is kept; 0 is without.
        distill: weight of the teacher's loss where there is a teacher (Hinton et al. 2015).
        temperature: of the teacher's and the student's softmax in that loss.
        augment: None chooses by the data set (`augment.default`).
        device: ``auto`` takes the GPU where torch sees one.
        precision: of the forward and backward pass; ``auto`` decides by the processor.
        threads: of torch; None takes torch's own number (every core, unless OMP_NUM_THREADS says
            otherwise), or what a container is limited to. Where other programs keep the cores busy,
            one thread is faster than several that wait for each other.
        seed: decides the order of the images and their augmentation, together with the step alone.
        checkpoint_s: least time between two checkpoints, in seconds.
    """

    images: int = 100_000
    batch: int | None = None
    lr: float = 0.5
    inherited_lr: float = 1.0
    schedule: Schedule = "onecycle"
    warmup: float = 0.2
    final_lr: float = 0.0
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.1
    clip: float = 5.0
    ema: float = 0.0
    distill: float = 0.5
    temperature: float = 4.0
    augment: AugmentOptions | None = None
    device: Device = "auto"
    precision: Mode = "auto"
    # One: with two, torch 2.15 was seen to corrupt the heap (docs/evidence/training.md), and beside other
    # work two threads that wait for each other are ten times slower.
    threads: int | None = 1
    seed: int = 0
    checkpoint_s: float = 20.0

    def __post_init__(self) -> None:
        for name, low, high, closed in _RANGES:
            value = getattr(self, name)
            if value is None:
                continue
            if not (low <= value <= high if closed else low < value < high):
                shown = f"{low} to {high}" if high != float("inf") else f"at least {low}"
                raise InputError(
                    f"training option {name} is {value}; expected "
                    + (shown if closed else f"more than {low}" + f" and less than {high}" * (high == 1))
                )
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                raise InputError(unknown(f"training option {name}", getattr(self, name), known))
        if self.threads is not None and self.threads < 1:
            raise InputError(f"training option threads is {self.threads}; expected at least 1")


@dataclass(frozen=True)
class Score:
    """How well a network does on a split.

    `accuracy` is a fraction; `se` its binomial standard error, from (correct + 1/2) / (images + 1),
    so that a perfect score is not taken for a certain one; `loss` the mean cross-entropy.
    """

    accuracy: float
    se: float
    loss: float
    images: int


@dataclass(frozen=True)
class TrainResult:
    """What a training gave, and under which conditions.

    Attributes:
        accuracy, se, loss: on the validation split (see `Score`), in float32.
        images: training images seen.
        wall_s: time of the training, resumed parts added, without the last validation.
        train_macs: multiply-accumulates spent: images times (three forward passes of the network,
            since a backward pass costs two, and one of the teacher).
        images_per_s: speed of the training.
        train_loss: mean loss over the last steps, augmentation and smoothing included.
        batch, lr: images a step, and the peak learning rate at that.
        precision, device, threads: how it was computed.
        restored: how often the NaN guard went back to the last good state.
    """

    accuracy: float
    se: float
    loss: float
    images: int
    wall_s: float
    train_macs: float
    images_per_s: float
    train_loss: float
    batch: int
    lr: float
    precision: str
    device: str
    threads: int
    restored: int
