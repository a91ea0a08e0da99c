"""What stays of a changed network, fitted to what it gave before.

Where a piece is dropped or narrower, the layers behind it see something else than what they were trained
on. Much of what is gone is a linear map of what is left: each layer behind a change takes that map into its
weights, so that it gives, as nearly as it can, what it gave in the model. In order, from the first layer on,
so that each one is fitted to what the ones before it give by now. A layer's channels alone are mapped; its
kernel stays. (For taken channels alone: He et al. 2017, arXiv 1707.06168, section 3.2.)

It takes a few hundred images without labels, two forward passes, and no gradient.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from hwnas.nets.model.cut import Piece
from hwnas.nets.model.edits import Edits
from hwnas.nets.model.narrow import kept

# Rows, each a place of an image, that a map is fitted to: at least, for each channel, and at most.
ROWS, ROWS_A_CHANNEL, MOST_ROWS = 4_096, 8, 16_384
# Layers that read more are left as they are: their maps would take long, and more images than there are.
MOST_CHANNELS = 2_048
# Numbers in the largest features of all images together.
NUMBERS = 64_000_000
# What a map's departure from leaving everything as it is costs, as parts of the mean square of a channel;
# the one that is best on rows that it was not fitted to is taken.
RIDGES = (0.003, 0.03, 0.3, 3.0)
TINY = 1e-12  # so that channels that are zero everywhere can be solved for


@dataclass(frozen=True)
class Stays:
    """Which of a layer's channels stay, on either side; None where all do."""

    inputs: Tensor | None = None
    outputs: Tensor | None = None


def staying(pieces: tuple[Piece, ...], edits: Edits) -> dict[str, Stays]:
    """For every narrower layer which channels it keeps, by the weights in the pieces' graph."""
    found: dict[str, Stays] = {}
    for piece in pieces:
        width = edits.widths.get(piece.name)
        if width is None or width == piece.width:
            continue
        stays = kept(piece.channels, width)
        for one in piece.channels.slices:
            mask = np.array([stays.get(int(atom), True) for atom in one.atoms])
            index = None if mask.all() else torch.from_numpy(np.flatnonzero(mask))
            before = found.get(str(one.node.target), Stays())
            if one.what == "in":
                found[str(one.node.target)] = Stays(index, before.outputs)
            elif one.what == "out":
                found[str(one.node.target)] = Stays(before.inputs, index)
    return found


class Refit:
    """Fits variants of one trained model, each to what the model gives on the same images."""

    def __init__(self, model: fx.GraphModule, images: Tensor) -> None:
        """Look at the model.

        Args:
            model: the whole model, trained; left as it is, in eval mode.
            images: normalised, without labels. Of large ones not all are taken.
        """
        widest = max(math.prod(n.meta["shape"][1:]) for n in model.graph.nodes if "shape" in n.meta)
        self._model, self._images = model, images[: max(2, NUMBERS // widest)]
        inputs = _Inputs(model.eval(), _read_once(model))
        with torch.no_grad():
            inputs.run(self._images)
        self._before = inputs.seen

    def __call__(self, net: fx.GraphModule, stays: Mapping[str, Stays]) -> None:
        """Fit the layers of a variant, in place, and its batch norm; afterwards it is in eval mode.

        Args:
            net: the variant, with the weights that it kept.
            stays: see `staying`.
        """
        with torch.no_grad():
            _Refitting(net.eval(), self._model, stays, self._before).run(self._images)


def _read_once(graph: fx.GraphModule) -> set[str]:
    """Layers that read all of their input channels, in one place: a depthwise one has no others to read."""
    targets = [str(n.target) for n in graph.graph.nodes if n.op == "call_module"]
    layers: dict[str, Any] = {
        target: graph.get_submodule(target) for target in targets if targets.count(target) == 1
    }
    return {
        target
        for target, layer in layers.items()
        if (
            type(layer).forward is nn.Linear.forward
            or (type(layer).forward is nn.Conv2d.forward and layer.groups == 1)
        )
        and layer.weight.shape[1] <= MOST_CHANNELS
    }


class _Inputs(fx.Interpreter):
    """Runs a graph and keeps rows of what enters each of the layers asked for."""

    def __init__(self, graph: fx.GraphModule, wanted: set[str]) -> None:
        super().__init__(graph)
        self.wanted = wanted
        self.seen: dict[str, Tensor] = {}

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        """As it is; what enters is remembered."""
        if target in self.wanted:
            self.seen[str(target)] = _rows(self.fetch_attr(target), args[0])
        return super().call_module(target, args, kwargs)


class _Refitting(fx.Interpreter):
    """Runs a variant, and fits every layer behind a change before it runs."""

    def __init__(
        self,
        net: fx.GraphModule,
        model: fx.GraphModule,
        stays: Mapping[str, Stays],
        before: Mapping[str, Tensor],
    ) -> None:
        super().__init__(net)
        self.model, self.stays, self.before = model, stays, before
        self.read = {n.name: [a.name for a in n.all_input_nodes] for n in model.graph.nodes}
        self.touched: set[fx.Node] = set()
        self.behind = False

    def run_node(self, n: fx.Node) -> Any:
        """The value of an operation; it is touched where it is not what it was in the model."""
        reads = n.all_input_nodes
        same = self.read.get(n.name) == [a.name for a in reads] and str(n.target) not in self.stays
        self.behind = not same or any(a in self.touched for a in reads)
        if self.behind:
            self.touched.add(n)
        return super().run_node(n)

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Fitted first, where it is behind a change."""
        layer: Any = self.fetch_attr(target)
        if self.behind and target in self.before:
            was = self.model.get_submodule(target)
            _fit(layer, was, self.stays.get(target, Stays()), self.before[target], args[0])
        elif self.behind and isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.track_running_stats:
            assert layer.running_mean is not None
            assert layer.running_var is not None
            axes = [axis for axis in range(args[0].ndim) if axis != 1]
            layer.running_mean.copy_(args[0].mean(axes))
            layer.running_var.copy_(args[0].var(axes))
        return super().call_module(target, args, kwargs)


def _fit(layer: Any, was: Any, stays: Stays, entered: Tensor, enters: Tensor) -> None:
    """New weights of a layer.

    Args:
        layer: of the variant.
        was: the same of the model.
        stays: which of its channels the variant has.
        entered: rows of what entered it in the model.
        enters: what enters it now.
    """
    now, entered = _rows(was, enters).double(), entered.double()
    channels = entered.shape[-1]
    places = torch.arange(channels) if stays.inputs is None else stays.inputs
    keep = torch.zeros(len(places), channels, dtype=now.dtype, device=now.device)
    keep[torch.arange(len(places)), places] = 1.0
    mapped = keep + _least_squares(now, entered - now @ keep)
    weight, bias = was.weight.to(now), None if was.bias is None else was.bias.to(now)
    if stays.outputs is not None:
        weight, bias = weight[stays.outputs], None if bias is None else bias[stays.outputs]
    layer.weight.copy_(torch.einsum("oi...,ni->on...", weight, mapped))
    if bias is not None:
        rest = entered.mean((0, 1)) - now.mean((0, 1)) @ mapped
        layer.bias.copy_(bias + weight.reshape(*weight.shape[:2], -1).sum(2) @ rest)


def _least_squares(x: Tensor, y: Tensor) -> Tensor:
    """The map from `x` to `y` (images, rows, channels), both centred, by ridge regression.

    The ridge is that of the smallest error on the images that it was not fitted to; without one that is
    better than no map at all it is zero.
    """
    x, y = x - x.mean((0, 1)), y - y.mean((0, 1))
    held, seen = [part[::2].flatten(0, 1) for part in (x, y)], [part[1::2].flatten(0, 1) for part in (x, y)]
    best, least = None, float(held[1].square().sum())
    for at, found in enumerate(_ridges(*seen)):
        left = float((held[1] - held[0] @ found).square().sum())
        if left < least:
            best, least = at, left
    if best is None:
        return torch.zeros(x.shape[-1], y.shape[-1], dtype=x.dtype, device=x.device)
    x, y = x.flatten(0, 1), y.flatten(0, 1)
    square = x.T @ x
    square.diagonal().add_(RIDGES[best] * square.diagonal().mean() + TINY)
    solved: Tensor = torch.linalg.solve(square, x.T @ y)
    return solved


def _ridges(x: Tensor, y: Tensor) -> list[Tensor]:
    """A solution for every ridge."""
    values, vectors = torch.linalg.eigh(x.T @ x)
    turned = vectors.T @ (x.T @ y)
    lifted = [values.clamp_min(0.0) + ridge * values.mean() + TINY for ridge in RIDGES]
    return [vectors @ (turned / one[:, None]) for one in lifted]


def _rows(layer: Any, x: Tensor) -> Tensor:
    """What enters a layer of the model, (images, rows, channels): some places, the same at every call."""
    rows = min(max(ROWS, ROWS_A_CHANNEL * int(layer.weight.shape[1])), MOST_ROWS)
    if isinstance(layer, nn.Linear):
        flat = x.reshape(len(x), -1, x.shape[-1])
    else:
        flat = x.flatten(2).transpose(1, 2)
    count = max(1, min(flat.shape[1], rows // len(x)))
    rng = torch.Generator().manual_seed(flat.shape[1])
    at = torch.rand(len(x), flat.shape[1], generator=rng).argsort(1)[:, :count].to(x.device)
    return flat.gather(1, at[..., None].expand(-1, -1, flat.shape[2])).float()
