"""How much each stage, or each possible growth, matters to a trained network; with standard errors.

Three answers behind one door (`hwnas.protocols.Importance`):

- `vip.Vip`: the score of StageWise NAS (Jordao et al. 2020). How evenly the features of a stage matter
  for the classes; needs a second, deeper network to compare with. Trains nothing.
- `Gradient`: first-order drop of the loss if a growth were made and trained for one step.
- `Probe`: drop of the loss on held-out images after a short training of each growth, against the
  same training without growth.

`Gradient` and `Probe` speak for growths (a fraction of the present loss, one value for each stage
and kind); `Vip` for stages as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from hwnas.errors import InputError
from hwnas.nets.build import inherit
from hwnas.plugins import unknown
from hwnas.protocols import Importance, Move
from hwnas.records import StageImportance
from hwnas.search.vip import CHUNK, Vip
from hwnas.spec import NetworkSpec

if TYPE_CHECKING:
    Array = NDArray[np.float64]

Moves = Callable[[NetworkSpec], Sequence[Move]]
Autocast = Callable[[], AbstractContextManager[Any]]


def make(name: str, moves: Moves, **options: Any) -> Importance:
    """An importance by name.

    Args:
        name: ``vip``, ``gradient`` or ``probe``.
        moves: growths to judge, usually `SearchSpace.grow` without those over the budget.
        options: fields of the class.
    """
    makers: dict[str, Callable[[], Importance]] = {
        "vip": lambda: Vip(**options),
        "gradient": lambda: Gradient(moves, **options),
        "probe": lambda: Probe(moves, **options),
    }
    if name not in makers:
        raise InputError(unknown("importance", name, makers))
    return makers[name]()


@dataclass(frozen=True)
class Gradient:
    """First-order relative drop of the loss by gradient descent on what a growth adds.

    A growth keeps the function, so it shows only in its gradients: of all values that are new in
    the grown network (the last normalisation of an inserted block, say). The drop is
    rate * |E g|^2 / loss. |E g|^2 is estimated without bias from products of the gradients of
    different batches, since the square of one batch's gradient would count its noise as gain; the
    standard error is a jackknife over batches, which errs on the safe side where there is no gain.
    Inserted blocks do not touch each other as long as they are identities, so that all of them share
    one backward pass; other growths take one each.

    The gradient does not see that a block repeats what its neighbours can do already: it promises
    the tenth block of a stage as much as the second. Errors fall as powers of depth, so that each
    further block brings about 1 / depth of what the first one brought; `diminishing` counts it so
    (docs/search.md has the evidence).

    Attributes:
        moves: growths to judge.
        images: training images for all of them.
        batch: images in a gradient; fewer where there would be less than eight.
        rate: length of the step (one of rate 1, or ten of 0.1, as far as first order goes).
        diminishing: whether depth is taken to have falling returns.
        autocast: context of the forward pass, for half precision.
    """

    moves: Moves
    images: int = 2048
    batch: int = 64
    rate: float = 1.0
    diminishing: bool = True
    autocast: Autocast = nullcontext

    def __call__(
        self,
        module: nn.Module,
        spec: NetworkSpec,
        images: Tensor,
        labels: Tensor,
        rng: np.random.Generator,
    ) -> tuple[StageImportance, ...]:
        """One value a growth; see `hwnas.protocols.Importance`."""
        moves = self.moves(spec)
        deeper = [move for move in moves if move.kind == "deeper"]
        groups = [deeper] * bool(deeper) + [[move] for move in moves if move.kind != "deeper"]
        seed = int(rng.integers(2**31))
        found: dict[Move, StageImportance] = {}
        for group in groups:
            parts = _batches(len(images), self.images // len(groups), self.batch, rng)
            grown = inherit(module, spec, _all_of(spec, group), seed=seed).train()
            pairs = [self._gradients(grown, module, group, images[at], labels[at]) for at in parts]
            scale = self.rate / max(float(np.mean([loss for _, loss in pairs])), 1e-9)
            for n, move in enumerate(group):
                gain, se = _squared_mean(np.stack([gradients[n] for gradients, _ in pairs]))
                share = scale * (_returns(spec, move) if self.diminishing else 1.0)
                spent = sum(map(len, parts)) if n == 0 else 0  # a pass is paid for once
                found[move] = _said(move, gain * share, se * share, spent)
        return tuple(found[move] for move in moves)

    def _gradients(
        self, grown: nn.Module, before: nn.Module, group: Sequence[Move], x: Tensor, y: Tensor
    ) -> tuple[list[Array], float]:
        """Gradient of the mean loss by all values that each growth adds, and the loss."""
        grown.zero_grad(set_to_none=True)
        with self.autocast():
            scores = grown(x)
        loss = F.cross_entropy(scores.float(), y)
        loss.backward()  # type: ignore[no-untyped-call]
        old = dict(before.named_parameters())
        added: list[list[Tensor]] = [[] for _ in group]
        for name, parameter in grown.named_parameters():
            if parameter.grad is None:
                continue
            # Of several growths, each is the only one in its stage.
            place = next((n for n, m in enumerate(group) if name.startswith(f"stages.{m.stage}.")), 0)
            added[place].append(_added(parameter.grad, old.get(name)))
        return [torch.cat(parts).double().cpu().numpy() for parts in added], float(loss.detach())


def _all_of(spec: NetworkSpec, group: Sequence[Move]) -> NetworkSpec:
    """The network with every growth of a group: a single one, or blocks added to different stages."""
    if len(group) == 1:
        return group[0].spec
    for move in group:
        spec = spec.replace_stage(move.stage, move.spec.stages[move.stage])
    return spec


def _returns(spec: NetworkSpec, move: Move) -> float:
    """What blocks added to a stage bring, as a part of what as many second blocks would: log2 of the
    factor by which depth grows, for each block. 1 for a second block; other growths are not scaled.
    """
    if move.kind != "deeper":
        return 1.0
    return float(np.log2(len(move.spec.stages[move.stage]) / len(spec.stages[move.stage])) / move.steps)


def _said(move: Move, value: float, se: float, images: int) -> StageImportance:
    return StageImportance(
        stage=move.stage, kind=move.kind, steps=move.steps, value=value, se=se, images=images
    )


def _added(grad: Tensor, old: Tensor | None) -> Tensor:
    """The part of a gradient that belongs to values which the smaller network does not have."""
    if old is None:
        return grad.flatten()
    new = torch.ones_like(grad, dtype=torch.bool)
    # A larger kernel holds the old one in its middle, more channels hold the old ones in front.
    place = [
        slice((now - was) // 2, (now - was) // 2 + was) if axis >= 2 else slice(0, was)
        for axis, (now, was) in enumerate(zip(grad.shape, old.shape, strict=True))
    ]
    new[tuple(place)] = False
    return grad[new]


def _squared_mean(samples: Array) -> tuple[float, float]:
    """Unbiased estimate of |E g|^2 from samples (n, d) of g, with its jackknife standard error."""

    def estimate(rows: Array) -> float:
        n, total = len(rows), rows.sum(axis=0)
        return float((total @ total - (rows * rows).sum()) / (n * (n - 1)))

    n = len(samples)
    if n < 3:
        raise InputError(f"a gradient importance needs at least 3 batches, not {n}")
    left_out = np.array([estimate(np.delete(samples, i, axis=0)) for i in range(n)])
    return estimate(samples), float(np.sqrt((n - 1) / n * ((left_out - left_out.mean()) ** 2).sum()))


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
        moves: growths to judge.
        images: training images for all trainings together.
        batch: images in a step; fewer where there would be less than eight steps.
        rate: learning rate (SGD with Nesterov momentum 0.9), falling to zero along a cosine.
        repeats: at least 2.
        autocast: context of the forward pass in training, for half precision.
    """

    moves: Moves
    images: int = 8192
    batch: int = 64
    rate: float = 0.1
    repeats: int = 2
    autocast: Autocast = nullcontext

    def __post_init__(self) -> None:
        if self.repeats < 2:
            raise InputError(f"a probe needs at least 2 repeats to know its error, not {self.repeats}")

    def __call__(
        self,
        module: nn.Module,
        spec: NetworkSpec,
        images: Tensor,
        labels: Tensor,
        rng: np.random.Generator,
    ) -> tuple[StageImportance, ...]:
        """One value a growth; see `hwnas.protocols.Importance`."""
        moves = self.moves(spec)
        if not moves:
            return ()
        order = torch.from_numpy(rng.permutation(len(images)))
        held, usable = order[: len(order) // 2], order[len(order) // 2 :]
        each = self.images // ((len(moves) + 1) * self.repeats)
        drops, spent = [], 0
        for _ in range(self.repeats):
            parts = [usable[part] for part in _batches(len(usable), each, self.batch, rng)]
            seed = int(rng.integers(2**31))
            ends = []
            for to in (spec, *(move.spec for move in moves)):
                grown = inherit(module, spec, to, seed=seed)
                self._train(grown, images, labels, parts)
                ends.append(_losses(grown, images[held], labels[held]))
            drops.append(torch.stack([(ends[0] - end) / ends[0].mean() for end in ends[1:]]))
            spent += sum(map(len, parts))
        mean, se = _mean_and_error(torch.stack(drops).cpu().numpy())
        return tuple(
            # The comparison is paid for once.
            _said(move, float(mean[n]), float(se[n]), spent * (2 if n == 0 else 1))
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
            F.cross_entropy(scores.float(), labels[part]).backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(net.parameters(), 5.0)
            optimiser.step()
            schedule.step()


def _mean_and_error(drops: Array) -> tuple[Array, Array]:
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


def _batches(n: int, total: int, batch: int, rng: np.random.Generator) -> list[Tensor]:
    """Index batches over n images, about `total` in all; each image once before any comes again.

    At least eight batches, of at least eight images (batch norm needs a few).
    """
    batch = max(min(batch, total // 8), 8)
    number = max(total // batch, 8)
    order = np.concatenate([rng.permutation(n) for _ in range(-(-number * batch // n))])
    return list(torch.split(torch.from_numpy(order[: number * batch]), batch))
