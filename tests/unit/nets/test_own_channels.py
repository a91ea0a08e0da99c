"""Which channels can be taken behind operations that move, name or mix them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import own_networks as nets
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hwnas.nets.model.cut import Piece
from hwnas.nets.model.edits import Edits
from hwnas.nets.model.widths import steps


class Between(nn.Module):
    """An operation between two convolutions of 1x1, of which the second reads `reads` channels."""

    def __init__(self, operation: Callable[[Tensor, Tensor], Any], reads: int = 32) -> None:
        super().__init__()
        self.a, self.b, self.operation = nn.Conv2d(32, 32, 1), nn.Conv2d(reads, 32, 1), operation

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.b(self.operation(self.a(x), x))
        return y


class Last(nn.Module):
    """The same with the channels on the last axis."""

    def __init__(self, operation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.operation = nn.Linear(32, 32), nn.Linear(32, 32), operation

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.b(self.operation(self.a(x.permute(0, 2, 3, 1)))).permute(0, 3, 1, 2)
        return y


class DoubledReLU(nn.Module):
    """Named as an activation, and not followed: it decides by values."""

    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 1e9 else torch.cat([x.relu(), (-x).relu()], 1)


class WithDoubled(Between):
    def __init__(self) -> None:
        super().__init__(lambda y, x: y, reads=64)
        self.relu = DoubledReLU()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.b(self.relu(self.a(x)))
        return y


def inner(module: nn.Module) -> Piece:
    whole = nets.own(nets.settle(nets.Wrapped(module)))
    piece = next(p for p in whole.pieces if p.name.startswith("inner"))
    if piece.widths:  # what is offered can be built and run
        narrow = whole.variant(Edits(widths={piece.name: piece.widths[0]})).module()
        assert narrow(torch.randn(2, 3, 8, 8)).shape == (2, 5)
    return piece


@pytest.mark.parametrize(
    "module",
    [
        Between(lambda y, x: torch.cat(tensors=[y, y], dim=1), 64),
        Between(lambda y, x: torch.cat([y, y], axis=1), 64),  # type: ignore[call-arg]
        Between(lambda y, x: y * torch.mean(input=y, dim=(2, 3), keepdim=True)),
        Between(lambda y, x: torch.flatten(input=y, start_dim=2).view(y.size(0), -1, 8, 8)),
        Between(lambda y, x: y.view(y.size(0) * 1, -1, 8, 8)),
        Between(lambda y, x: y.type_as(x)),
    ],
    ids=["cat by name", "cat along axis", "mean by name", "flatten by name", "sizes multiplied", "type_as"],
)
def test_channels_are_followed_however_an_operation_is_written(module: nn.Module) -> None:
    assert inner(module).widths == (8, 16, 24)


@pytest.mark.parametrize(
    ("module", "why"),
    [
        (Between(lambda y, x: torch.cat(torch.chunk(y, 2, 1), 1)), "they meet chunk"),
        (Between(lambda y, x: torch.cat(torch.split(y, 16, 1), dim=1)), "they meet split"),
        (Between(lambda y, x: torch.clamp(y, x)), "they meet clamp"),  # x enters and keeps 32 channels
        (Between(lambda y, x: y * y.amax(1, keepdim=True)), "their largest value is taken"),
        (Between(lambda y, x: y * y.mean(1, keepdim=True)), "their mean is taken"),
        (Last(lambda y: F.max_pool2d(y, 3, 1, 1)), "as places of an image"),
        (Last(lambda y: F.adaptive_avg_pool2d(y, (8, 32))), "as places of an image"),
        (Last(nn.AvgPool2d(3, 1, 1)), "as places of an image"),
        (WithDoubled(), "which changes their number"),
    ],
    ids=[
        "chunk", "split", "clamp by a tensor", "largest", "mean", "pooled", "pooled to a size",
        "pooled by a layer", "doubled",
    ],
)  # fmt: skip
def test_what_mixes_channels_fixes_them_and_is_named(module: nn.Module, why: str) -> None:
    piece = inner(module)
    assert piece.widths == ()
    assert why in piece.reasons["widths"]


def test_a_width_that_no_step_divides_says_its_groups() -> None:
    # Two groups of 24: the least that can be taken is lcm(8, 24) = 24; of 20, lcm(8, 20) = 40, all of them.
    assert steps(48, 24) == (24,)
    assert steps(40, 20) == ()
    grouped = nn.Sequential(
        nn.Conv2d(32, 40, 1), nn.Conv2d(40, 40, 3, padding=1, groups=2), nn.Conv2d(40, 32, 1)
    )
    assert "they are only 40, in groups of 20" in inner(grouped).reasons["widths"]
