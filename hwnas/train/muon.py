"""Muon: momentum SGD whose steps for filters are made orthogonal (Jordan et al. 2024).

The momentum of a convolution, seen as a matrix (filters x inputs), is replaced by the nearest matrix with
equal singular values: every direction of the filters then learns equally fast, where the gradient alone
would follow its few strongest. What is no filter (batch norm, biases, classifier) takes a step of SGD with
Nesterov momentum.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

# Of the quintic Newton-Schulz iteration that brings every singular value near 1 (Jordan et al. 2024), and how
# often it is done; airbench's number, of which more showed nothing.
QUINTIC, ITERATIONS = (3.4445, -4.7750, 2.0315), 3
# Widest filters that are turned, for each image of a step.
WIDEST = 32


class Muon(torch.optim.Optimizer):
    """SGD with Nesterov momentum; orthogonal steps for parameters in groups with a `turn`.

    A step of such a parameter has `lr` times `turn` of the parameter's own length, so that the rate is a
    relative one and does not depend on how large a network's weights are.

    Args:
        groups: of parameters, each with `params`, `weight_decay`, `turn` (0 is plain SGD) and `parts`, how
            many matrices each parameter is: the groups of its convolution.
        lr: learning rate.
        momentum: as usual.
        dtype: in which steps are made orthogonal.
    """

    def __init__(
        self, groups: list[dict[str, Any]], *, lr: float, momentum: float, dtype: torch.dtype
    ) -> None:
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": 0.0, "turn": 0.0})
        self._dtype = dtype

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # no closure is ever given
        """One step."""
        for group in self.param_groups:
            directions = list(self._directions(group))
            if group["turn"]:
                self._turn(directions, group)
            else:
                for parameter, direction in directions:
                    parameter.add_(direction, alpha=-group["lr"])

    def _directions(self, group: dict[str, Any]) -> Iterator[tuple[Tensor, Tensor]]:
        """Parameters with Nesterov's look ahead at their momentum, which this moves on."""
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            gradient, momentum = parameter.grad, group["momentum"]
            if group["weight_decay"]:
                gradient = gradient.add(parameter, alpha=group["weight_decay"])
            kept = self.state[parameter].get("momentum_buffer")
            if kept is None:
                kept = self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
            kept.mul_(momentum).add_(gradient)
            yield parameter, gradient.add(kept, alpha=momentum)

    def _turn(self, directions: list[tuple[Tensor, Tensor]], group: dict[str, Any]) -> None:
        """Equal shapes are computed together: small matrices cost calls, not arithmetic."""
        alike: dict[tuple[int, ...], list[tuple[Tensor, Tensor]]] = defaultdict(list)
        for parameter, direction in directions:
            alike[tuple(parameter.shape)].append((parameter, direction))
        for shape, pairs in alike.items():
            parts = group["parts"][pairs[0][0]]
            matrices = (len(pairs) * parts, shape[0] // parts, -1)
            old = torch.stack([parameter for parameter, _ in pairs]).reshape(matrices)
            steps = orthogonal(torch.stack([d for _, d in pairs]).reshape(matrices), self._dtype)
            length = torch.linalg.matrix_norm(old, keepdim=True)
            usual = (2.0 * old.shape[1]) ** 0.5  # of He's initial weights
            floor = length.clamp_min(0.01 * usual)
            scale = floor / torch.linalg.matrix_norm(steps, keepdim=True).clamp_min(1e-12)
            new = old - group["lr"] * group["turn"] * scale * steps
            # Orthogonal steps only lengthen weights that a batch norm follows, without end and to no use.
            most = length.clamp_min(usual)
            new *= (most / torch.linalg.matrix_norm(new, keepdim=True).clamp_min(1e-12)).clamp_max(1.0)
            for (parameter, _), value in zip(pairs, new.reshape(len(pairs), *shape), strict=True):
                parameter.copy_(value)


def orthogonal(matrices: Tensor, dtype: torch.dtype) -> Tensor:
    """Matrices (n, rows, columns) with singular values near 1 and the singular vectors of those given."""
    wide = matrices if matrices.shape[1] <= matrices.shape[2] else matrices.mT
    x = wide / torch.linalg.matrix_norm(wide, keepdim=True).clamp_min(1e-12)
    if min(x.shape[1:]) > 1:  # a row is orthogonal when it has length 1
        x, (a, b, c) = x.to(dtype), QUINTIC
        for _ in range(ITERATIONS):
            square = x @ x.mT
            x = a * x + torch.baddbmm(square, square, square, beta=b, alpha=c) @ x
    turned: Tensor = (x if wide is matrices else x.mT).to(matrices.dtype)
    return turned


def filters(module: nn.Module, batch: int) -> dict[Tensor, int]:
    """The weights of a network's convolutions that Muon turns, and how many matrices each one is.

    Turning a matrix costs 4 x `ITERATIONS` times its smaller side for each weight, whatever the batch, and
    the gradient 3 x batch x places of the map. So of few images a step, wide filters are left to SGD: the
    last stage of a ResNet-18 in steps of 8 took three quarters of a training's time for nothing that could
    be told from noise (docs/evidence/training.md).

    Args:
        module: the network.
        batch: images of a step.
    """
    return {
        one.weight: one.groups
        for one in module.modules()
        if isinstance(one, nn.Conv2d)
        and one.weight.requires_grad
        and min(one.out_channels // one.groups, one.weight[0].numel()) <= WIDEST * batch
    }
