"""Convolutions that change precision for speed compute the same."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from hwnas.nets.conv import Conv2d, conv2d


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 1), (5, 2), (7, 2)])
def test_depthwise_convolution_under_autocast(kernel: int, stride: int) -> None:
    """Values and gradients are those of float32 arithmetic on the same bfloat16 numbers."""
    rng = torch.Generator().manual_seed(kernel * 10 + stride)
    x = torch.randn(4, 8, 12, 12, generator=rng).bfloat16()
    weight = torch.randn(8, 1, kernel, kernel, generator=rng).bfloat16()
    ours = [x.float().requires_grad_(), weight.float().requires_grad_()]
    theirs = [x.double().requires_grad_(), weight.double().requires_grad_()]
    with torch.autocast("cpu", torch.bfloat16):
        y = conv2d(ours[0], ours[1], None, stride, kernel // 2, 8)
    assert y.dtype == torch.bfloat16
    want = F.conv2d(theirs[0], theirs[1], None, stride, kernel // 2, groups=8)
    torch.testing.assert_close(y.double(), want, rtol=0.01, atol=0.05)
    seed = torch.randn(y.shape, generator=rng).bfloat16()
    torch.autograd.backward(y, seed)
    torch.autograd.backward(want, seed.double())
    for mine, exact in zip(ours, theirs, strict=True):
        assert mine.grad is not None
        assert exact.grad is not None
        scale = float(exact.grad.abs().max())
        torch.testing.assert_close(mine.grad.double(), exact.grad, rtol=0.02, atol=0.02 * scale)


def test_outside_of_autocast_nothing_changes() -> None:
    """In float32 the layer is torch's to the bit, bias and groups included."""
    torch.manual_seed(0)
    x = torch.randn(2, 8, 9, 9)
    for groups in (1, 2, 8):
        layer = Conv2d(8, 8, 5, stride=2, padding=2, groups=groups)
        want = F.conv2d(x, layer.weight, layer.bias, 2, 2, groups=groups)
        assert torch.equal(layer(x), want)
