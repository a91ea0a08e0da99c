"""Every space keeps the promises of `hwnas.protocols.SearchSpace`."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from nets_random import SEEDS, SPACES, space

from hwnas import plugins
from hwnas.nets.count import count
from hwnas.protocols import SearchSpace

SOME = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
EVERY_SPACE = pytest.mark.parametrize("name", SPACES)


def test_every_registered_space_is_tested() -> None:
    assert set(SPACES) == set(plugins.BUILT_IN["spaces"])


@EVERY_SPACE
def test_is_a_search_space(name: str) -> None:
    shape, classes = SPACES[name]
    least = space(name).smallest()
    assert isinstance(space(name), SearchSpace)
    assert (space(name).name, least.space, least.input_shape, least.classes) == (name, name, shape, classes)


@EVERY_SPACE
@SOME
@given(seed=SEEDS)
def test_members(name: str, seed: int) -> None:
    s, rng = space(name), np.random.default_rng(seed)
    keys = set(s.blocks())
    spec = s.sample(rng)
    neighbour = s.mutate(spec, rng)
    assert neighbour.key != spec.key
    for member in (spec, neighbour, *(move.spec for move in s.grow(spec))):
        assert member in s
        assert set(member.blocks) <= keys
        assert member.model_copy(update={"name": "renamed", "space": ""}) in s
    assert s.sample(np.random.default_rng(seed)) == spec


@EVERY_SPACE
@SOME
@given(seed=SEEDS)
def test_moves_grow(name: str, seed: int) -> None:
    s = space(name)
    spec = s.sample(np.random.default_rng(seed))
    moves = s.grow(spec)
    assert len({move.spec.key for move in moves}) == len(moves)
    for move in moves:
        assert move.kind in ("deeper", "wider", "kernel", "expand", "se")
        assert 0 <= move.stage < len(spec.stages)
        assert count(move.spec).macs > count(spec).macs
        deeper = move.spec.depths[move.stage] - spec.depths[move.stage]
        assert deeper == (move.kind == "deeper")


@EVERY_SPACE
def test_growth_from_the_smallest_reaches_an_end(name: str) -> None:
    s, rng = space(name), np.random.default_rng(0)
    spec = s.smallest()
    assert spec in s
    for _ in range(12):
        moves = s.grow(spec)
        spec = moves[int(rng.integers(len(moves)))].spec
        assert spec in s


@EVERY_SPACE
def test_uniform_members_grow(name: str) -> None:
    s = space(name)
    ladder = s.uniform()
    macs = [count(spec).macs for spec in ladder]
    assert macs == sorted(macs)
    assert len(set(macs)) == len(macs) >= 4
    assert all(spec in s for spec in ladder)
    assert macs[0] == count(s.smallest()).macs


@EVERY_SPACE
@SOME
@given(seed=SEEDS)
def test_the_smallest_is_smallest(name: str, seed: int) -> None:
    s = space(name)
    assert count(s.sample(np.random.default_rng(seed))).macs >= count(s.smallest()).macs


@EVERY_SPACE
def test_blocks_are_distinct_and_no_more_than_needed(name: str) -> None:
    s, rng = space(name), np.random.default_rng(1)
    blocks = s.blocks()
    assert len({block.key for block in blocks}) == len(blocks)
    assert blocks == s.blocks()
    # Random walks find most of a small space's blocks: the list is not padded with impossible ones.
    if len(blocks) < 100:
        seen = {b for _ in range(400) for b in s.sample(rng).blocks}
        assert seen == set(blocks)


@EVERY_SPACE
def test_strangers_are_no_members(name: str) -> None:
    s = space(name)
    spec = s.smallest()
    assert "resnet20" not in s
    other = spec.head.model_copy(update={"c_out": spec.classes + 1})
    assert spec.model_copy(update={"head": other}) not in s
    odd = spec.stages[0][0].model_copy(update={"act": "hswish"})
    assert spec.replace_stage(0, (odd, *spec.stages[0][1:])) not in s
    deep = spec
    for _ in range(25):
        deep = deep.replace_stage(0, (*deep.stages[0], deep.stages[0][-1].repeated()))
    assert deep not in s
