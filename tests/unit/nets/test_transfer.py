"""Weights of a training on other data, as the start of the networks of a search: value by value."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch

from hwnas.arrays import Float32s
from hwnas.nets import growth
from hwnas.nets.build import build, weights
from hwnas.nets.spaces import make
from hwnas.nets.transfer import Initial
from hwnas.spec import NetworkSpec
from hwnas.store import parse

SHAPE = (1, 8, 8)


def network(classes: int = 10) -> NetworkSpec:
    """Two blocks in each of three stages."""
    smallest = make("resnet-cifar", input_shape=SHAPE, classes=classes).smallest()
    return smallest.grow(0).grow(1).grow(2)


def other_classes(spec: NetworkSpec, classes: int) -> NetworkSpec:
    head = {**spec.head.model_dump(), "c_out": classes}
    return parse(NetworkSpec, {**spec.model_dump(), "head": head}, "network")


def trained(spec: NetworkSpec) -> dict[str, Float32s]:
    """Values that no fresh network has."""
    rng = np.random.default_rng(1)
    own = weights(build(spec, seed=1))
    return {name: rng.uniform(0.5, 1.5, value.shape).astype(np.float32) for name, value in own.items()}


def begun(initial: Initial, spec: NetworkSpec) -> dict[str, Float32s]:
    return weights(initial.begin(spec, seed=7))


def same(one: Mapping[str, Float32s], other: Mapping[str, Float32s], names: list[str]) -> bool:
    return all(np.array_equal(one[name], other[name]) for name in names)


@pytest.mark.parametrize("known", [True, False])
def test_an_equal_network_takes_all_but_a_classifier_of_other_classes(known: bool) -> None:
    spec = network()
    given, fresh = trained(spec), weights(build(spec, seed=7))
    for classifier in (True, False):
        initial = Initial(given, spec if known else None, classifier, "")
        state = begun(initial, spec)
        head = [name for name in state if name.startswith("head.")]
        assert same(state, given, [name for name in state if name not in head])
        assert same(state, given if classifier else fresh, head)
        assert len(initial.places(spec)) == len(spec.blocks) - (not classifier)
    fewer = other_classes(spec, 3)
    state = begun(Initial(given, spec if known else None, False, ""), fewer)
    assert state["head.linear.weight"].shape[0] == 3
    assert same(state, weights(build(fewer, seed=7)), head)
    assert same(state, given, [name for name in given if name not in head])


@pytest.mark.parametrize("known", [True, False])
def test_a_deeper_network_takes_the_shared_blocks(known: bool) -> None:
    spec = network()
    deeper = spec.grow(1)
    given, fresh = trained(spec), weights(build(deeper, seed=7))
    initial = Initial(given, spec if known else None, True, "")
    state = begun(initial, deeper)
    assert same(state, given, list(given))
    new = [name for name in state if name.startswith("stages.1.2.")]
    assert sorted(new) == sorted(state.keys() - given.keys())
    assert "stages.1.2" not in initial.places(deeper)
    if known:  # an inserted residual block begins as an identity, so that the function is the old one
        images = torch.rand(4, *SHAPE)
        with torch.inference_mode():
            first = Initial(given, spec, True, "").begin(spec, seed=0).eval()(images)
            assert torch.allclose(initial.begin(deeper, seed=7).eval()(images), first, rtol=1e-4)
    else:
        assert same(state, fresh, new)


def test_a_wider_network_takes_the_channels_that_both_have() -> None:
    narrow = network()
    blocks = [
        [{**block.model_dump(), "c_in": 2 * block.c_in, "c_out": 2 * block.c_out} for block in stage]
        for stage in narrow.stages
    ]
    stem = {**narrow.stem.model_dump(), "c_out": 2 * narrow.stem.c_out}
    head = {**narrow.head.model_dump(), "c_in": 2 * narrow.head.c_in}
    body = {**narrow.model_dump(), "stem": stem, "stages": blocks, "head": head}
    wide = parse(NetworkSpec, body, "network")
    given = trained(narrow)
    name = next(name for name in given if name.startswith("stages.1.1.") and given[name].ndim == 4)
    n = len(given[name])
    state = begun(Initial(given, narrow, True, ""), wide)
    assert np.array_equal(state[name][:n, :n], given[name])
    assert not state[name][:n, n:].any()  # old outputs do not read new channels
    fresh = weights(build(wide, seed=7))
    assert np.array_equal(state[name][n:], fresh[name][n:])
    # Of a bare file nothing but the shapes is known, and no block has them.
    assert Initial(given, None, True, "").places(wide) == ()
    back = begun(Initial(trained(wide), wide, True, ""), narrow)
    assert np.array_equal(back[name], trained(wide)[name][:n, :n])


def test_a_network_of_other_blocks_begins_with_new_weights() -> None:
    spec = network()
    other = make("mbv2-cifar", input_shape=SHAPE, classes=10).smallest()
    for known in (spec, None):
        initial = Initial(trained(spec), known, True, "")
        assert initial.places(other) == ()
        fresh = weights(build(other, seed=7))
        assert same(begun(initial, other), fresh, list(fresh))


def test_networks_that_are_built_differently_hand_nothing_on() -> None:
    spec = network()
    convention = "torch" if spec.convention == "keras" else "keras"
    other = parse(NetworkSpec, {**spec.model_dump(), "convention": convention}, "network")
    assert growth.carried(spec, other) == ()
    assert growth.carried(spec, spec) == tuple(place for place, _ in spec.walk())
