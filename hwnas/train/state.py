"""Everything that a training changes as it runs: to go back to, and to resume from.

There is no generator to save: the order of the images and their augmentation follow from (seed,
step), so that weights, momentum and a few numbers are the whole state.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from hwnas.train.muon import Muon, filters
from hwnas.train.options import Recipe


@dataclass
class Counters:
    """Numbers that travel with the tensors.

    `rate` is the guard's factor on the learning rate, `restored` how often it went back, `loss` the
    running mean of the loss and `first_loss` that of the first steps; `halved` is how often the first steps
    were tested and begun again with half the rate, `repeated` how many steps that took;
    `wall_s` adds up over resumes; `curve` holds the rows of `TrainResult.curve` so far.
    """

    step: int = 0
    rate: float = 1.0
    restored: int = 0
    loss: float | None = None
    first_loss: float | None = None
    wall_s: float = 0.0
    halved: int = 0
    repeated: int = 0
    curve: list[dict[str, float]] = field(default_factory=list)


@dataclass
class State:
    """A network in training with its optimiser and the average of its weights."""

    module: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    average: dict[str, Tensor]
    counters: Counters = field(default_factory=Counters)

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor by name: ``model.*``, ``momentum.*``, ``average.*``, ``scale``. Not copied."""
        found = {f"model.{name}": value for name, value in self.module.state_dict().items()}
        for name, parameter in self.module.named_parameters():
            buffer = self.optimizer.state.get(parameter, {}).get("momentum_buffer")
            if buffer is not None:
                found[f"momentum.{name}"] = buffer
        found |= {f"average.{name}": value for name, value in self.average.items()}
        if self.scaler.is_enabled():
            scale = self.scaler.state_dict()
            found["scale"] = torch.tensor([scale["scale"], scale["_growth_tracker"]], dtype=torch.float64)
        return found

    def finite(self) -> bool:
        """Whether every number is one; a step may spoil the weights after a loss that was fine."""
        totals = [v.sum(dtype=torch.float64) for v in self.tensors().values() if v.is_floating_point()]
        return bool(torch.isfinite(torch.stack([total.cpu() for total in totals])).all())

    def snapshot(self) -> dict[str, Tensor]:
        """A copy of every tensor, to `restore` from."""
        return {name: value.detach().clone() for name, value in self.tensors().items()}

    @torch.no_grad()
    def restore(self, saved: dict[str, Tensor]) -> None:
        """Go back to a snapshot; the counters stay."""
        own = self.module.state_dict()
        for name, value in own.items():
            value.copy_(saved[f"model.{name}"])
        for name, parameter in self.module.named_parameters():
            buffer = saved.get(f"momentum.{name}")
            # SGD makes the buffer in its first step, from the gradient alone.
            self.optimizer.state[parameter]["momentum_buffer"] = (
                None if buffer is None else torch.empty_like(parameter).copy_(buffer)
            )
        for name, value in self.average.items():
            value.copy_(saved[f"average.{name}"])
        if self.scaler.is_enabled():
            scale, tracker = saved["scale"].tolist()
            now = self.scaler.state_dict()
            self.scaler.load_state_dict({**now, "scale": scale, "_growth_tracker": int(tracker)})

    @torch.no_grad()
    def average_in(self, decay: float) -> None:
        """Move the average towards the weights; it starts fast, so that early weights fade."""
        step = self.counters.step
        share = 1.0 - min(decay, (1.0 + step) / (10.0 + step))
        for name, value in self.module.state_dict().items():
            if name in self.average:
                self.average[name].lerp_(value, share)


def begin(
    module: nn.Module, options: Recipe, *, batch: int, scales: bool, half: torch.dtype | None = None
) -> State:
    """The state before the first step.

    Args:
        module: what is trained.
        options: of the training.
        batch: images of a step.
        scales: whether the loss is scaled, for float16.
        half: the short type in which products are fast, if one is.
    """
    parameters = [p for p in module.parameters() if p.requires_grad]
    device = parameters[0].device.type
    average = {}
    if options.ema:
        floats = {n: v for n, v in module.state_dict().items() if v.is_floating_point()}
        average = {name: value.detach().clone() for name, value in floats.items()}
    optimizer = _optimizer(module, parameters, options, batch, half)
    return State(module, optimizer, torch.amp.GradScaler(device, enabled=scales), average)


def _optimizer(
    module: nn.Module, parameters: list[nn.Parameter], options: Recipe, batch: int, half: torch.dtype | None
) -> torch.optim.Optimizer:
    """Batch norm and biases (one axis) do not decay, and filters that Muon turns have no need to."""
    turned = filters(module, batch) if options.optimizer == "muon" else {}
    rest = [p for p in parameters if p not in turned]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in rest if p.ndim > 1], "weight_decay": options.weight_decay},
        {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if options.optimizer == "sgd":
        return torch.optim.SGD(
            groups, lr=options.lr, momentum=options.momentum, nesterov=options.momentum > 0
        )
    groups.append({"params": list(turned), "weight_decay": 0.0, "turn": options.turn, "parts": turned})
    return Muon(groups, lr=options.lr, momentum=options.momentum, dtype=half or torch.float32)


def identify(body: Mapping[str, Any], modules: Iterable[nn.Module]) -> str:
    """Hash over all that decides a training's result: its description, and the weights it starts from."""
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode())
    for module in modules:
        for name, value in module.state_dict().items():
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
