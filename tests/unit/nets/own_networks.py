"""Small networks as users write them, for tests of `hwnas.nets.model`."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hwnas.nets.model.bases import OwnModel
from hwnas.nets.model.parent import Parent, parent


class Residual(nn.Module):
    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.a = nn.Conv2d(channels, inner, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(inner)
        self.b = nn.Conv2d(inner, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.b(torch.relu(self.norm(self.a(x)))))


class Plain(nn.Module):
    """Stem, two equal residual blocks of 32 channels with 24 inside, head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3)
        self.body = nn.Sequential(Residual(32, 24), Residual(32, 24))
        self.head = nn.Linear(32, 7)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.body(torch.relu(self.stem(x))).mean((2, 3)))
        return y


class Wrapped(nn.Module):
    """One module after a stem, and a head."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, padding=1)
        self.inner = inner
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.inner(self.stem(x)).mean((2, 3)))
        return y


class ByValue(nn.Module):
    """Decides by what a tensor holds: cannot be followed."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(32, 32, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x) if x.sum() > -1e30 else x
        return y


class BySize(nn.Module):
    """Decides by the size of a tensor, and drops by function."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(32, 32, 1)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        if height > 4:
            x = self.conv(x)
        x = F.dropout(x, 0.5, self.training)
        return x.reshape(batch, channels, height * width).view(batch, channels, height, width)


class Gated(nn.Module):
    """An inverted residual of 48 channels with a gate and a depthwise convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.expand = nn.Conv2d(32, 48, 1)
        self.norm = nn.BatchNorm2d(48)
        self.depth = nn.Conv2d(48, 48, 3, padding=1, groups=48)
        self.squeeze = nn.Conv2d(48, 8, 1)
        self.excite = nn.Conv2d(8, 48, 1)
        self.project = nn.Conv2d(48, 32, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.hardswish(self.norm(self.expand(x)))
        y = self.depth(y)
        gate = torch.sigmoid(self.excite(torch.relu(self.squeeze(F.adaptive_avg_pool2d(y, 1)))))
        out: Tensor = x + self.project(y * gate)
        return out


class Grouped(nn.Module):
    """A grouped convolution of 4 groups of 8 channels between two plain ones."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (
            nn.Conv2d(32, 32, 1),
            nn.Conv2d(32, 64, 3, padding=1, groups=4),
            nn.Conv2d(64, 32, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.c(torch.relu(self.b(torch.relu(self.a(x)))))
        return out


class Gained(nn.Conv2d):
    """A convolution with a gain for each output channel, as in normaliser-free networks."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__(c_in, c_out, 1)
        self.gain = nn.Parameter(torch.ones(c_out, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * self.gain, self.bias)


class WithGain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = Gained(32, 24), Gained(24, 32)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.b(torch.relu(self.a(x)))
        return out


class Dense(nn.Module):
    """Concatenated features, as in a DenseNet."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(32, 16, 1), nn.Conv2d(48, 16, 1)
        self.c = nn.Conv2d(64, 32, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = torch.relu(self.a(x))
        two = torch.relu(self.b(torch.cat([x, one], 1)))
        y: Tensor = self.c(torch.cat([x, one, two], 1))
        return y


class Shared(nn.Module):
    """One convolution used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(32, 32, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv(torch.relu(self.conv(x))))


def own(module: nn.Module, shape: tuple[int, int, int] = (3, 8, 8)) -> Parent:
    return parent(OwnModel(module.eval(), "test", "file", shape))


def weight(module: nn.Module, name: str) -> Tensor:
    """The weight of a layer."""
    found = module.get_submodule(name).weight
    assert isinstance(found, Tensor)
    return found


def settle(module: nn.Module) -> Any:
    """Weights and statistics that no symmetry hides anything behind."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, value in module.state_dict().items():
            if value.is_floating_point():
                noise = torch.rand(value.shape, generator=generator) * 0.2
                value.copy_(noise + 0.5 if "var" in name or "norm.weight" in name else noise - 0.1)
    return module
