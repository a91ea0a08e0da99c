"""Growths made together: the same network as by hand, and each with the gradient that it has alone."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from hwnas.errors import InputError
from hwnas.nets.build import build, inherit
from hwnas.nets.chainspace import ChainSpace
from hwnas.nets.growth import preserves
from hwnas.nets.spaces import make
from hwnas.protocols import Move
from hwnas.search.importance import packing as joint
from hwnas.search.importance.gradient import _open
from hwnas.search.moves import further

WIDE = make("resnet-cifar-wide", input_shape=(3, 16, 16), classes=4)
MOBILE = make("mbv2-cifar", input_shape=(3, 16, 16), classes=4)


def problem(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.standard_normal((n, 3, 16, 16)).astype(np.float32))
    return images, torch.from_numpy(rng.integers(0, 4, n))


def test_all_growths_of_residual_networks_share_a_pass() -> None:
    spec = WIDE.uniform()[1]  # one block each, 16, 32 and 64 channels
    moves = WIDE.grow(spec)
    assert sorted((m.stage, m.kind) for m in moves) == [(s, k) for s in range(3) for k in ("deeper", "wider")]
    ((group, whole),) = joint.groups(spec, moves)
    assert group == moves
    # Each stage a block deeper and a width wider: 20, 40 and 80 channels.
    assert [[block.c_out for block in stage] for stage in whole.stages] == [[20, 20], [40, 40], [80, 80]]
    assert [stage[0].c_in for stage in whole.stages] == [20, 20, 40]  # the stem follows
    assert whole.head.c_in == 80


def test_gates_and_growths_that_change_the_function_go_apart() -> None:
    spec = MOBILE.smallest()
    found = joint.groups(spec, MOBILE.grow(spec))
    for group, whole in found:
        gates = {move.kind == "se" for move in group}
        assert len(gates) == 1
        assert preserves(spec, whole) or len(group) == 1
    assert sum(len(group) for group, _ in found) == len(MOBILE.grow(spec))
    alone = [group[0] for group, whole in found if not preserves(spec, whole)]
    assert {move.kind for move in alone} <= {"expand"}  # a first expansion inserts a convolution


@pytest.mark.parametrize("space", [WIDE, MOBILE], ids=["wide", "mobile"])
def test_together_they_keep_the_function(space: ChainSpace) -> None:
    spec = space.uniform()[2]
    net = build(spec, seed=0).eval()
    images, _ = problem(8)
    for _, whole in joint.groups(spec, space.grow(spec)):
        with torch.no_grad():
            assert torch.allclose(inherit(net, spec, whole, seed=1)(images), net(images), atol=1e-5)


def test_two_of_one_kind_in_one_stage_contradict() -> None:
    spec = WIDE.smallest()
    once, twice = (Move(2, "wider", further(WIDE, spec, 2, n, "wider"), n) for n in (1, 2))
    assert joint.merged(spec, [once, twice]) is None
    assert [group for group, _ in joint.groups(spec, [once, twice])] == [[once], [twice]]


def test_a_part_of_a_gradient_by_hand() -> None:
    # Two outputs of two inputs grow to three of three; a growth of the inputs alone adds a column of two.
    grad = torch.arange(9.0).reshape(3, 3)
    assert joint.added(grad, (2, 2), (2, 3)).tolist() == [2.0, 5.0]
    assert joint.added(grad, (2, 2), (3, 2)).tolist() == [6.0, 7.0]
    assert joint.added(grad, None, (2, 2)).tolist() == [0.0, 1.0, 3.0, 4.0]
    # A kernel of 1 in one of 3: the rim of eight, without the middle.
    rim = joint.added(torch.arange(9.0).reshape(1, 1, 3, 3), (1, 1, 1, 1), (1, 1, 3, 3))
    assert rim.tolist() == [0.0, 1.0, 2.0, 3.0, 5.0, 6.0, 7.0, 8.0]
    with pytest.raises(InputError, match="not contained in"):
        joint.added(grad, (2, 2), (4, 2))


def test_shapes_are_those_of_the_built_network() -> None:
    spec = MOBILE.uniform()[1]
    built = {name: tuple(value.shape) for name, value in build(spec, seed=0).named_parameters()}
    assert joint.shapes(spec) == built


@pytest.mark.parametrize("space", [WIDE, MOBILE], ids=["wide", "mobile"])
def test_a_growth_has_the_gradient_in_company_that_it_has_alone(space: ChainSpace) -> None:
    """The network of one growth with the weights of the network of all: the same gradients of what is new."""
    spec = space.uniform()[2]
    net = build(spec, seed=0).eval()
    images, labels = problem(16)
    old = joint.shapes(spec)
    for group, whole in joint.groups(spec, space.grow(spec)):
        every = inherit(net, spec, whole, seed=1)
        joint.isolate(every, old, [joint.shapes(move.spec) for move in group])
        of_every = gradients(_open(copy.deepcopy(every), net), images, labels)
        for move in group:
            alone = build(move.spec, seed=2)
            state = alone.state_dict()
            for name, value in every.state_dict().items():
                if name in state and value.ndim:
                    state[name] = value[joint._place(tuple(state[name].shape), tuple(value.shape))]
            alone.load_state_dict(state)
            single = gradients(_open(alone, net), images, labels)
            shapes = joint.shapes(move.spec)
            changed = [n for n in single if len(shapes[n]) >= 2 and shapes[n] != old.get(n)]
            assert changed
            for name in changed:
                mine = joint.added(single[name], old.get(name), shapes[name])
                theirs = joint.added(of_every[name], old.get(name), shapes[name])
                assert torch.allclose(mine, theirs, atol=1e-6, rtol=1e-3), (move.stage, move.kind, name)


def gradients(net: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
    loss = torch.nn.functional.cross_entropy(net.train()(images), labels)
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return {name: value.grad for name, value in net.named_parameters() if value.grad is not None}
