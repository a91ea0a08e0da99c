"""Training the dense super-network: weights and architecture in alternating passes (DenseNAS).

An epoch from `arch_from` on is one pass of architecture steps over a fifth of the training images,
then one pass of weight steps over the rest, as published. The cost enters architecture steps only,
in one of two ways:

* ``paper``: CE + lambda * log_tau(E[cost]). tau only rescales lambda (log_tau c = ln c / ln tau), so
  the latency that comes out is found by trial; its users asked for a target instead.
* ``target`` (default): E[cost] is held between `floor` and 1 times the budget by an augmented
  Lagrangian for inequality constraints (Rockafellar 1973): multipliers rise while a bound is
  violated and fall back when it is not, so nothing is tuned by hand. The floor is what prevents
  the collapse to skips and smallest operators that users of the published search report: a
  network far below the budget violates it.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hwnas import schemas
from hwnas.cost.dense import Costs, price_choices
from hwnas.errors import InputError
from hwnas.nets.count import count_block
from hwnas.nets.densenas.graph import SKIP
from hwnas.protocols import Emit
from hwnas.train import augment
from hwnas.train.checkpoint import read_tensors, write_tensors
from hwnas.train.data import Dataset, normalise
from hwnas.train.densenas.evidence import SplitHalves
from hwnas.train.densenas.options import DenseOptions, Progress, Relaxed
from hwnas.train.densenas.supernet import Kept, Supernet
from hwnas.train.mapped import taken
from hwnas.train.options import Recipe

__all__ = ["DenseOptions", "Relaxed", "collapse", "train_dense"]


def train_dense(
    model: Supernet,
    dataset: Dataset,
    costs: Costs,
    budget: float,
    options: DenseOptions,
    *,
    checkpoint: Path | None = None,
    derive: Callable[[Relaxed], Mapping[str, Any]] | None = None,
    emit: Emit | None = None,
    stop: Callable[[], bool] | None = None,
) -> Relaxed:
    """Train weights and architecture; resumes from `checkpoint` at the last finished pass.

    Args:
        model: the super-network, changed in place.
        dataset: its training split is divided between weights and architecture; `val` is not used.
        costs: of every choice, in one unit.
        budget: in the same unit.
        options: see `DenseOptions`.
        checkpoint: safetensors file written after every pass.
        derive: called after each epoch; its fields (the derived network's cost, say) join the history.
        emit: receives "progress" and one "supernet" event an epoch.
        stop: asked after each epoch; the search ends there, with what it has, when it says so.

    Raises:
        InputError: the checkpoint is of another search, or the data has another number of classes.
    """
    if len(dataset.classes) != model.space.classes:
        raise InputError(
            f"{dataset.name} has {len(dataset.classes)} classes, the super-network {model.space.classes}"
        )
    return _Search(model, dataset, costs, budget, options, checkpoint, derive, emit, stop).run()


@dataclass(eq=False)
class _Search:
    model: Supernet
    dataset: Dataset
    costs: Costs
    budget: float
    options: DenseOptions
    checkpoint: Path | None
    derive: Callable[[Relaxed], Mapping[str, Any]] | None
    emit: Emit | None
    stop: Callable[[], bool] | None = None

    def __post_init__(self) -> None:
        o = self.options
        order = np.random.default_rng([o.seed, 0]).permutation(len(self.dataset.train))
        cut = max(1, round(o.arch_share * len(order)))
        self.arch_images, self.weight_images = order[:cut], order[cut:]
        self.per_pass = {"weights": len(self.weight_images), "architecture": len(self.arch_images)}
        if o.images is not None:
            asked = {"weights": o.images, "architecture": round(o.images * o.arch_share / (1 - o.arch_share))}
            self.per_pass = {kind: min(n, max(1, asked[kind])) for kind, n in self.per_pass.items()}
        self.macs = price_choices(self.model.space, lambda block: float(count_block(block).macs))
        self.augment = augment.chosen(Recipe(), self.dataset)
        self.weights = torch.optim.SGD(
            self.model.weight_parameters(), lr=o.lr, momentum=o.momentum, weight_decay=o.weight_decay
        )
        self.architecture = torch.optim.Adam(
            self.model.architecture_parameters(),
            lr=o.arch_lr,
            betas=(0.5, 0.999),
            weight_decay=o.arch_weight_decay,
        )
        self.progress = Progress()
        self.evidence = SplitHalves(self.model.architecture_parameters())
        # Every epoch has two passes; the architecture pass of a warm-up epoch is empty.
        self.passes = [(e, kind) for e in range(o.epochs) for kind in ("architecture", "weights")]
        self.identity = json.dumps(
            {
                "options": asdict(o),
                "space": model_key(self.model),
                "data": self.dataset.fingerprint,
                "budget": self.budget,
                "costs": asdict(self.costs),
            },
            sort_keys=True,
        )

    def run(self) -> Relaxed:
        if self.checkpoint is not None and self.checkpoint.exists():
            self._restore(*read_tensors(self.checkpoint, schemas.DENSE, self.identity, Progress))
        # Twice as fast on CPUs; bfloat16 is slower here, since depthwise convolutions lack kernels for it.
        self.model.to(memory_format=torch.channels_last)
        self.model.train()
        started, before_s = time.monotonic(), self.progress.seconds
        for epoch, kind in self.passes[self.progress.passes :]:
            # An architecture pass first (from `arch_from` on), then a weight pass, as published.
            if kind == "weights":
                loss = self._pass(epoch, "weights")
                self._end_epoch(epoch, loss)
            elif epoch >= self.options.arch_from:
                self._pass(epoch, "architecture")
            self.progress.passes += 1
            self.progress.seconds = before_s + time.monotonic() - started
            if self.checkpoint is not None:
                write_tensors(self.checkpoint, self._tensors(), schemas.DENSE, self.identity, self.progress)
            if kind == "weights" and self.stop is not None and self.stop():
                break
        return self._relaxed()

    def _pass(self, epoch: int, kind: str) -> float:
        """One look at images of a share, in a fresh order; the mean loss."""
        o = self.options
        own = kind == "weights"
        phase, step = (1, self._weight_step) if own else (2, self._architecture_step)
        images = self.weight_images if own else self.arch_images
        order = np.random.default_rng([o.seed, phase, epoch]).permutation(images)[: self.per_pass[kind]]
        steps = max(1, round(len(order) / o.batch))
        losses = []
        for n, part in enumerate(np.array_split(order, steps)):
            rng = np.random.default_rng([o.seed, 2 + phase, epoch, n])
            at = torch.from_numpy(part)
            train = self.dataset.train
            pixels = augment.crop_flip(*taken(train.pixels, at), self.augment, rng)
            batch = normalise(pixels, self.dataset.mean, self.dataset.std)
            batch = batch.to(memory_format=torch.channels_last)
            losses.append(step(epoch, n, batch, train.labels[at]))
            self.progress.images += len(part)
            if self.emit is not None:
                note = f"epoch {epoch + 1} of {o.epochs}, loss {losses[-1]:.3f}"
                self.emit("progress", {"task": "super-network", "done": n + 1, "total": steps, "note": note})
        return float(np.mean(losses))

    def _account(self, kept: Kept, images: int) -> None:
        """Count a step: every edge and stack is computed, with its kept operators."""
        chosen = sum(row[n] for row, rows in zip(self.macs.layers, kept, strict=True) for n in rows)
        self.progress.train_macs += 3.0 * images * (self.macs.fixed + chosen + sum(self.macs.sink))

    def _generator(self, phase: int, epoch: int, step: int) -> torch.Generator:
        seed = int(np.random.default_rng([self.options.seed, phase, epoch, step]).integers(2**62))
        return torch.Generator().manual_seed(seed)

    def _weight_step(self, epoch: int, step: int, images: Tensor, labels: Tensor) -> float:
        o = self.options
        kept = self.model.sample(1, self._generator(5, epoch, step), uniform=epoch < o.arch_from)
        steps = max(1, round(self.per_pass["weights"] / o.batch))
        for group in self.weights.param_groups:
            group["lr"] = o.lr * 0.5 * (1 + math.cos(math.pi * (epoch * steps + step) / (o.epochs * steps)))
        self._account(kept, len(labels))
        loss = F.cross_entropy(self.model(images, kept), labels)
        self.weights.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self.model.weight_parameters(), 5.0)
        self.weights.step()
        return float(loss.detach())

    def _architecture_step(self, epoch: int, step: int, images: Tensor, labels: Tensor) -> float:
        o = self.options
        kept = self.model.sample(2, self._generator(6, epoch, step), uniform=False)
        self._account(kept, len(labels))
        before = [a.detach().clone() for a in self.model.alpha]
        loss = F.cross_entropy(self.model(images, kept), labels)
        total = self._cost_term(self.model.expected_cost(self.costs, kept))
        ramp = (epoch - o.arch_from) / max(1, o.epochs - 1 - o.arch_from)
        if o.objective == "target":
            total = total + o.sharpen * ramp * self.model.entropy(kept)
        parameters = self.model.architecture_parameters()
        slopes = torch.autograd.grad(loss, parameters)
        self.evidence.add(epoch + step, slopes)
        held = torch.autograd.grad(total, parameters)
        for parameter, slope, other in zip(parameters, slopes, held, strict=True):
            parameter.grad = slope + other
        self.architecture.step()
        self.model.keep_mass(before, kept)
        return float(loss.detach())

    def _cost_term(self, cost: Tensor) -> Tensor:
        o = self.options
        if o.objective == "paper":
            return o.lam * torch.log(cost) / math.log(o.tau)
        # Multipliers follow the cost of the whole distribution; the gradient that of the kept operators.
        with torch.no_grad():
            share = float(self.model.expected_cost(self.costs)) / self.budget
        over, under = share - 1.0, o.floor - share
        self.progress.over = max(0.0, self.progress.over + 0.1 * o.rho * over)
        self.progress.under = max(0.0, self.progress.under + 0.1 * o.rho * under)
        slope = max(0.0, self.progress.over + o.rho * over) - max(0.0, self.progress.under + o.rho * under)
        return slope * cost / self.budget

    def _end_epoch(self, epoch: int, loss: float) -> None:
        relaxed = self._relaxed()
        with torch.no_grad():
            expected = float(self.model.expected_cost(self.costs))
            paths = [float(v) for v in self.model.path_probabilities()]
        row: dict[str, Any] = {
            "epoch": epoch + 1,
            "loss": loss,
            "expected_cost": expected,
            "budget": self.budget,
            "multipliers": [self.progress.over, self.progress.under],
            "path_probabilities": paths,
            "collapse": collapse(self.model),
            "trust": list(relaxed.trust),
            **(self.derive(relaxed) if self.derive else {}),
        }
        self.progress.history.append(row)
        if self.emit is not None:
            text = f"epoch {epoch + 1}: loss {loss:.3f}, expected cost {expected:.4g} of {self.budget:.4g}"
            self.emit("supernet", {**row, "text": text})

    def _relaxed(self) -> Relaxed:
        with torch.no_grad():
            edges = torch.log(self.model.path_probabilities().clamp_min(1e-30))
            layers = [torch.log_softmax(a, 0) for a in self.model.alpha]
        return Relaxed(
            edges=tuple(edges.tolist()),
            layers=tuple(tuple(row.tolist()) for row in layers),
            trust=self.evidence.trust(len(self.model.alpha)),
            history=tuple(self.progress.history),
            images=self.progress.images,
            train_macs=self.progress.train_macs,
            seconds=self.progress.seconds,
        )

    def _tensors(self) -> dict[str, Tensor]:
        found = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        for n, parameter in enumerate(self.model.weight_parameters()):
            if parameter in self.weights.state:
                found[f"momentum.{n}"] = self.weights.state[parameter]["momentum_buffer"]
        for n, parameter in enumerate(self.model.architecture_parameters()):
            for name, value in self.architecture.state.get(parameter, {}).items():
                found[f"adam.{n}.{name}"] = value
        return {**found, **self.evidence.tensors()}

    def _restore(self, tensors: Mapping[str, Tensor], progress: Progress) -> None:
        self.progress = progress
        model = {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
        self.model.load_state_dict(model)
        self.evidence.restore(tensors)
        for n, parameter in enumerate(self.model.weight_parameters()):
            if f"momentum.{n}" in tensors:
                self.weights.state[parameter]["momentum_buffer"] = tensors[f"momentum.{n}"].clone()
        for n, parameter in enumerate(self.model.architecture_parameters()):
            names = [k for k in tensors if k.startswith(f"adam.{n}.")]
            if names:
                self.architecture.state[parameter] = {k.split(".")[2]: tensors[k].clone() for k in names}


def model_key(model: Supernet) -> str:
    """What a super-network is of: its space and the names of its layers."""
    return f"{model.space.name}/{model.space.classes}/" + ",".join(p.name for p in model.places)


def collapse(model: Supernet) -> dict[str, float]:
    """Shares of stack layers whose most probable operator is skip, and of layers whose is the smallest.

    Both at 1 is the collapse that users of the published search report (its issues 18 and 19).
    """
    picks = [
        (place, place.operators[int(a.detach().argmax())]) for place, a in zip(model.places, model.alpha)
    ]
    stacks = [op == SKIP for place, op in picks if place.slot is not None]
    smallest = [op == SKIP or op == place.operators[0] for place, op in picks]
    return {
        "skip_share": sum(stacks) / len(stacks) if stacks else 0.0,
        "smallest_share": sum(smallest) / len(smallest),
    }
