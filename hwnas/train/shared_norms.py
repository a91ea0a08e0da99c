"""Batch norm whose statistics are those of the batches of all processes, on CPUs.

Each pass over the values is one of torch's own kernels, and each layer talks to the other processes once a
direction: torch's `SyncBatchNorm` works on GPUs alone.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn


class _SharedNorm(torch.autograd.Function):
    """Normalise by given statistics, of which the gradient takes account as of those of all values.

    With x̂ = (x - mean) / std over n values a channel (Ioffe and Szegedy 2015, section 3):
    dx = weight / std * (dy - sum(dy) / n - x̂ sum(dy x̂) / n), where the sums are over all processes.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        mean: Tensor,
        variance: Tensor,
        n: float,
        eps: float,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, mean, torch.rsqrt(variance + eps))
        ctx.n, ctx.eps = n, eps
        return F.batch_norm(x, mean, variance, weight, bias, training=False, eps=eps)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, inverse_std = ctx.saved_tensors
        dy = gradients[0].contiguous(memory_format=layout_of(x))
        # Of these values alone: sums of dy x̂ and of dy. Those of the others come with the gradients.
        _, d_weight, d_bias = torch.ops.aten.native_batch_norm_backward(
            dy, x, weight, None, None, mean, inverse_std, True, ctx.eps, [False, True, True]
        )
        sums = torch.stack([d_weight, d_bias])
        dist.all_reduce(sums)
        by_x, by_one = sums / ctx.n
        # dx = scale dy + slope x + level, by channel.
        scale = weight * inverse_std
        slope = -scale * inverse_std * by_x
        level = -scale * by_one - slope * mean
        # In float32: what is rounded per channel in half precision adds up over a network.
        dx = F.batch_norm(x.float(), torch.zeros_like(slope), torch.ones_like(slope), slope, level, eps=0.0)
        dx = dx.addcmul_(dy.float(), scale[:, None, None]).to(x.dtype)
        return dx, d_weight, d_bias, None, None, None, None


def layout_of(x: Tensor) -> torch.memory_format:
    """In which order the values of images lie."""
    last = x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


def normalise(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """A forward pass of batch norm over the batches of all processes.

    Args:
        norm: the layer; in evaluation it does what it always does.
        x: (batch, channels, height, width); batches may differ in size.
    """
    if not norm.training:
        return nn.BatchNorm2d.forward(norm, x)
    x = x.contiguous(memory_format=layout_of(x))
    mean, variance, n = _statistics(x.detach())
    if norm.track_running_stats and norm.running_mean is not None and norm.running_var is not None:
        assert norm.num_batches_tracked is not None
        norm.num_batches_tracked += 1
        share = 1.0 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
        norm.running_mean.lerp_(mean, share)
        norm.running_var.lerp_(variance * (n / (n - 1)), share)
    weight, bias = norm.weight, norm.bias
    if weight is None:
        weight, bias = torch.ones_like(mean), torch.zeros_like(mean)
    found: Tensor = _SharedNorm.apply(x, weight, bias, mean, variance, n, norm.eps)
    return found


@torch.no_grad()
def _statistics(x: Tensor) -> tuple[Tensor, Tensor, float]:
    """Mean and variance (of n, not n - 1) of each channel over all processes, and n."""
    own = x.numel() / x.shape[1]
    mean, variance = torch.batch_norm_update_stats(x.float(), None, None, 0.0)
    # So few numbers are summed in double precision: nothing is lost where squares cancel.
    mean, variance = mean.double(), variance.double()
    total = torch.cat([own * mean, own * (variance + mean.square()), mean.new_tensor([own])])
    dist.all_reduce(total)
    n = float(total[-1])
    mean, squares = (total[:-1] / n).chunk(2)
    return mean.float(), (squares - mean.square()).clamp_(min=0.0).float(), n
