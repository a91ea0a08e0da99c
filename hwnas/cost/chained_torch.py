"""P(T <= budget) of a distribution over networks, smooth in torch.

`chained.expected` and `chained.moments` already take tensors. The exact law jumps where a path's cost
crosses the budget, so it has no useful gradient in the costs; here costs are spread linearly over the
two neighbouring points of a grid instead, which keeps every mean exact and makes the probability
piecewise linear, hence differentiable, in probabilities, operator weights and costs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from hwnas.cost.chained import RoutingGraph
from hwnas.errors import InputError

TorchLayer = tuple[torch.Tensor, torch.Tensor]  # operator weights, operator costs in ms


def probability_within(
    graph: RoutingGraph,
    p: torch.Tensor,
    heads: Sequence[TorchLayer],
    blocks: Sequence[Sequence[TorchLayer]],
    budget_ms: float,
    *,
    points: int = 200,
) -> torch.Tensor:
    """P(T <= budget) over paths and operators, on a grid of ``budget / points``.

    Equal to `chained.Law.within` where all costs lie on the grid; elsewhere off by the mass within
    half a step of the budget per layer.

    Args:
        graph: the routing graph.
        p: (edges,) probabilities.
        heads, blocks: as for `chained.law`, with tensors of shape (operators,).
        budget_ms: the budget, greater than zero.
        points: grid steps up to the budget.
    """
    if budget_ms <= 0:
        raise InputError(f"budget {budget_ms} ms must be greater than zero")
    step = budget_ms / points
    # Mass above the budget never comes back, so the grid ends there and the rest is dropped.
    start = torch.zeros(points + 1, dtype=p.dtype, device=p.device)
    start[0] = 1.0
    onwards = [start] * graph.blocks
    for i in range(graph.blocks - 1, -1, -1):
        total = onwards[i]
        if graph.leaving[i]:
            total = sum(
                (p[e] * _after(heads[e], onwards[j], step) for e, j in graph.leaving[i]),
                torch.zeros_like(start),
            )
        for layer in blocks[i]:
            total = _after(layer, total, step)
        onwards[i] = total
    return onwards[0].sum()


def _after(layer: TorchLayer, law: torch.Tensor, step: float) -> torch.Tensor:
    """Law of layer plus `law`, both on the grid."""
    weights, costs = layer
    out = torch.zeros_like(law)
    size = law.shape[0]
    for weight, cost in zip(weights, costs, strict=True):
        place = cost / step
        # A value that sits on the grid but for rounding must stay there.
        low = int(torch.floor(place.detach() + 1e-9))
        share = place - low
        for shift, part in ((low, 1.0 - share), (low + 1, share)):
            if shift < size:
                moved = torch.cat([law.new_zeros(shift), law[: size - shift]])
                out = out + weight * part * moved
    return out
