"""Training steps that once corrupted memory inside the convolution library."""

import subprocess
import sys
from contextlib import nullcontext

import torch
from torch import nn

from hwnas.nets.conv import pixels_first

STEPS = """
import torch
from hwnas.nets.build import build
from hwnas.nets.spaces import make
torch.set_num_threads(2)
module = build(make("resnet-cifar-wide", input_shape=(3, 16, 16)).smallest(), seed=0)
module.to(memory_format=torch.channels_last).train()
for _ in range(30):
    images = torch.randn(7, 3, 16, 16).contiguous(memory_format=torch.channels_last)
    module(images).square().mean().backward()
    module.zero_grad(set_to_none=True)
"""


def test_an_odd_batch_on_two_threads() -> None:
    """Narrow strided shortcuts, seven images on two threads: a fault would end the process by a signal."""
    done = subprocess.run([sys.executable, "-c", STEPS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_strided_1x1_convolutions_of_any_model_take_their_pixels_first() -> None:
    module = nn.Sequential(
        nn.Conv2d(6, 8, 1, stride=(2, 3), groups=2),
        nn.Conv2d(8, 4, 3, stride=2, padding=1),
        nn.Conv2d(4, 4, 1),
    )
    # Odd sizes, where what the stride keeps is rounded up.
    x = torch.randn(5, 6, 9, 11, generator=torch.Generator().manual_seed(0))
    results = []
    for safely in (False, True):
        given = x.clone().requires_grad_()
        with pixels_first(module) if safely else nullcontext():
            assert ["forward" in vars(one) for one in module] == [safely, False, False]
            y = module(given)
            torch.autograd.backward(y.square().sum())
        assert given.grad is not None
        results.append((y.detach(), given.grad, *(p.grad for p in module.parameters())))
        module.zero_grad(set_to_none=True)
    assert not any("forward" in vars(one) for one in module)
    for a, b in zip(*results, strict=True):
        assert a is not None
        assert b is not None
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-5)
