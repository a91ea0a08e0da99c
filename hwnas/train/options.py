"""The options of a training, and what it gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hwnas.options import Checked, option

TrainDevice = Literal["auto", "cpu", "cuda"]
Mode = Literal["auto", "fp32", "bf16", "fp16"]
ClassWeights = Literal["equal", "balanced"]
Schedule = Literal["onecycle", "cosine", "linear"]
Optimizer = Literal["muon", "sgd"]


@dataclass(frozen=True)
class Recipe(Checked):
    """How a network is trained: one recipe for every network, so that they compare.

    The defaults were checked on CIFAR-10 with 50,000 images seen and on ``digits`` with 1,500 to
    10,000; docs/evidence/training.md has the figures.

    Attributes:
        images: length, in training images seen (an epoch counts every image once).
        batch: images per step; fewer where the data set is smaller. None takes the power of two from 8
            to 128 that gives at least 150 steps: a short training needs steps more than large ones.
        lr: peak learning rate of SGD with Nesterov momentum at 128 images per step; elsewhere it goes
            with the square root of the batch, as the noise of the gradient does.
        optimizer: ``muon`` makes the steps of filters orthogonal (`train.muon`); ``sgd`` is Nesterov's alone.
        turn: with ``muon``, the length of a filter's step as a part of the filter's, at `lr` 1.
        inherited_lr: factor on `lr` for a network that starts from its parent's weights.
        schedule: ``onecycle`` rises from a tenth of `lr` to `lr` and falls again; ``cosine`` falls only,
            and ``linear`` rises like the first and falls in a straight line.
        warmup: share of the steps in which ``onecycle`` and ``linear`` rise.
        final_lr: the last learning rate, as a fraction of `lr`.
        momentum, weight_decay, label_smoothing: as usual; batch norm and biases do not decay.
        clip: largest norm of the gradient.
        ema: decay a step of the weights' moving average, which is what is kept; 0 is without.
        distill: weight of the teacher's loss where there is a teacher (Hinton et al. 2015).
        temperature: of the teacher's and the student's softmax in that loss.
        class_weights: ``balanced`` weighs an image by the inverse of the size of its class, so that every
            class counts the same in the loss; the mean weight of a training image is 1.
        repeats: times that an image stands in a batch, each time augmented in another way (Hoffer et al.
            2020); an epoch then sees a part of the images. For data sets of very few images.
        flip, shift, cutout, mixup: see `augment.AugmentOptions`; None chooses by the data set.
        device: ``auto`` takes the GPU where torch sees one.
        precision: of the forward and backward pass; ``auto`` decides by the processor.
        threads: of torch; None takes torch's own number (every core, unless OMP_NUM_THREADS says
            otherwise), or what a container is limited to, shared out among the processes that train at the
            same time on this machine. The last bits of a result depend on it.
        seed: decides the order of the images and their augmentation, together with the step alone.
        checkpoint_s: least time between two checkpoints, in seconds.
    """

    WHAT = "training option"

    images: int = option(100_000, "Training images in all; an epoch is all images once.", low=1)
    batch: int | None = option(
        None,
        "Batch size; by default a power of two from 8 to 128 that leaves enough steps.",
        low=2,
        high=65_536,
    )
    optimizer: Optimizer = option("muon", "muon: orthogonal steps for filters; sgd: Nesterov momentum alone.")
    turn: float = option(0.1, "muon: a filter's step as a part of its length, times lr.", above=0, high=10)
    lr: float = option(0.5, "Peak learning rate at 128 images a step.", above=0)
    inherited_lr: float = option(
        1.0, "Factor on lr for a network that starts from trained weights.", low=0, high=1
    )
    schedule: Schedule = option("linear", "Learning rate schedule.")
    warmup: float = option(
        0.2, "onecycle, linear: fraction of the steps in which the learning rate rises.", low=0, high=1
    )
    final_lr: float = option(0.0, "Final learning rate, as a fraction of lr.", low=0, high=1)
    momentum: float = option(0.9, "Nesterov momentum.", low=0, high=1)
    weight_decay: float = option(5e-4, "Weight decay; not applied to batch norm and biases.", low=0, high=1)
    label_smoothing: float = option(
        0.1, "Label smoothing: part of the label that is spread over all classes.", low=0, high=1
    )
    clip: float = option(5.0, "Gradient clipping: largest norm of the gradient.", above=0)
    ema: float = option(
        0.0, "Moving average of the weights (EMA): decay per step; 0 turns it off.", low=0, high=1
    )
    distill: float = option(0.5, "Distillation: weight of the teacher's loss.", low=0, high=1)
    temperature: float = option(4.0, "Distillation: temperature.", above=0)
    class_weights: ClassWeights = option(
        "equal", "balanced: a class of few images counts as much in the loss as one of many."
    )
    repeats: int = option(
        1, "Times that an image stands in a batch, each time augmented in another way.", low=1, high=64
    )
    flip: bool | None = option(
        None, "Mirror half of the images left to right; null: if the data set allows it."
    )
    shift: int | None = option(
        None, "Random shift: largest distance in pixels; null is a sixteenth of the side.", low=0
    )
    cutout: int = option(
        0, "Cutout: side in pixels of a square set to the mean colour; 0 turns it off.", low=0
    )
    mixup: float = option(0.0, "Mixup: alpha; 0 turns it off.", low=0, high=100)
    device: TrainDevice = option("auto", "Device to train on.")
    precision: Mode = option("auto", "Precision of the forward and backward pass.")
    threads: int | None = option(None, "Threads of torch; null takes every core.", low=1, high=1_024)
    seed: int = option(0, "Seed of the order of images and of augmentation.", low=0, high=2**63 - 1)
    checkpoint_s: float = option(20.0, "Smallest time between two checkpoints, in seconds.", low=0)


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
        batch, lr: images per step, and the peak learning rate at that.
        precision, device, threads: how it was computed.
        restored: how often the NaN guard went back to the last good state.
        curve: the course of the training, at most `loop.CURVE_POINTS` rows: ``images`` seen, running mean
            of the ``loss``, ``lr``, and validation ``accuracy`` in the last one, and on the way where it was
            watched.
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
    curve: tuple[dict[str, float], ...] = ()
