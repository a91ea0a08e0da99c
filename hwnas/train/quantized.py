"""A short fine-tuning for int8: the network learns to live with rounded weights and activations.

Where rounding alone costs too much accuracy. Batch norm keeps its statistics, weights and inputs of the
weighted layers are rounded in the forward pass and pass their gradients through (straight-through
estimator), and the float network is the teacher: no labels are needed, and what comes out decides as it did.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from hwnas.arrays import Float32s
from hwnas.nets import build
from hwnas.protocols import Emit
from hwnas.spec import NetworkSpec

if TYPE_CHECKING:
    from collections.abc import Iterator

STEPS_UNSIGNED = 255
CUT = 0.9999  # quantile of an input's values that its range holds
WATCHED = 256  # images that ranges are taken from


@dataclass(frozen=True)
class TuneOptions:
    """How long, and how fast it learns.

    Attributes:
        steps: updates.
        batch: images of an update.
        lr: highest learning rate; it rises over a tenth of the steps and falls to zero by a cosine.
        momentum: of the updates.
    """

    steps: int = 200
    batch: int = 64
    lr: float = 0.002
    momentum: float = 0.9


class _Weight(nn.Module):
    """Rounds a weight by output channel, symmetric."""

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.levels = levels

    def forward(self, weight: Tensor) -> Tensor:
        """The rounded weight, with the gradient of the weight itself."""
        largest = weight.detach().abs().flatten(1).amax(dim=1).clamp_min(1e-12)
        scale = (largest / self.levels).reshape(-1, *[1] * (weight.ndim - 1))
        rounded = (weight / scale).round().clamp(-self.levels, self.levels) * scale
        return weight + (rounded - weight).detach()


def _rounded(value: Tensor, low: float, high: float) -> Tensor:
    """Values in 255 steps of a range that holds 0; what lies beyond is cut and gets no gradient."""
    scale = max(high - low, 1e-12) / STEPS_UNSIGNED
    zero = round(-low / scale)
    ends = (-zero * scale, (STEPS_UNSIGNED - zero) * scale)
    cut = value.clamp(*ends)
    whole = (cut / scale).round() * scale
    return cut + (whole - cut).detach()


def tune(
    spec: NetworkSpec,
    weights: Mapping[str, Float32s],
    images: Tensor,
    *,
    levels: int,
    rng: np.random.Generator,
    options: TuneOptions | None = None,
    emit: Emit | None = None,
) -> dict[str, Float32s]:
    """Weights of a network that lose less in int8.

    Args:
        spec, weights: the trained float network; it is the teacher, too.
        images: (n, C, H, W) training images as the network takes them.
        levels: largest integer of a weight (`Int8Form.weight_levels`).
        rng: draws batches.
        options: how long.
        emit: progress.

    Returns:
        The new weights by the same names.
    """
    options = options or TuneOptions()
    teacher, student = (_module(spec, weights) for _ in range(2))
    optimiser = torch.optim.SGD(student.parameters(), lr=options.lr, momentum=options.momentum)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda at: _share(at, options.steps))
    with _as_int8(student, images[:WATCHED], levels):
        for at in range(options.steps):
            batch = images[torch.from_numpy(rng.integers(0, len(images), options.batch))]
            with torch.no_grad():
                wanted = teacher(batch).log_softmax(dim=1)
            given = student(batch).log_softmax(dim=1)
            loss = nn.functional.kl_div(given, wanted, reduction="batchmean", log_target=True)
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(student.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            if emit is not None:
                fields = {"task": "fine-tuning for int8", "done": at + 1, "total": options.steps, "note": ""}
                emit("progress", fields)
    return dict(build.weights(student))


def _module(spec: NetworkSpec, weights: Mapping[str, Float32s]) -> nn.Module:
    module = build.build(spec, seed=0)
    build.load_weights(module, weights)
    module.eval()  # batch norm keeps its statistics
    return module


def _share(at: int, steps: int) -> float:
    """Learning rate as a share of the highest."""
    rise = max(1, steps // 10)
    if at < rise:
        return (at + 1) / rise
    return 0.5 * (1.0 + float(np.cos(np.pi * (at - rise) / max(1, steps - rise))))


@contextmanager
def _as_int8(module: nn.Module, images: Tensor, levels: int) -> Iterator[None]:
    """Round weights and inputs of the weighted layers for the time of the block."""
    layers = [m for m in module.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    ranges = _ranges(module, layers, images)
    handles = []
    for layer in layers:
        parametrize.register_parametrization(layer, "weight", _Weight(levels))
        low, high = ranges[layer]

        def rounded(_: nn.Module, args: tuple[Any, ...], low: float = low, high: float = high) -> Any:
            return (_rounded(args[0], low, high), *args[1:])

        handles.append(layer.register_forward_pre_hook(rounded))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for layer in layers:
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)


def _ranges(
    module: nn.Module, layers: list[nn.Conv2d | nn.Linear], images: Tensor
) -> dict[nn.Module, tuple[float, float]]:
    """The range of each layer's input, a few outliers left out; 0 is in it."""
    found: dict[nn.Module, tuple[float, float]] = {}

    def look(layer: nn.Module, args: tuple[Any, ...]) -> None:
        values = args[0].detach().flatten()
        some = values[:: max(1, len(values) // 1_000_000)]  # torch.quantile takes no more than 16 million
        low, high = torch.quantile(some, torch.tensor([(1 - CUT) / 2, (1 + CUT) / 2])).tolist()
        found[layer] = min(low, 0.0), max(high, 0.0)

    handles = [layer.register_forward_pre_hook(look) for layer in layers]
    try:
        with torch.no_grad():
            module(images)
    finally:
        for handle in handles:
            handle.remove()
    return found
