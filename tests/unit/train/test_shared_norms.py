"""Batch norm over several processes is that over all their images, its gradients too."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from hwnas.train.shared_norms import normalise


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    """A group of one process."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'meet'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def inputs(channels_last: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    # Means far from zero, where sums of squares would lose digits in single precision.
    x = torch.randn(7, 5, 4, 3, generator=generator) * 0.5 + 30.0
    dy = torch.randn(7, 5, 4, 3, generator=generator)
    form = torch.channels_last if channels_last else torch.contiguous_format
    return x.contiguous(memory_format=form), dy.contiguous(memory_format=form)


def layer(**options: object) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(5, **options)  # type: ignore[arg-type]
    if norm.affine:
        with torch.no_grad():
            norm.weight.copy_(torch.tensor([0.5, -1.0, 2.0, 0.0, 1.5]))
            norm.bias.copy_(torch.arange(5.0))
    return norm


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize(
    "options", [{}, {"affine": False}, {"momentum": None}, {"track_running_stats": False}]
)
def test_one_process_is_torchs_own_layer(channels_last: bool, options: dict[str, object]) -> None:
    ours, theirs = layer(**options), layer(**options)
    found = []
    for norm, call in ((ours, lambda x: normalise(ours, x)), (theirs, theirs)):
        x, dy = inputs(channels_last)
        x.requires_grad_()
        for _ in range(2):  # the second time running statistics are not the first ones
            y = call(x)
        torch.autograd.backward(y, dy)
        gradients = [p.grad for p in norm.parameters()]
        found.append([y.detach(), x.grad, *gradients, *norm.buffers()])
    for a, b in zip(*found, strict=True):
        assert a is not None
        assert b is not None
        assert torch.allclose(a.double(), b.double(), rtol=2e-4, atol=2e-4)


@pytest.mark.usefixtures("alone")
def test_half_precision_keeps_statistics_in_float32() -> None:
    x, _ = inputs()
    norm = layer()
    y = normalise(norm, x.bfloat16().requires_grad_())
    torch.autograd.backward(y.float().sum())
    assert y.dtype == torch.bfloat16
    exact = x.bfloat16().float().mean((0, 2, 3))
    assert norm.running_mean is not None
    assert torch.allclose(norm.running_mean, 0.1 * exact, rtol=1e-6)
    assert norm.weight.grad is not None
    assert norm.weight.grad.dtype == torch.float32


def _part(meet: str, rank: int, box: multiprocessing.SimpleQueue) -> None:  # type: ignore[type-arg]
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=meet, rank=rank, world_size=2)
    x, dy = inputs()
    own = slice(0, 3) if rank == 0 else slice(3, 7)  # of other sizes
    norm, part = layer(), x[own].detach().requires_grad_()
    y = normalise(norm, part)
    torch.autograd.backward(y, dy[own])
    assert part.grad is not None
    assert norm.weight.grad is not None
    assert norm.running_var is not None
    box.put([t.detach().numpy() for t in (y, part.grad, norm.weight.grad, norm.running_var)])
    dist.destroy_process_group()


def test_two_processes_are_one_over_all_images(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    meet, boxes = f"file://{tmp_path / 'meet'}", [context.SimpleQueue() for _ in range(2)]
    both = [context.Process(target=_part, args=(meet, rank, boxes[rank])) for rank in range(2)]
    for one in both:
        one.start()
    (y0, dx0, dw0, var0), (y1, dx1, dw1, var1) = ([torch.from_numpy(a) for a in box.get()] for box in boxes)
    for one in both:
        one.join()
        assert one.exitcode == 0
    x, dy = inputs()
    x.requires_grad_()
    norm = layer()
    y = norm(x)
    torch.autograd.backward(y, dy)
    assert x.grad is not None
    assert norm.weight.grad is not None
    assert norm.running_var is not None
    assert torch.allclose(torch.cat([y0, y1]), y, rtol=2e-4, atol=2e-4)
    assert torch.allclose(torch.cat([dx0, dx1]), x.grad, rtol=2e-4, atol=2e-4)
    assert torch.allclose(dw0 + dw1, norm.weight.grad, rtol=2e-4, atol=2e-4)
    assert torch.equal(var0, var1)
    assert torch.allclose(var0, norm.running_var, rtol=1e-5)
