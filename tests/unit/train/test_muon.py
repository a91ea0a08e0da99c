"""Muon: singular values by hand, steps of a known length, a training that learns with it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from hwnas.nets.build import build
from hwnas.spec import NetworkSpec
from hwnas.train import state
from hwnas.train.data import Dataset
from hwnas.train.loop import Recipe, train
from hwnas.train.muon import Muon, filters, orthogonal


def quintic(value: float, times: int = 3) -> float:
    for _ in range(times):
        value = 3.4445 * value - 4.7750 * value**3 + 2.0315 * value**5
    return value


@pytest.mark.parametrize("columns", [2, 3])
def test_singular_values_by_hand(columns: int) -> None:
    # Of length 5, so that the iteration starts from 0.6 and 0.8; a diagonal matrix stays one.
    tall = torch.zeros(1, 2, columns)
    tall[0, 0, 0], tall[0, 1, 1] = 3.0, 4.0
    for given in (tall, tall.mT):
        turned = orthogonal(given, torch.float32)
        assert turned.shape == given.shape
        assert float(turned[0, 0, 0]) == pytest.approx(quintic(0.6), rel=1e-5)
        assert float(turned[0, 1, 1]) == pytest.approx(quintic(0.8), rel=1e-5)
        assert int(turned.count_nonzero()) == 2


def test_one_row_is_only_brought_to_length_one() -> None:
    row = orthogonal(torch.tensor([[[3.0, 4.0]]]), torch.float32)
    assert row.flatten().tolist() == pytest.approx([0.6, 0.8])


def stepped(weight: Tensor, gradient: Tensor, groups: int = 1) -> Tensor:
    """The weight after one step at lr 0.5 and turn 0.1: a twentieth of its length."""
    own = nn.Parameter(weight.clone())
    own.grad = gradient
    group = {"params": [own], "turn": 0.1, "parts": {own: groups}}
    Muon([group], lr=0.5, momentum=0.0, dtype=torch.float32).step()
    return own.detach()


def test_a_step_has_a_length_in_proportion_to_the_weights() -> None:
    weight, gradient = torch.zeros(2, 1, 1, 2), torch.zeros(2, 1, 1, 2)
    weight[0, 0, 0, 0], gradient[0, 0, 0, 1] = 1.0, 7.0
    # Across its gradient; the length of weights that are shorter than He's is left to grow.
    assert stepped(weight, gradient).flatten().tolist() == pytest.approx([1.0, -0.05, 0.0, 0.0])
    assert stepped(weight, gradient * 1e-6).flatten().tolist() == pytest.approx([1.0, -0.05, 0.0, 0.0])


def test_long_weights_turn_and_do_not_grow() -> None:
    weight, gradient = torch.zeros(1, 1, 1, 2), torch.zeros(1, 1, 1, 2)
    weight[0, 0, 0, 0], gradient[0, 0, 0, 1] = 10.0, 1.0
    new = stepped(weight, gradient)
    assert float(new.norm()) == pytest.approx(10.0)
    assert float(new[0, 0, 0, 1] / new[0, 0, 0, 0]) == pytest.approx(-0.05)


def test_each_filter_of_a_depthwise_convolution_is_a_matrix() -> None:
    weight = torch.tensor([1.0, 0.0, 0.1, 0.0]).view(2, 1, 1, 2)
    gradient = torch.tensor([0.0, 1.0, 0.0, 1.0]).view(2, 1, 1, 2)
    expected = [1.0, -0.05, 0.1, -0.005]
    assert stepped(weight, gradient, groups=2).flatten().tolist() == pytest.approx(expected)


def test_weights_of_zero_leave_it() -> None:
    # From a hundredth of He's length, sqrt(2) for one filter.
    new = stepped(torch.zeros(1, 1, 1, 2), torch.tensor([0.0, -1.0]).view(1, 1, 1, 2))
    assert new.flatten().tolist() == pytest.approx([0.0, 0.05 * 0.01 * 2**0.5])


def test_convolutions_are_turned_and_everything_else_is_not(tiny: NetworkSpec) -> None:
    module = build(tiny, seed=0)
    begun = state.begin(module, Recipe(optimizer="muon"), batch=16, scales=False)
    plain, free, turned = begun.optimizer.param_groups
    names = {id(p): name for name, p in module.named_parameters()}
    kinds = {id(p): type(m) for m in module.modules() for p in m.parameters(recurse=False)}
    assert {kinds[id(p)].__name__ for p in turned["params"]} == {"Conv2d"}
    assert turned["params"] == list(filters(module, 16))
    assert [names[id(p)] for p in plain["params"]] == ["head.linear.weight"]
    assert len(plain["params"]) + len(free["params"]) + len(turned["params"]) == len(names)


def test_of_few_images_a_step_wide_filters_are_left_to_sgd() -> None:
    """512 filters of 512 x 9 inputs: their smaller side is 512, 64 for each image of 8, 32 for each of 16."""
    wide, narrow, depthwise = (
        nn.Conv2d(512, 512, 3),
        nn.Conv2d(512, 256, 1),
        nn.Conv2d(512, 512, 3, groups=512),
    )
    module = nn.Sequential(wide, narrow, depthwise)
    assert list(filters(module, 16)) == [wide.weight, narrow.weight, depthwise.weight]
    assert list(filters(module, 8)) == [narrow.weight, depthwise.weight]
    plain, _, turned = state.begin(module, Recipe(), batch=8, scales=False).optimizer.param_groups
    assert [p is wide.weight for p in plain["params"]] == [True]
    assert plain["weight_decay"] == Recipe().weight_decay
    assert len(turned["params"]) == 2


def test_frozen_filters_stay(tiny: NetworkSpec) -> None:
    module = build(tiny, seed=0)
    first = next(iter(filters(module, 16)))
    first.requires_grad_(False)
    assert first not in filters(module, 16)


def test_learns_more_than_sgd_in_few_steps(tiny: NetworkSpec, digits: Dataset) -> None:
    losses = {}
    for options in (Recipe(), Recipe(optimizer="sgd", schedule="onecycle")):
        found = train(build(tiny, seed=0), tiny, digits, replace(options, images=2000, batch=64))
        losses[options.optimizer] = found.loss
    # 1.67 (0.47 of the images) and 1.89 (0.38); guessing has 2.30.
    assert losses["muon"] < 0.95 * losses["sgd"]
