"""Importance by gradient: the first-order gain of a growth that is about to be made."""

from __future__ import annotations

import math
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
from hwnas.nets.conv import ChannelScale
from hwnas.protocols import Autocast, Move, Question
from hwnas.records import StageImportance
from hwnas.search.importance import packing
from hwnas.search.moves import first_order, returns
from hwnas.spec import NetworkSpec


@dataclass(frozen=True)
class Gradient:
    """First-order relative drop of the loss by gradient descent on what a growth adds.

    A growth keeps the function, so it shows only in its gradients: of all weights (of convolutions
    and linear layers) that are new in the grown network. An inserted block is opened for that
    (`_open`): training starts it behind a normalisation of scale zero, whose few values would be all
    that has a gradient; here its last convolution is zero and has one, so that it counts what the
    block can come to add (as GradMax, Evci et al. 2022, arXiv 2201.05125, does). Gradients are in
    units of the deviation that weights begin with, (2 / fan in)^0.5 (He et al. 2015), so that a step
    changes all layers as much in proportion.

    The drop is rate * |E g|^2 / loss. |E g|^2 is estimated without bias from products of the
    gradients of different batches, since the square of one batch's gradient would count its noise
    as gain; the standard error is a jackknife over batches, which errs on the safe side where there
    is no gain.
    Growths that keep the function do not touch each other, so that all of them share one backward pass
    (`packing`).

    The gradient does not see that a block repeats what its neighbours can do already: it promises
    the tenth block of a stage as much as the second. Errors fall as powers of depth, so that each
    further block brings about 1 / depth of what the first one brought, and the same for width;
    `diminishing` counts it so (`moves.returns`; docs/evidence/search.md has the evidence).

    Attributes:
        images: training images for all of them.
        batch: images in a gradient; fewer where there would be less than eight.
        rate: length of the step (one of rate 100, or a thousand of 0.1, as far as first order goes). It is
            the same for all growths, so it decides nothing.
        diminishing: whether depth and width are taken to have falling returns.
        autocast: context of the forward pass, for half precision.
    """

    images: int = 2048
    batch: int = 64
    rate: float = 100.0
    diminishing: bool = True
    autocast: Autocast = nullcontext

    def __call__(self, question: Question) -> tuple[StageImportance, ...]:
        """One value per growth; see `hwnas.protocols.Importance`."""
        module, spec, images, labels, rng = (
            question.module,
            question.spec,
            question.images,
            question.labels,
            question.rng,
        )
        groups, old = packing.groups(spec, question.moves), packing.shapes(spec)
        seed = int(rng.integers(2**31))
        found: dict[Move, StageImportance] = {}
        for group, whole in groups:
            parts = batches(len(images), self.images // len(groups), self.batch, rng)
            # Step 1: one network with all growths of the group, which do not affect each other.
            grown = _open(inherit(module, spec, whole, seed=seed).train(), module)
            single = [packing.shapes(move.spec) for move in group]
            packing.isolate(grown, old, single)
            # Step 2: gradients of what each growth adds, batch by batch.
            pairs = [self._gradients(grown, old, single, images[at], labels[at]) for at in parts]
            scale = self.rate / max(float(np.mean([loss for _, loss in pairs])), 1e-9)
            # Step 3: gain = rate * |E g|^2 / loss, times the falling returns of depth and width.
            for n, move in enumerate(group):
                gain, se = _squared_mean(np.stack([gradients[n] for gradients, _ in pairs]))
                share = scale * (_share(spec, move) if self.diminishing else 1.0)
                spent = sum(map(len, parts)) if n == 0 else 0  # a pass is paid for once
                found[move] = said(move, gain * share, se * share, spent)
        return tuple(found[move] for move in question.moves)

    def _gradients(
        self, grown: nn.Module, old: packing.Shapes, single: Sequence[packing.Shapes], x: Tensor, y: Tensor
    ) -> tuple[list[Float64s], float]:
        """Gradient of the mean loss by all values that each growth adds, and the loss.

        `old` are the shapes before, `single` those of the network with each growth alone.
        """
        grown.zero_grad(set_to_none=True)
        with self.autocast():
            scores = grown(x)
        loss = F.cross_entropy(scores.float(), y)
        torch.autograd.backward(loss)
        found = []
        for shapes in single:
            parts = []
            for name, parameter in grown.named_parameters():
                new = shapes.get(name)
                if new is None or len(new) < 2 or new == old.get(name) or parameter.grad is None:
                    continue
                scale = (2.0 / math.prod(new[1:])) ** 0.5
                parts.append(scale * packing.added(parameter.grad, old.get(name), new))
            found.append(torch.cat(parts).double().cpu().numpy())
        return found, float(loss.detach())


def _open(grown: nn.Module, before: nn.Module) -> nn.Module:
    """Inserted blocks behind a scale of zero, with a last convolution of zero in its place.

    The function is the same identity.
    """
    known = {name for name, _ in before.named_modules()}
    for name, norm in list(grown.named_modules()):
        if name in known or not isinstance(norm, nn.BatchNorm2d | ChannelScale) or norm.weight.any():
            continue
        place, _, last = name.rpartition(".")
        block = grown.get_submodule(place)
        for value in block.get_submodule(last.removesuffix("_norm").removesuffix("_scale")).parameters():
            nn.init.zeros_(value)
        block.add_module(last, nn.Identity())
    return grown


def _share(spec: NetworkSpec, move: Move) -> float:
    """What a growth brings, as a part of what first order says: depth and width have falling returns."""
    growth = (spec, move.spec, move.stage, move.kind, move.steps)
    return returns(*growth) / first_order(*growth)


def _squared_mean(samples: Float64s) -> tuple[float, float]:
    """Unbiased estimate of |E g|^2 from samples (n, d) of g, with its jackknife standard error."""

    def estimate(rows: Float64s) -> float:
        n, total = len(rows), rows.sum(axis=0)
        return float((total @ total - (rows * rows).sum()) / (n * (n - 1)))

    n = len(samples)
    if n < 3:
        raise InputError(f"a gradient importance needs at least 3 batches, not {n}")
    left_out = np.array([estimate(np.delete(samples, i, axis=0)) for i in range(n)])
    return estimate(samples), float(np.sqrt((n - 1) / n * ((left_out - left_out.mean()) ** 2).sum()))


def said(move: Move, value: float, se: float, images: int) -> StageImportance:
    """The importance of a move."""
    return StageImportance(
        stage=move.stage, kind=move.kind, steps=move.steps, value=value, se=se, images=images
    )


def batches(n: int, total: int, batch: int, rng: np.random.Generator) -> list[Tensor]:
    """Index batches over n images, about `total` in all; each image once before any comes again.

    At least eight batches, of at least eight images (batch norm needs a few).
    """
    batch = max(min(batch, total // 8), 8)
    number = max(total // batch, 8)
    order = np.concatenate([rng.permutation(n) for _ in range(-(-number * batch // n))])
    return list(torch.split(torch.from_numpy(order[: number * batch]), batch))
