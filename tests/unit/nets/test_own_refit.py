"""What stays of a changed network, fitted to what it gave before."""

from __future__ import annotations

import own_networks as nets
import pytest
import torch
from torch import Tensor, fx, nn

from hwnas.nets.model.edits import Edits
from hwnas.nets.model.parent import Parent
from hwnas.nets.model.refit import Refit, staying


class Straight(nn.Module):
    """A branch without an activation: what it adds is a linear map of what enters."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(32, 32, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.conv(x)
        return y


class Twins(nn.Module):
    """Inner channel 8 + i is three times channel i."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(32, 16, 3, padding=1), nn.Conv2d(16, 32, 3, padding=1)
        with torch.no_grad():
            for value in self.a.parameters():
                value[8:] = 3 * value[:8]

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = torch.relu(x + self.b(torch.relu(self.a(x))))
        return y


def images(n: int = 256) -> Tensor:
    return torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def changed(whole: Parent, edits: Edits) -> tuple[fx.GraphModule, Tensor]:
    """A variant that was fitted, and how far it was off before, in parts of the model's output."""
    net = whole.variant(edits).module()
    far = error(net, whole)
    Refit(whole.graph, images())(net, staying(whole.pieces, edits))
    return net, far


@torch.no_grad()
def error(net: nn.Module, whole: Parent) -> Tensor:
    given = whole.graph(images())
    off: Tensor = (net.eval()(images()) - given).square().mean() / given.square().mean()
    return off


def test_the_next_layer_takes_over_a_linear_branch_that_was_dropped() -> None:
    torch.manual_seed(0)
    whole = nets.own(nets.Wrapped(Straight()))
    net, before = changed(whole, Edits(dropped=frozenset(["inner"])))
    assert before > 0.01
    assert error(net, whole) < 1e-4


def test_what_was_scaled_is_scaled_by_the_next_layer() -> None:
    """The branch adds half of what enters: 1.5 x = (1.5 W) x."""
    inner = Straight()
    with torch.no_grad():
        for value in inner.conv.parameters():
            value.zero_()
        inner.conv.weight.copy_(0.5 * torch.eye(32)[:, :, None, None])
    whole = nets.own(nn.Sequential(nn.Conv2d(3, 32, 4, stride=2), inner, nn.Conv2d(32, 4, 3), nn.Flatten()))
    net, _ = changed(whole, Edits(dropped=frozenset(["1"])))
    torch.testing.assert_close(
        nets.weight(net, "2"), 1.5 * nets.weight(whole.graph, "2"), atol=0.01, rtol=0.0
    )


def test_channels_that_stay_take_over_their_twins() -> None:
    torch.manual_seed(0)
    whole = nets.own(nets.Wrapped(Twins()))
    net, before = changed(whole, Edits(widths={"inner": 8}))
    assert before > 0.001
    assert error(net, whole) < 1e-5
    # Of each pair the larger one stays: w_small x / 3 + w_large x.
    b = nets.weight(whole.graph, "inner.b")
    torch.testing.assert_close(nets.weight(net, "inner.b"), b[:, :8] / 3 + b[:, 8:], atol=0.01, rtol=0.0)


def test_a_network_without_changes_stays_as_it_is() -> None:
    whole = nets.own(nets.Plain())
    net, _ = changed(whole, Edits())
    for name, value in whole.graph.state_dict().items():
        if "running" not in name and "num_batches" not in name:
            assert torch.equal(net.state_dict()[name], value), name


def test_depthwise_gated_and_dense_networks_are_not_worse_than_before() -> None:
    torch.manual_seed(0)
    for module in (nets.Gated(), nets.Grouped(), nets.Plain()):
        whole = nets.own(nets.Wrapped(module) if not isinstance(module, nets.Plain) else module)
        piece = next(p for p in whole.pieces if p.widths)
        net, before = changed(whole, Edits(widths={piece.name: piece.widths[0]}))
        assert error(net, whole) < before


def test_layers_of_very_many_inputs_are_left_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hwnas.nets.model.refit.MOST_CHANNELS", 31)
    whole = nets.own(nets.Wrapped(Straight()))
    net, _ = changed(whole, Edits(dropped=frozenset(["inner"])))
    assert torch.equal(nets.weight(net, "head"), nets.weight(whole.graph, "head"))
