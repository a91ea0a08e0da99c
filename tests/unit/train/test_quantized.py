"""Fine-tuning for int8: rounding by hand, and a network that wins its decisions back."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hwnas.nets import build
from hwnas.spec import BlockSpec, NetworkSpec
from hwnas.train.quantized import TuneOptions, _as_int8, _rounded, _Weight, tune

SPEC = NetworkSpec(
    stem=BlockSpec(kind="conv", c_in=3, c_out=8, size_in=8),
    stages=((BlockSpec(kind="basic", c_in=8, c_out=8, size_in=8),),),
    head=BlockSpec(kind="classifier", c_in=8, c_out=4, size_in=8),
)


def test_rounding_by_hand() -> None:
    # Levels of 2 for a channel that reaches 1: steps of 0.5; halves round to even.
    weight = torch.tensor([[1.0, 0.3, -0.8], [0.0, 0.0, 0.0]], requires_grad=True)
    rounded = _Weight(2)(weight)
    assert rounded.tolist() == [[1.0, 0.5, -1.0], [0.0, 0.0, 0.0]]
    torch.autograd.backward(rounded.sum())
    assert weight.grad is not None
    assert weight.grad.tolist() == [[1.0] * 3] * 2  # straight through
    # 255 steps of 0.01 from 0: 2.55 is the end, beyond it nothing is learned.
    value = torch.tensor([0.004, 0.016, 3.0], requires_grad=True)
    out = _rounded(value, 0.0, 2.55)
    assert out.tolist() == pytest.approx([0.0, 0.02, 2.55])
    torch.autograd.backward(out.sum())
    assert value.grad is not None
    assert value.grad.tolist() == [1.0, 1.0, 0.0]


def test_rounding_ends_with_the_block() -> None:
    module = build.build(SPEC, seed=0).eval()
    images = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    before, scores = build.weights(module), module(images)
    with _as_int8(module, images, 3):
        assert not torch.allclose(module(images), scores)
    assert torch.equal(module(images), scores)
    after = build.weights(module)
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_tuned_weights_lose_less_in_few_bits() -> None:
    """At three levels a side the rounded network is far from the float one; tuning brings it nearer."""
    module = build.build(SPEC, seed=0).eval()
    weights = build.weights(module)
    images = torch.randn(256, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    options = TuneOptions(steps=60, lr=0.02)
    tuned = tune(SPEC, weights, images, levels=3, rng=np.random.default_rng(0), options=options)
    reference = module(images).log_softmax(1).detach()

    def distance(given: dict[str, np.ndarray]) -> float:
        student = build.build(SPEC, seed=0)
        build.load_weights(student, given)
        student.eval()
        with torch.no_grad(), _as_int8(student, images, 3):
            scores = student(images).log_softmax(1)
        return float(torch.nn.functional.kl_div(scores, reference, reduction="batchmean", log_target=True))

    assert distance(tuned) < 0.5 * distance(dict(weights))
    again = tune(SPEC, weights, images, levels=3, rng=np.random.default_rng(0), options=options)
    assert all(np.allclose(tuned[name], again[name]) for name in tuned)
