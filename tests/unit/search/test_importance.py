"""Importances against independent computations, and on networks whose answer is known."""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch.nn.grad import conv2d_weight

from hwnas.errors import InputError
from hwnas.nets.build import Network, build, fresh, inherit, weights
from hwnas.nets.spaces import make as make_space
from hwnas.protocols import Move, Question
from hwnas.records import StageImportance
from hwnas.search.importance.gradient import Gradient, _share, _squared_mean
from hwnas.search.importance.judge import make
from hwnas.search.importance.probe import Probe, _mean_and_error
from hwnas.search.importance.vip import Vip, pooled_features, vip
from hwnas.search.moves import further

Array = NDArray[np.float64]
SPACE = make_space("resnet-cifar", input_shape=(3, 16, 16), classes=4)
SPEC = SPACE.smallest()


def problem(n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Four classes of images that differ in the direction of a wave, in noise."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(4, size=n)
    y, x = np.mgrid[0:16, 0:16]
    waves = [np.sin(x), np.sin(y), np.sin(x + y), np.sin(x - y)]
    images = np.stack([waves[label] for label in labels])[:, None] + 1.5 * rng.standard_normal((n, 3, 16, 16))
    return torch.from_numpy(images.astype(np.float32)), torch.from_numpy(labels)


def trained(steps: int = 20) -> Network:
    torch.set_num_threads(1)
    net = fresh(SPEC, seed=1)
    images, labels = problem(32 * steps)
    optimiser = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    for at in range(steps):
        part = slice(32 * at, 32 * at + 32)
        optimiser.zero_grad()
        F.cross_entropy(net(images[part]), labels[part]).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        optimiser.step()
    return net.eval()


@pytest.fixture(scope="module")
def net() -> Network:
    return trained()


def pls_vip(x: Array, y: Array, components: int) -> Array:
    """VIP by the NIPALS recursion written out (Wold 1966; Mehmood et al. 2012, eq. 5), without a library.

    The dominant direction of each step is taken from a singular value decomposition.
    """
    x = (x - x.mean(0)) / x.std(0, ddof=1)
    y = (y - y.mean(0)) / y.std(0, ddof=1)
    total, explained = np.zeros(x.shape[1]), 0.0
    for _ in range(components):
        w = np.linalg.svd(x.T @ y, full_matrices=False)[0][:, 0]
        t = x @ w
        q = y.T @ t / (t @ t)
        p = x.T @ t / (t @ t)
        s = (t @ t) * (q @ q)
        total += s * w**2
        explained += s
        x, y = x - np.outer(t, p), y - np.outer(t, q)
    return np.sqrt(len(total) * total / explained)


@pytest.mark.parametrize("components", [1, 2, 3])
def test_vip_equals_an_independent_computation(components: int) -> None:
    rng = np.random.default_rng(5)
    x = rng.standard_normal((200, 30))
    labels = (x[:, 0] + 0.5 * x[:, 1] > 0).astype(int) + (x[:, 2] > 0.5)
    y = np.eye(3)[labels]
    assert vip(x, y, components) == pytest.approx(pls_vip(x, y, components), abs=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_mean_of_vip_squared_is_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, p, classes = (int(rng.integers(*ends)) for ends in ((20, 200), (3, 60), (2, 8)))
    x = rng.standard_normal((n, p)) * rng.uniform(0.1, 10, p)
    score = vip(x, np.eye(classes)[rng.integers(classes, size=n)], 2)
    assert (score**2).mean() == pytest.approx(1.0)
    assert score.mean() <= 1.0


def test_vip_is_one_where_all_features_matter_equally_and_zero_for_dead_ones() -> None:
    labels = np.arange(100) % 2
    same = np.repeat(labels[:, None].astype(float), 6, axis=1)
    y = np.eye(2)[labels]
    assert vip(same, y, 1) == pytest.approx(np.ones(6))
    with_dead = np.concatenate([same[:, :5], np.full((100, 1), 3.0)], axis=1)
    # Mean of squares is still 1 over all six: five of sqrt(6/5) and a zero.
    assert vip(with_dead, y, 1) == pytest.approx([1.2**0.5] * 5 + [0.0])
    assert vip(with_dead, np.ones((100, 1)), 1) == pytest.approx(np.zeros(6))


def test_features_of_the_cifar_skeleton_have_256_128_and_64_values() -> None:
    spec = make_space("resnet-cifar").smallest()
    found = pooled_features(build(spec, seed=0).eval(), torch.zeros(3, 3, 32, 32))
    assert [x.shape for x in found] == [(3, 256), (3, 128), (3, 64)]


def test_vip_of_a_network_with_its_bootstrap_error(net: Network) -> None:
    images, labels = problem(400, seed=7)
    rng = np.random.default_rng(0)
    found = Vip()(Question(net, SPEC, [], images, labels, rng))
    assert [one.stage for one in found] == [0, 1, 2]
    assert all(0 < one.value <= 1 for one in found)
    # Against the spread over 12 independent samples of the same size, within a factor of 2.5.
    again = []
    for seed in range(12):
        fresh = problem(400, seed=100 + seed)
        again.append([one.value for one in Vip(bootstrap=0)(Question(net, SPEC, [], *fresh, rng))])
    for one, spread in zip(found, np.std(again, axis=0, ddof=1), strict=True):
        assert spread / 2.5 < one.se < spread * 2.5
    assert Vip(bootstrap=0)(Question(net, SPEC, [], images, labels, rng))[0].se == 0.0


def test_squared_mean_by_hand_and_without_bias() -> None:
    # Products of different rows: (1,0).(0,1) = 0, (1,0).(1,1) = 1, (0,1).(1,1) = 1; mean 2/3.
    assert _squared_mean(np.array([[1.0, 0], [0, 1], [1, 1]]))[0] == pytest.approx(2 / 3)
    rng = np.random.default_rng(0)
    pairs = [_squared_mean(rng.standard_normal((8, 50))) for _ in range(400)]
    value, se = np.array(pairs).T
    # Noise without a mean: zero on average, where the plain square would give 50 / 8 = 6.25.
    assert abs(value.mean()) < 4 * value.std() / 20
    assert value.std() < np.sqrt((se**2).mean()) < 2 * value.std()
    pairs = [_squared_mean(1.0 + rng.standard_normal((8, 50))) for _ in range(400)]
    value, se = np.array(pairs).T
    assert abs(value.mean() - 50) < 4 * value.std() / 20
    assert np.sqrt((se**2).mean()) == pytest.approx(value.std(), rel=0.25)
    with pytest.raises(InputError, match="at least 3"):
        _squared_mean(np.zeros((2, 4)))


def test_gradient_is_that_of_the_values_which_are_new(net: Network) -> None:
    """For a block more, that of its last convolution, opened, in units of He's initial deviation."""
    images, labels = problem(192, seed=3)
    rng = np.random.default_rng(0)
    one = Gradient(images=192, batch=24, rate=1.0, diminishing=False)
    found = {(g.stage, g.kind): g for g in one(Question(net, SPEC, SPACE.grow(SPEC), images, labels, rng))}
    assert set(found) == {(0, "deeper"), (1, "deeper"), (2, "deeper")}
    assert [g.images for g in found.values()] == [192, 0, 0]  # one pass for all three

    rng = np.random.default_rng(0)
    seed = int(rng.integers(2**31))
    order = rng.permutation(192)
    every = SPEC.grow(0).grow(1).grow(2)
    grown = inherit(net, SPEC, every, seed=seed).train()
    # All that is new is the block stages.2.1. Were its last convolution zero and its last norm gone, the
    # convolution's gradient would be the correlation of what it reads with the gradient of the block's sum.
    block = grown.get_submodule("stages.2.1")
    read: dict[str, torch.Tensor] = {}
    block.get_submodule("conv2").register_forward_hook(lambda _, x, y: read.update(x=x[0]))
    block.get_submodule("conv2_norm").register_forward_hook(lambda _, x, y: read.update(y=y))
    gradients, losses = [], []
    for part in np.split(order, 8):
        loss = F.cross_entropy(grown(images[part]), labels[part])
        (of_sum,) = torch.autograd.grad(loss, [read["y"]])
        kernel = cast(Any, conv2d_weight)(read["x"], (64, 64, 3, 3), of_sum, padding=1)
        gradients.append((2 / (64 * 9)) ** 0.5 * kernel.detach().flatten().double().numpy())
        losses.append(loss.item())
    expected = _squared_mean(np.array(gradients))[0] / np.mean(losses)
    assert found[2, "deeper"].value == pytest.approx(expected, rel=1e-4)


def test_returns_of_depth_and_width_diminish() -> None:
    """1 to 2 blocks: log2(2) = 1. 2 to 4: log2(2) / 2 = 0.5 a block. 16 to 96 channels: log2(6) / 5."""
    two = SPEC.grow(0)
    assert _share(SPEC, Move(0, "deeper", two)) == 1.0
    assert _share(two, Move(0, "deeper", two.grow(0, 2), steps=2)) == 0.5
    assert _share(two, Move(0, "kernel", two)) == 1.0
    wide = make_space("resnet-cifar-wide")
    wider = further(wide, wide.smallest(), 2, 7, "wider")
    assert _share(wide.smallest(), Move(2, "wider", wider, steps=7)) == pytest.approx(math.log2(6) / 5)


def test_gradient_of_other_kinds_of_growth() -> None:
    space = make_space("mbv2-cifar", input_shape=(3, 16, 16), classes=4)
    spec = space.smallest()
    moves = space.grow(spec)
    question = Question(build(spec, seed=0).eval(), spec, moves, *problem(64), np.random.default_rng(0))
    found = Gradient(images=64 * len(moves))(question)
    assert [(one.stage, one.kind) for one in found] == [(m.stage, m.kind) for m in moves]
    kinds = {one.kind for one in found}
    assert {"deeper", "kernel", "expand", "se"} <= kinds
    assert all(np.isfinite(one.value) and one.se >= 0 for one in found)


def test_probe_leaves_the_network_alone_and_counts_its_images(net: Network) -> None:
    before = {name: value.copy() for name, value in weights(net).items()}
    images, labels = problem(256, seed=4)
    probe = Probe(images=512)  # 4 trainings, twice: 64 images in 8 steps each
    found = probe(Question(net, SPEC, SPACE.grow(SPEC), images, labels, np.random.default_rng(0)))
    assert [one.stage for one in found] == [0, 1, 2]
    assert [one.images for one in found] == [256, 128, 128]  # the comparison is one training more
    assert all(one.se > 0 for one in found)
    after = weights(net)
    assert all(np.array_equal(after[name], value) for name, value in before.items())
    assert probe(Question(net, SPEC, SPACE.grow(SPEC), images, labels, np.random.default_rng(0))) == found


def test_the_error_of_a_probe_holds_the_chance_of_training() -> None:
    """By hand: two repeats, two growths, two held-out images."""
    drops = np.array([[[0.1, 0.3], [0.0, 0.0]], [[0.3, 0.5], [0.2, 0.2]]])
    mean, se = _mean_and_error(drops)
    # Means of repeats: 0.2 and 0.4, 0.0 and 0.2. Variance between repeats: 0.02 for both.
    # Over the images, after averaging repeats: 0.2 and 0.4 (variance 0.02), 0.1 and 0.1 (0).
    assert mean == pytest.approx([0.3, 0.1])
    assert se == pytest.approx([(0.02 / 2 + 0.02 / 2) ** 0.5, (0.02 / 2) ** 0.5])


def test_a_probe_does_not_take_chance_for_a_gain(net: Network) -> None:
    """Growths that are no growths: their drops are zero but for the chance of training."""
    images, labels = problem(400, seed=6)
    same = [Move(stage, "deeper", SPEC) for stage in range(3)]
    found = Probe(images=1024)(Question(net, SPEC, same, images, labels, np.random.default_rng(0)))
    assert [one.value for one in found] == [0.0, 0.0, 0.0]  # the same batches, the same weights
    with pytest.raises(InputError, match="at least 2 repeats"):
        Probe(repeats=1)


def test_probe_without_growths_is_empty(net: Network) -> None:
    assert Probe()(Question(net, SPEC, [], *problem(8), np.random.default_rng(0))) == ()


def test_make_by_name() -> None:
    assert isinstance(make("probe", images=32), Probe)
    assert isinstance(make("vip", images=32), Vip)
    with pytest.raises(InputError, match="did you mean 'gradient'"):
        make("gradiant", images=32)
    assert StageImportance(stage=0, value=0.1).kind == "deeper"
