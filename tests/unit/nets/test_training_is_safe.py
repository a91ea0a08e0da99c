"""Training steps that once corrupted memory inside the convolution library."""

import subprocess
import sys

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
