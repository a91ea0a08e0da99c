"""Convolution, by the faster and the safer of several exact ways."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

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


@contextmanager
def pixels_first(module: nn.Module) -> Iterator[None]:
    """While a module is trained, its strided 1x1 convolutions take the pixels that the stride keeps first.

    The backward pass of oneDNN's (in torch 2.15 at least) writes out of bounds in channels_last on several
    threads, where the batch is no multiple of them and there are fewer than 16 channels. Networks of our own
    spaces are built without (`hwnas.nets.ops.Conv`); this is for models of a user's.
    """
    strided = [
        one
        for one in module.modules()
        if type(one) is nn.Conv2d
        and one.kernel_size == (1, 1)
        and max(one.stride) > 1
        and one.padding in ((0, 0), "valid")
        and "forward" not in vars(one)
    ]
    for one in strided:
        # mypy forbids assigning a method; for the time of a training that is what is wanted.
        one.forward = partial(_of_kept_pixels, one)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for one in strided:
            del one.forward


def _of_kept_pixels(conv: nn.Conv2d, x: Tensor) -> Tensor:
    rows, columns = conv.stride
    return F.conv2d(x[..., ::rows, ::columns], conv.weight, conv.bias, groups=conv.groups)


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
