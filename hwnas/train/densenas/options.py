"""How a dense super-network is searched, what the search carries along, and what it gives."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from hwnas.errors import InputError

Objective = Literal["target", "paper"]


@dataclass(frozen=True)
class DenseOptions:
    """How the super-network is searched.

    Attributes:
        epochs, arch_from: all epochs; the first `arch_from` train weights only, operators uniform.
        images: training images a pass of weight steps sees at most, others in every epoch (None: all
            of its share); an architecture pass sees as many less as its share is smaller.
        batch: images a step.
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

    epochs: int = 30
    arch_from: int = 10
    images: int | None = None
    batch: int = 128
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 4e-5
    arch_lr: float = 0.1
    arch_weight_decay: float = 1e-3
    arch_share: float = 0.2
    objective: Objective = "target"
    floor: float = 0.9
    rho: float = 5.0
    sharpen: float = 0.1
    lam: float = 0.15
    tau: float = 15.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.arch_from < self.epochs:
            raise InputError(f"arch_from {self.arch_from} must be at least 0 and below epochs {self.epochs}")
        if not 0 < self.arch_share < 1:
            raise InputError(f"arch_share {self.arch_share} must lie between 0 and 1")
        if not 0 <= self.floor < 1:
            raise InputError(f"floor {self.floor} must be at least 0 and below 1")
        if self.objective not in ("target", "paper"):
            raise InputError(f"objective {self.objective!r} is neither 'target' nor 'paper'")


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
