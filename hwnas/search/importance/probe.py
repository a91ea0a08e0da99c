"""Importance by probe: what a short training of each growth brings."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hwnas.arrays import Float64s
from hwnas.errors import InputError
from hwnas.nets.build import inherit
from hwnas.protocols import Autocast, Question
from hwnas.records import StageImportance
from hwnas.search.importance.gradient import batches, said
from hwnas.search.importance.vip import CHUNK


@dataclass(frozen=True)
class Probe:
    """Relative drop of the loss on held-out images after a short training of each growth.

    Each growth and, for comparison, the network as it is are trained on the same batches in the
    same order; single held-out images are compared, where most of the noise is shared. That leaves
    the chance of the training itself: two trainings of one network end in different losses. So all
    is done `repeats` times with other batches and other new weights, and the variance between
    repeats, pooled over the growths, is part of the standard error. Half of the images given are
    held out.

    Attributes:
        images: training images for all trainings together.
        batch: images in a step; fewer where there would be less than eight steps.
        rate: learning rate (SGD with Nesterov momentum 0.9), falling to zero along a cosine.
        repeats: at least 2.
        autocast: context of the forward pass in training, for half precision.
    """

    images: int = 8192
    batch: int = 64
    rate: float = 0.1
    repeats: int = 2
    autocast: Autocast = nullcontext

    def __post_init__(self) -> None:
        if self.repeats < 2:
            raise InputError(f"a probe needs at least 2 repeats to estimate its error, not {self.repeats}")

    def __call__(self, question: Question) -> tuple[StageImportance, ...]:
        """One value per growth; see `hwnas.protocols.Importance`."""
        moves, images, labels, rng = question.moves, question.images, question.labels, question.rng
        if not moves:
            return ()
        order = torch.from_numpy(rng.permutation(len(images)))
        held, usable = order[: len(order) // 2], order[len(order) // 2 :]
        each = self.images // ((len(moves) + 1) * self.repeats)
        drops, spent = [], 0
        for _ in range(self.repeats):
            parts = [usable[part] for part in batches(len(usable), each, self.batch, rng)]
            seed = int(rng.integers(2**31))
            ends = []
            # Train the network as it is, then each growth, on the same batches.
            for to in (question.spec, *(move.spec for move in moves)):
                grown = inherit(question.module, question.spec, to, seed=seed)
                self._train(grown, images, labels, parts)
                ends.append(_losses(grown, images[held], labels[held]))
            drops.append(torch.stack([(ends[0] - end) / ends[0].mean() for end in ends[1:]]))
            spent += sum(map(len, parts))
        mean, se = _mean_and_error(torch.stack(drops).cpu().numpy())
        return tuple(
            # The comparison is paid for once.
            said(move, float(mean[n]), float(se[n]), spent * (2 if n == 0 else 1))
            for n, move in enumerate(moves)
        )

    def _train(self, net: nn.Module, images: Tensor, labels: Tensor, parts: Sequence[Tensor]) -> None:
        net.train()
        optimiser = torch.optim.SGD(net.parameters(), lr=self.rate, momentum=0.9, nesterov=True)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, len(parts))
        for part in parts:
            optimiser.zero_grad()
            with self.autocast():
                scores = net(images[part])
            torch.autograd.backward(F.cross_entropy(scores.float(), labels[part]))
            nn.utils.clip_grad_norm_(net.parameters(), 5.0)
            optimiser.step()
            schedule.step()


def _mean_and_error(drops: Float64s) -> tuple[Float64s, Float64s]:
    """Mean drop of each growth and its standard error, from (repeats, growths, held-out images).

    The variance between repeats (of the means over images) holds both the chance of the training
    and a part of that of the images; it is pooled over the growths, as a few repeats of one would
    tell little. The images are the same in every repeat, so their own part comes on top.
    """
    repeats, _, held = drops.shape
    means = drops.mean(axis=2)
    between = float(means.var(axis=0, ddof=1).mean())
    images = drops.mean(axis=0).var(axis=1, ddof=1) / held
    return means.mean(axis=0), np.sqrt(between / repeats + images)


def _losses(net: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy of each image, in eval mode, as float64."""
    net.eval()
    with torch.no_grad():
        parts = zip(torch.split(images, CHUNK), torch.split(labels, CHUNK), strict=True)
        return torch.cat([F.cross_entropy(net(x).double(), y, reduction="none") for x, y in parts])
