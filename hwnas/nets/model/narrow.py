"""Taking channels: which of a group stay at a width, and a network without the others."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from hwnas.nets.model.channel_layers import extra
from hwnas.nets.model.widths import STEP, Channels, WidthGroup

ChannelScores = Mapping[str, Tensor]


def scaled(groups: Sequence[WidthGroup], width: int) -> list[int]:
    """Widths of all groups where the first has `width`: the same share of each, in steps of each."""
    ratio = width / groups[0].width
    found = [width]
    for group in groups[1:]:
        least = math.lcm(STEP, group.unit)
        found.append(min(group.width, max(least, round(group.width * ratio / least) * least)))
    return found


def kept(found: Channels, width: int, importance: ChannelScores | None = None) -> dict[int, bool]:
    """For each atom of the groups whether it stays, where the first group is to have `width` channels."""
    stays: dict[int, bool] = {}
    for group, n in zip(found.groups, scaled(found.groups, width)):
        score = np.zeros(len(group.atoms))
        for layer in group.layers:
            each = _scores(found.graph, layer, importance)
            at = found.producers[layer]
            score += np.array([each[at == a].sum() for a in group.atoms])
        best = set(np.argsort(-score, kind="stable")[: n // group.unit].tolist())
        stays |= {a: i in best for i, a in enumerate(group.atoms)}
    return stays


def _scores(graph: fx.GraphModule, layer: str, importance: ChannelScores | None) -> Any:
    """Of each output channel of a layer: as given, else the L1 norm of its weights, batch norm folded in."""
    node = next(n for n in graph.graph.nodes if n.name == layer)
    if importance is not None and node.target in importance:
        return importance[node.target].detach().double().cpu().numpy()
    module: Any = graph.get_submodule(str(node.target))
    with torch.no_grad():
        score = module.weight.detach().double().abs().flatten(1).sum(1)
        for user in node.users:
            norm: Any = graph.get_submodule(str(user.target)) if user.op == "call_module" else None
            if isinstance(norm, nn.modules.batchnorm._BatchNorm) and norm.weight is not None:
                spread = (
                    (norm.running_var.double() + norm.eps).sqrt() if norm.running_var is not None else 1.0
                )
                score = score * norm.weight.double().abs() / spread
    return score.cpu().numpy()


def narrow(target: fx.GraphModule, found: Channels, stays: Mapping[int, bool]) -> None:
    """Take the channels that do not stay out of the layers of `target`, whose weights are replaced.

    Args:
        target: a graph with the modules of the piece that `found` is of, under the same names; they are
            changed, so they must not be shared with a network that is to stay.
    """
    for each in found.slices:
        mask = np.array([stays.get(int(a), True) for a in each.atoms])
        if mask.all():
            continue
        index = torch.from_numpy(np.flatnonzero(mask))
        if each.what == "attribute":
            _set(target, str(each.node.target), each.axis, index)
            continue
        module: Any = target.get_submodule(str(each.node.target))
        if each.what == "out":
            _layer(module, 0, index)
        elif each.what == "in":
            _layer(module, 1, index)
        elif each.what == "grouped":
            size, made = module.in_channels // module.groups, module.out_channels // module.groups
            module.groups = len(index) // size
            module.in_channels = len(index)
            out = np.repeat(mask[::size], made)
            _layer(module, 0, torch.from_numpy(np.flatnonzero(out)))
        else:
            _norm(module, index)


def _set(target: nn.Module, name: str, axis: int, index: Tensor) -> None:
    owner, _, last = name.rpartition(".")
    module = target.get_submodule(owner)
    value = getattr(module, last)
    cut = value.detach().index_select(axis, index.to(value.device))
    if isinstance(value, nn.Parameter):
        setattr(module, last, nn.Parameter(cut, requires_grad=value.requires_grad))
    else:
        setattr(module, last, cut)


def _layer(module: Any, axis: int, index: Tensor) -> None:
    _set(module, "weight", axis, index)
    linear = isinstance(module, nn.Linear)
    if axis == 0:
        for name in extra(module):
            _set(module, name, 0, index)
        if module.bias is not None:
            _set(module, "bias", 0, index)
        setattr(module, "out_features" if linear else "out_channels", len(index))
    else:
        setattr(module, "in_features" if linear else "in_channels", len(index))


def _norm(module: Any, index: Tensor) -> None:
    for name in ("weight", "bias", "running_mean", "running_var"):
        if isinstance(getattr(module, name, None), Tensor):
            _set(module, name, 0, index)
    if isinstance(module, nn.GroupNorm):
        module.num_groups = max(1, module.num_groups * len(index) // module.num_channels)
        module.num_channels = len(index)
    elif isinstance(module, nn.LayerNorm):
        module.normalized_shape = (len(index),)
    elif isinstance(module, nn.PReLU):
        module.num_parameters = len(index)
    else:
        module.num_features = len(index)
