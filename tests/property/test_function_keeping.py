"""Growth keeps the function wherever it says so, and it says so for every move but two."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from nets_random import DISTINCT, SEEDS, images, randomised, sample, space

from hwnas.nets.build import Network, inherit
from hwnas.nets.growth import preserves
from hwnas.spec import BlockSpec, NetworkSpec

FEW = settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def difference(net: Network, before: NetworkSpec, after: NetworkSpec) -> float:
    """Largest change of a score, relative to the largest score where that is over one.

    The weights are inherited as they are, in single precision; the outputs are computed in double, or
    the rounding of large sums would hide behind the 1e-6 that is promised, and now and then exceed it.
    """
    grown = inherit(net, before, after, seed=7)
    assert not grown.training
    x = images(before, 1, n=1).double()
    with torch.no_grad():
        old, new = copy.deepcopy(net).double()(x), grown.double()(x)
    return float((old - new).abs().max() / max(1.0, float(old.abs().max())))


INVERTED = ("mbconv", "fused_mbconv")


def expected(kind: str, before: NetworkSpec, after: NetworkSpec, stage: int) -> bool:
    """Whether a move keeps the function: not those of cells, two of inverted residuals, wider ConvNeXts.

    Without an expansion the depthwise convolution reads the input itself, with one it reads
    activated values; only the stem's output is activated already. And where the width changes at
    stride 1, an inverted residual gains or loses its identity.
    """
    if before.stages[0][0].c_skip:
        return False
    if kind == "wider":
        inverted = [pair for pair in zip(before.blocks, after.blocks) if pair[0].kind in INVERTED]
        layer_norms = any(block.kind == "convnext" for block in before.blocks)
        return not layer_norms and all(a.joins_identity == b.joins_identity for a, b in inverted)
    blocks = before.stages[stage][stage == 0 :]
    return kind != "expand" or all(b.kind != "mbconv" or b.expand > 1 for b in blocks)


@pytest.mark.parametrize("name", DISTINCT)
@FEW
@given(seed=SEEDS)
def test_every_move(name: str, seed: int) -> None:
    spec = sample(name, seed, deepest=16)
    net, moves = randomised(spec, seed), space(name).grow(spec)
    for move in moves:
        exact = expected(move.kind, spec, move.spec, move.stage)
        assert preserves(spec, move.spec) == exact, (move.kind, move.stage)
    # Four moves of each network are tried: the large spaces offer twenty.
    for i in np.random.default_rng(seed).permutation(len(moves))[:4]:
        if preserves(spec, moves[i].spec):
            assert difference(net, spec, moves[i].spec) <= 1e-6, (moves[i].kind, moves[i].stage)


@pytest.mark.parametrize("name", [name for name in DISTINCT if name != "nasnet-cifar"])
def test_many_moves_at_once(name: str) -> None:
    spec = space(name).smallest()
    net = randomised(spec, 3)
    grown, rng = spec, np.random.default_rng(3)
    for _ in range(6):
        kept = [move.spec for move in space(name).grow(grown) if preserves(spec, move.spec)]
        grown = kept[int(rng.integers(len(kept)))]
    assert len(grown.blocks) > len(spec.blocks) or grown.stages != spec.stages
    assert difference(net, spec, grown) <= 1e-6


# One block of every kind in a stage of its own, between a stem and a head that suit it.
def chain(*blocks: BlockSpec, stem_act: str = "relu", convention: str = "torch") -> NetworkSpec:
    first, last = blocks[0], blocks[-1]
    stem = {"kind": "conv", "c_in": 3, "c_out": first.c_in, "act": stem_act, "size_in": first.size_in}
    head = {"kind": "classifier", "c_in": last.c_out, "c_out": 5, "kernel": 1, "size_in": last.size_out}
    return NetworkSpec.model_validate(
        {"stem": stem, "stages": [blocks], "head": head | {"act": "none"}, "convention": convention}
    )


def block(kind: str, **fields: object) -> BlockSpec:
    return BlockSpec.model_validate({"kind": kind, "c_in": 8, "c_out": 8, "size_in": 9, **fields})


KINDS = [
    block("conv"),
    block("conv", kernel=1, act="relu6"),
    block("conv", act="none"),
    block("basic"),
    block("bottleneck", expand=4),
    block("mbconv", act="relu6", expand=3, se=0.25),
    block("mbconv", act="swish", kernel=5),
    block("mbconv_full", act="hswish"),
]


@pytest.mark.parametrize("convention", ["torch", "keras"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda b: b.key)
def test_deeper_keeps_the_function_of_every_kind(kind: BlockSpec, convention: str) -> None:
    spec = chain(kind, convention=convention)
    net = randomised(spec, 5)
    assert preserves(spec, spec.grow(0, 2))
    assert difference(net, spec, spec.grow(0, 2)) <= 1e-6


@pytest.mark.parametrize("kind", ["sep_preact", "conv_preact"])
def test_deeper_preactivation_chains(kind: str) -> None:
    first, layer = block(kind, c_in=4, stride=2, size_in=17), block(kind, kernel=5)
    spec = chain(first, layer, layer)
    # The new layer stands before the last one, whose ReLU finds an activated value.
    assert preserves(spec, spec.grow(0))
    assert difference(randomised(spec, 5), spec, spec.grow(0)) <= 1e-6
    # After a transition alone there is no such place in the last stage: its output would be cut at zero.
    alone = chain(first)
    assert not preserves(alone, alone.grow(0))
    assert difference(randomised(alone, 5), alone, alone.grow(0)) > 1e-3
    # In a stage that another follows, there is.
    head = BlockSpec(kind="classifier", c_in=8, c_out=5, kernel=1, act="none", size_in=9)
    two = NetworkSpec(stem=alone.stem, stages=((first,), (layer,)), head=head)
    assert preserves(two, two.grow(0))
    assert difference(randomised(two, 5), two, two.grow(0)) <= 1e-6


def test_separable_becomes_full_convolution() -> None:
    layer = block("sep_preact", c_out=12)
    full = layer.model_copy(update={"kind": "conv_preact", "kernel": 5})
    before, after = chain(layer), chain(full)
    assert preserves(before, after)
    assert difference(randomised(before, 2), before, after) <= 1e-6


def test_first_expansion_is_exact_only_on_activated_input() -> None:
    one, three = block("mbconv", act="relu6"), block("mbconv", act="relu6", expand=3)
    before, after = chain(one, stem_act="relu6"), chain(three, stem_act="relu6")
    assert preserves(before, after)
    assert difference(randomised(before, 2), before, after) <= 1e-6
    before, after = chain(one, one), chain(one, three)
    assert not preserves(before, after)
    assert difference(randomised(before, 2), before, after) > 1e-4


def test_other_activations_are_not_idempotent() -> None:
    spec = chain(block("basic", act="swish"), stem_act="swish")
    assert not preserves(spec, spec.grow(0))


def test_identity_that_comes_or_goes_is_not_exact() -> None:
    joined, widened = chain(block("mbconv", expand=2)), chain(block("mbconv", expand=2, c_out=12))
    assert not preserves(joined, widened)
    # A basic block gains a 1x1 shortcut instead, which starts as the identity.
    joined, widened = chain(block("basic")), chain(block("basic", c_out=12))
    assert preserves(joined, widened)
    assert difference(randomised(joined, 2), joined, widened) <= 1e-6
    assert not preserves(widened, joined)


@pytest.mark.parametrize("name", DISTINCT)
@FEW
@given(seed=SEEDS)
def test_any_pair_of_members_can_be_joined(name: str, seed: int) -> None:
    before, after = sample(name, seed, deepest=24), sample(name, seed + 1, deepest=24)
    grown = inherit(randomised(before, seed), before, after, seed=1)
    with torch.no_grad():
        assert torch.isfinite(grown(images(after, seed))).all()


@pytest.mark.parametrize("name", ["resnet-cifar-wide", "mbv2-cifar"])
def test_equal_in_single_precision(name: str) -> None:
    spec = sample(name, 11, deepest=16)
    net, x = randomised(spec, 11), images(spec, 11)
    for move in space(name).grow(spec):
        if preserves(spec, move.spec):
            with torch.no_grad():
                change = (inherit(net, spec, move.spec, seed=7)(x) - net(x)).abs().max()
            assert float(change) <= 1e-6


def test_inherit_leaves_the_parent_alone_and_copies_its_mode() -> None:
    spec = sample("resnet-cifar", 1, deepest=12)
    net = randomised(spec, 1).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    grown = inherit(net, spec, spec.grow(1), seed=0)
    assert grown.training
    with torch.no_grad():
        for value in grown.state_dict().values():
            value.add_(1)
    for name, value in net.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
