"""Convolution, by the faster of two exact ways where mixed precision is slower than none."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int, groups: int) -> Tensor:
    """`torch.nn.functional.conv2d`, depthwise ones on the CPU in float32 where bfloat16 is slower.

    oneDNN's backward pass of a depthwise convolution in bfloat16 is slow for strides and for kernels
    above 3x3. Forward and backward, 128 images of 96 channels 16x16, channels last, one core with
    avx512_bf16: 3x3 with stride 2, 71 ms in bfloat16 and 4 ms in float32; 5x5, 40 and 20 ms; 5x5 with
    stride 2, 136 and 10 ms. Only 3x3 with stride 1 is faster in bfloat16, 3.5 and 8 ms.

    Args:
        x: (batch, C, H, W).
        weight: (C_out, C / groups, k, k).
        bias: (C_out,), or None.
        stride, padding, groups: as usual.
    """
    depthwise = 1 < groups == x.shape[1]
    mixed = x.device.type == "cpu" and torch.is_autocast_enabled("cpu")
    if not (depthwise and mixed and (stride > 1 or weight.shape[-1] > 3)):
        return F.conv2d(x, weight, bias, stride, padding, groups=groups)
    with torch.autocast("cpu", enabled=False):
        y = F.conv2d(
            x.float(), weight.float(), None if bias is None else bias.float(), stride, padding, groups=groups
        )
        return y.to(torch.get_autocast_dtype("cpu"))


class Conv2d(nn.Conv2d):
    """`torch.nn.Conv2d` with equal strides and zero padding, computed by `conv2d`."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (the name is torch's)
        """(batch, C_out, H', W') of (batch, C, H, W)."""
        stride, padding = self.stride[0], self.padding[0]
        assert isinstance(padding, int)
        return conv2d(input, self.weight, self.bias, stride, padding, self.groups)


class ChannelScale(nn.Module):
    """One trained factor per channel (layer scale, Touvron et al. 2021)."""

    def __init__(self, channels: int, initial: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels,), initial))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, C, H, W), every channel times its factor."""
        return x * self.weight[:, None, None]
