"""Scores without training, against values worked out by hand."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import untrained
from hwnas.nets import spaces
from hwnas.nets.build import Network, fresh
from hwnas.nets.conv import ChannelScale


def linear(*weights: list[float]) -> nn.Linear:
    layer = nn.Linear(len(weights[0]), len(weights), bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weights))
    return layer


# -- ZiCo --------------------------------------------------------------------------------------------------


def test_zico_of_one_parameter_with_known_gradients() -> None:
    # Gradients 1 and 3: mean 2, deviation 1.
    assert untrained.steadiness([np.array([[1.0], [3.0]])]) == pytest.approx(math.log(2))
    # Signs do not cancel in the mean, and count in the deviation: mean of |g| 2, mean of g 1, deviation 2.
    assert untrained.steadiness([np.array([[-1.0], [3.0]])]) == pytest.approx(math.log(1))


def test_zico_adds_ratios_within_a_layer_and_logarithms_over_layers() -> None:
    two = np.array([[1.0, 3.0], [3.0, 5.0]])  # 2 / 1 + 4 / 1
    assert untrained.steadiness([two]) == pytest.approx(math.log(6))
    assert untrained.steadiness([two, two]) == pytest.approx(2 * math.log(6))


def test_zico_leaves_out_weights_that_do_not_vary_and_layers_of_such() -> None:
    some, none = np.array([[1.0, 7.0], [3.0, 7.0]]), np.full((2, 3), 0.5)
    assert untrained.steadiness([some, none]) == pytest.approx(math.log(2))


def test_zico_of_a_layer_whose_gradients_are_known() -> None:
    # Both classes equally likely: the gradient is (p - y) x, -x / 2 and x / 2. With x of 1 and 3, each weight
    # has a mean of 1 and a deviation of 1/2.
    layer, label = linear([0.0], [0.0]), torch.tensor([0])
    batches = [(torch.tensor([[x]]), label) for x in (1.0, 3.0)]
    assert untrained.zico(layer, batches) == pytest.approx(math.log(4))


def test_zico_needs_two_batches() -> None:
    with pytest.raises(ValueError, match="two batches or more"):
        untrained.zico(linear([0.0]), [(torch.ones(1, 1), torch.tensor([0]))])


# -- SWAP --------------------------------------------------------------------------------------------------


def test_swap_of_one_unit_is_one_whatever_the_samples() -> None:
    net = nn.Sequential(linear([1.0]), nn.ReLU())
    assert untrained.swap(net, torch.tensor([[1.0], [-1.0]])) == 1


def test_swap_counts_different_patterns_of_units_over_samples() -> None:
    # Over the samples 1 and -1 the units are positive as 10, 10, 01.
    net = nn.Sequential(linear([1.0], [2.0], [-1.0]), nn.ReLU())
    assert untrained.swap(net, torch.tensor([[1.0], [-1.0]])) == 2
    # A second layer sees (1, 2, 0) and (0, 0, 1): 11, which is new, and 01, which is not.
    deeper = nn.Sequential(*net, linear([1.0, 1.0, 1.0], [0.0, 0.0, 1.0]), nn.ReLU())
    assert untrained.swap(deeper, torch.tensor([[1.0], [-1.0]])) == 3


def test_swap_sees_pixels_and_functions_of_any_kind() -> None:
    class Gelu(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.sigmoid(F.gelu(x))  # a gate does not count

    # Four pixels of two images: 10, 01, 11, 00.
    images = torch.tensor([[1.0, -1.0, 1.0, -1.0], [-1.0, 1.0, 1.0, -1.0]]).reshape(2, 1, 2, 2)
    assert untrained.swap(Gelu(), images) == 4


def test_swap_tells_as_many_patterns_apart_as_it_takes_images() -> None:
    at = torch.arange(untrained.MOST_SAMPLES)
    images = (at[:, None] == at).float() - 0.5  # unit k is positive for image k alone
    assert untrained.swap(nn.ReLU(), images) == untrained.MOST_SAMPLES
    with pytest.raises(ValueError, match="at most 62 images"):
        untrained.swap(nn.ReLU(), torch.zeros(63, 1))


def test_swap_refuses_a_network_without_activations() -> None:
    with pytest.raises(ValueError, match="calls none"):
        untrained.swap(linear([1.0]), torch.ones(2, 1))


# -- AZ-NAS ------------------------------------------------------------------------------------------------


def pixels(*rows: list[float]) -> Tensor:
    """Features (1, channels, 1, pixels) whose pixels are rows."""
    return torch.tensor(rows).T[None, :, None, :]


def test_principal_entropy_of_known_covariances() -> None:
    # Two channels without correlation: variances 1 and 1.
    square = pixels([1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0])
    assert untrained.principal_entropy(square) == pytest.approx(math.log(2))
    # Variances 3 and 1: parts of 3/4 and 1/4.
    root = math.sqrt(3.0)
    wide = pixels([root, 1.0], [root, -1.0], [-root, 1.0], [-root, -1.0])
    expected = -0.75 * math.log(0.75) - 0.25 * math.log(0.25)
    assert untrained.principal_entropy(wide) == pytest.approx(expected)
    # Turned and moved, it is the same; channels that say the same have one component.
    turned = (wide.permute(0, 2, 3, 1) @ torch.tensor([[0.6, 0.8], [-0.8, 0.6]])).permute(0, 3, 1, 2) + 5.0
    assert untrained.principal_entropy(turned) == pytest.approx(expected, abs=1e-6)
    assert untrained.principal_entropy(pixels([1.0, 2.0], [-1.0, -2.0])) == pytest.approx(0.0, abs=1e-6)


def norm_of(layer: nn.Module, x: Tensor) -> float:
    before = x.requires_grad_()
    return untrained.spectral_norm(before, layer(before), torch.Generator().manual_seed(0))


def test_spectral_norm_of_a_factor() -> None:
    # With one channel every sign times itself is 1: what arrives is the factor, exactly.
    class Twice(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 2.0 * x

    assert norm_of(Twice(), torch.randn(2, 1, 4, 4)) == pytest.approx(2.0)


def test_spectral_norm_of_a_halved_image_takes_pixels_for_channels() -> None:
    halved = nn.Conv2d(1, 1, 2, stride=2, bias=False)
    with torch.no_grad():
        halved.weight.copy_(torch.tensor([[[[1.0, 2.0], [2.0, 4.0]]]]))
    # A matrix of one column: its norm is sqrt(1 + 4 + 4 + 16).
    assert norm_of(halved, torch.randn(3, 1, 8, 8)) == pytest.approx(5.0)


def test_spectral_norm_nears_that_of_the_matrix() -> None:
    mixed = nn.Conv2d(2, 2, 1, bias=False)
    with torch.no_grad():
        mixed.weight.copy_(torch.tensor([[3.0, 0.0], [0.0, 0.5]])[:, :, None, None])
    assert norm_of(mixed, torch.randn(64, 2, 16, 16)) == pytest.approx(3.0, rel=0.05)


class Chain(nn.Module):
    """A stem and one stage, as `Network` has them."""

    def __init__(self, *factors: float) -> None:
        super().__init__()
        self.stem = nn.Identity()
        self.stages = nn.ModuleList([nn.ModuleList([Factor(one) for one in factors])])


class Factor(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x


def test_az_nas_parts_of_a_chain_of_factors() -> None:
    chain: Network = Chain(2.0, 1.0)  # type: ignore[assignment]
    found = untrained.az_nas(chain, torch.randn(4, 1, 4, 4), seed=0)
    # One channel has one component: no entropy. Norms 2 and 1: the mean of 2 - 2 - 1/2 and 2 - 1 - 1.
    assert found["expressivity"] == 0.0
    assert found["progressivity"] == 0.0
    assert found["trainability"] == pytest.approx(-0.25, abs=1e-5)


def test_progressivity_is_the_least_step() -> None:
    class First(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[:, :1]

    chain = Chain()
    chain.stages = nn.ModuleList([nn.ModuleList([Factor(1.0), First()])])
    square = pixels([1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0])
    found = untrained.az_nas(chain, square, seed=0)  # type: ignore[arg-type]
    # Entropies log 2, log 2 and 0.
    assert found["expressivity"] == pytest.approx(2 * math.log(2))
    assert found["progressivity"] == pytest.approx(-math.log(2))


def test_log_ranks_of_three_networks() -> None:
    found = untrained.log_ranks({"a": [1.0, 2.0, 3.0], "b": [5.0, 9.0, 7.0]})
    third, two = math.log(1 / 3), math.log(2 / 3)
    assert found == pytest.approx([2 * third, two, two])
    # Equal values share their rank: (1 + 2) / 2.
    assert untrained.log_ranks({"a": [1.0, 1.0, 3.0]}) == pytest.approx([math.log(0.5), math.log(0.5), 0.0])


# -- of real networks --------------------------------------------------------------------------------------


@pytest.fixture
def residual() -> Network:
    return untrained.opened(spaces.make("resnet-cifar").smallest(), seed=3)


def test_opened_networks_have_no_closed_branch_and_follow_their_seed(residual: Network) -> None:
    spec = residual.spec
    closed = fresh(spec, seed=3)
    assert any(not m.weight.any() for m in closed.modules() if isinstance(m, nn.BatchNorm2d))
    for layer in residual.modules():
        if isinstance(layer, nn.BatchNorm2d | ChannelScale):
            assert bool((layer.weight == 1).all())
    assert residual.training
    again, other = untrained.opened(spec, seed=3), untrained.opened(spec, seed=4)
    same = [torch.equal(a, b) for a, b in zip(residual.parameters(), again.parameters())]
    assert all(same)
    assert not all(torch.equal(a, b) for a, b in zip(residual.parameters(), other.parameters()))


def test_scores_of_a_real_network_are_finite_and_repeat(residual: Network) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn((8, 3, 32, 32), generator=generator)
    labels = torch.arange(8)

    def scores() -> list[float]:
        net = untrained.opened(residual.spec, seed=3)
        found = [untrained.zico(net, [(images[:4], labels[:4]), (images[4:], labels[4:])])]
        found.append(untrained.swap(untrained.opened(residual.spec, seed=3), images))
        parts = untrained.az_nas(untrained.opened(residual.spec, seed=3), images, seed=1)
        return [*found, *parts.values()]

    first = scores()
    assert all(math.isfinite(one) for one in first)
    assert first == scores()
    assert 1 < first[1] <= 2**8
