"""How a dense super-network is searched, what the search carries along, and what it gives."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from hwnas.errors import InputError
from hwnas.options import Checked, option

Objective = Literal["target", "paper"]


@dataclass(frozen=True)
class DenseOptions(Checked):
    """How the super-network is searched.

    Attributes:
        epochs, arch_from: all epochs; the first `arch_from` train weights only, operators uniform.
        images: training images a pass of weight steps sees at most, others in every epoch (None: all
            of its share); an architecture pass sees as many less as its share is smaller.
        batch: images per step.
        lr, momentum, weight_decay: SGD on the weights, cosine over all weight steps.
        arch_lr, arch_weight_decay: Adam on alpha and beta (betas 0.5, 0.999, as published).
        arch_share: share of the training images kept for architecture steps.
        objective: ``target`` or ``paper``.
        floor: ``target``: lower bound of the expected cost, as a share of the budget.
        rho: ``target``: weight of the quadratic term.
        sharpen: weight of the entropy of choices at the end; it rises from 0 over the
            architecture epochs, so that the distribution decides and its expected cost becomes the
            cost of the network that is derived (the gap that DenseNAS's users report).
        lam, tau: ``paper``: weight and base of the logarithm.
        seed: of everything random.
    """

    epochs: int = option(30, "Number of epochs.", low=1, high=100_000)
    arch_from: int = option(10, "Epochs at the start that train weights only.", low=0)
    images: int | None = option(None, "Maximum of training images per pass; null is no maximum.", low=1)
    batch: int = option(128, "Batch size.", low=1, high=65_536)
    lr: float = option(0.1, "Learning rate of the weights.", above=0)
    momentum: float = option(0.9, "Momentum of SGD.", low=0, high=1)
    weight_decay: float = option(4e-5, "Weight decay.", low=0, high=1)
    arch_lr: float = option(0.1, "Learning rate of the architecture parameters.", above=0)
    arch_weight_decay: float = option(1e-3, "Weight decay of the architecture parameters.", low=0, high=1)
    arch_share: float = option(0.2, "Fraction of the images used for architecture steps.", above=0, below=1)
    objective: Objective = option("target", "Loss function.")
    floor: float = option(0.9, "Lower bound of the expected cost, as a share of the budget.", low=0, below=1)
    rho: float = option(5.0, "Weight of the quadratic term.", low=0)
    sharpen: float = option(0.1, "Weight of the entropy of choices at the end.", low=0)
    lam: float = option(0.15, "Weight of the cost in the published loss.", low=0)
    tau: float = option(15.0, "Base of the logarithm in the published loss.", above=1)
    seed: int = option(0, "Seed of every random choice.", low=0, high=2**63 - 1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.arch_from < self.epochs:
            raise InputError(f"arch_from {self.arch_from} must be at least 0 and below epochs {self.epochs}")


@dataclass
class Progress:
    """What a search carries along besides tensors; `passes` counts finished passes."""

    passes: int = 0
    over: float = 0.0  # multiplier of cost <= budget
    under: float = 0.0  # multiplier of cost >= floor * budget
    images: int = 0
    train_macs: float = 0.0
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Relaxed:
    """What a search found: log-probabilities of edges and operators, and its history by epoch.

    `trust` is how far two halves of the architecture steps agree on edges and on operators, 0 to 1
    (`hwnas.train.densenas.evidence`).
    `train_macs` counts three forward passes of the kept operators an image; `seconds` is the wall time
    of all sessions, and does not count when two of these are compared.
    """

    edges: tuple[float, ...]
    layers: tuple[tuple[float, ...], ...]
    history: tuple[dict[str, Any], ...]
    images: int
    trust: tuple[float, float]
    train_macs: float = 0.0
    seconds: float = field(default=0.0, compare=False)
