"""Spaces over levels: sizes against brute force, the published graph, errors that name the level."""

from itertools import product

import numpy as np
import pytest

from hwnas import plugins
from hwnas.errors import InputError
from hwnas.nets import spaces
from hwnas.nets.chainspace import ChainSpace
from hwnas.nets.levels import Gene, Level, Operator

A, B = Operator("basic"), Operator("bottleneck", expand=4)


def tiny(**changes: object) -> ChainSpace:
    """Four levels; level 1 may be left out: paths 0-1-2, 0-2, 0-1-3, 0-3."""
    fields: dict[str, object] = {
        "name": "tiny",
        "input_shape": (3, 8, 8),
        "classes": 4,
        "levels": (
            Level(8, 0, (A,), (1, 2), 0),
            Level(12, 1, (A, B), (1, 1), 1),
            Level(16, 1, (A, B), (1, 2), 2),
            Level(20, 1, (A,), (2, 3), 2),
        ),
        "edges": frozenset({(0, 1), (0, 2), (1, 2), (0, 3), (1, 3)}),
        "starts": (0,),
        "ends": (2, 3),
        "reference": (0, 2),
    }
    return ChainSpace(**(fields | changes))  # type: ignore[arg-type]  # fields of several types


def every_member(space: ChainSpace) -> set[str]:
    """Keys of all members, by listing every choice."""

    def variants(level: Level) -> list[tuple[Operator, ...]]:
        depths = range(level.depth[0], level.depth[1] + 1)
        return [ops for n in depths for ops in product(level.operators, repeat=n)]

    paths = [(0, 1, 2), (0, 2), (0, 1, 3), (0, 3)]
    genes = [Gene(p, ops) for p in paths for ops in product(*(variants(space.levels[i]) for i in p))]
    keys = {space.express(gene).key for gene in genes}
    assert len(keys) == len(genes)
    return keys


def test_members_are_counted_and_reached() -> None:
    space, rng = tiny(), np.random.default_rng(0)
    everything = every_member(space)
    # Level 0: 2; level 1: 2; level 2: 2 + 4; level 3: 2. Sum over paths 2*(2*6 + 6 + 2*2 + 2) = 48.
    assert space.members == len(everything) == 48
    assert {space.sample(rng).key for _ in range(2000)} == everything
    walk, seen = space.smallest(), set()
    for _ in range(3000):
        walk = space.mutate(walk, rng)
        seen.add(walk.key)
    assert seen == everything


def test_paths_are_drawn_evenly() -> None:
    space, rng = tiny(), np.random.default_rng(0)
    paths = [space.gene(space.sample(rng)).path for _ in range(2000)]
    for path in ((0, 1, 2), (0, 2), (0, 1, 3), (0, 3)):
        # 500 expected, standard deviation sqrt(2000 * 1/4 * 3/4) = 19.4: five of them are 97.
        assert abs(paths.count(path) - 500) < 97


def test_smallest_is_found_among_all() -> None:
    from hwnas.nets.count import count

    space, rng = tiny(), np.random.default_rng(0)
    least = min((space.sample(rng) for _ in range(1000)), key=lambda spec: count(spec).macs)
    assert space.smallest().key == least.key


def test_moves_of_a_member() -> None:
    space = tiny()
    spec = space.express(Gene((0, 1, 2), ((A,), (B,), (A,))))
    moves = {(move.kind, move.stage): space.gene(move.spec) for move in space.grow(spec)}
    assert moves == {
        ("deeper", 0): Gene((0, 1, 2), ((A, A), (B,), (A,))),
        ("deeper", 2): Gene((0, 1, 2), ((A,), (B,), (A, A))),
        ("wider", 2): Gene((0, 1, 3), ((A,), (B,), (A, A))),  # at least two blocks there
    }


def test_raises_take_the_least_value_of_the_stage() -> None:
    space = spaces.make("mbv2-cifar")
    assert isinstance(space, ChainSpace)
    ops = (Operator("mbconv", 3, 3), Operator("mbconv", 5, 1), Operator("mbconv", 3, 6, 0.25))
    low, tail = (Operator("mbconv", 7, 6, 0.25),), (Operator("conv", 1),)
    spec = space.express(Gene((0, 1, 2, 3), (low, ops, low, tail)))
    moves = {(m.kind, m.stage): space.gene(m.spec).operators[1] for m in space.grow(spec) if m.stage == 1}
    assert moves[("kernel", 1)] == (Operator("mbconv", 5, 3), ops[1], Operator("mbconv", 5, 6, 0.25))
    assert moves[("expand", 1)] == (ops[0], Operator("mbconv", 5, 3), ops[2])
    assert moves[("se", 1)] == (Operator("mbconv", 3, 3, 0.25), Operator("mbconv", 5, 1, 0.25), ops[2])


def test_densenas_graph() -> None:
    # seeds 1.1: 54 edges, 15,456 paths, 1.06e44 networks once skips are removed.
    space = spaces.make("mbv2-imagenet", input_shape=(3, 224, 224), classes=1000)
    assert isinstance(space, ChainSpace)
    assert len(space.edges) == 54
    assert space.paths_from[0] == 15_456
    assert f"{space.members:.2e}" == "1.06e+44"


def test_described_for_people() -> None:
    text = spaces.describe(spaces.make("resnet-cifar-wide", input_shape=(3, 28, 28)))
    assert text["input_shape"] == [3, 28, 28]
    assert [stage["sizes"] for stage in text["stages"]] == [[28], [14], [7]]
    assert 20 in text["stages"][0]["widths"]
    assert text["blocks"] == len(spaces.make("resnet-cifar-wide").blocks())
    chains = spaces.describe(spaces.make("macromicro"))
    # 57 widths; 4 choices for each of 10 to 100 layers: the sum of a geometric series.
    assert chains["members"] == 57 * (4**101 - 4**10) // 3
    assert [stage["depth"] for stage in chains["stages"]] == [[3, 34]] * 3
    cells = spaces.describe(spaces.make("nasnet-cifar"))
    assert (cells["members"], cells["blocks"]) == (12**3, 15)
    assert [stage["widths"] for stage in cells["stages"]] == [[192], [384], [768]]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"edges": frozenset({(0, 1), (1, 2)})}, r"level 3 \(20 channels, stage 2\) is on no path"),
        ({"edges": frozenset({(0, 2), (0, 3)})}, r"level 1 \(12 channels, stage 1\) is on no path"),
        ({"edges": frozenset({(1, 0)})}, "from level 1 to level 0"),
        ({"input_shape": (3, 0, 6)}, "images with pixels, not 3x0x6"),
        ({"classes": 1}, "at least two classes"),
        ({"levels": (Level(8, 0, (A,)), Level(8, 2, (A,)))}, "from level 0 to level 1"),
    ],
)
def test_wrong_declarations(changes: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        tiny(**changes)


@pytest.mark.parametrize("name", plugins.BUILT_IN["spaces"])
def test_every_space_has_its_own_input(name: str) -> None:
    large = "imagenet" in name or name in ("densenas-mbv2", "densenas-resnet")
    spec = spaces.make(name).smallest()
    assert (spec.input_shape, spec.classes) == (((3, 224, 224), 1000) if large else ((3, 32, 32), 10))
    asked = spaces.make(name, input_shape=(1, 20, 20), classes=3).smallest()
    assert (asked.input_shape, asked.classes) == ((1, 20, 20), 3)


def test_unknown_space() -> None:
    with pytest.raises(InputError, match="did you mean 'resnet-cifar'"):
        spaces.make("resnet-cifr")


def test_strangers_cannot_be_changed() -> None:
    stranger = spaces.make("mbv2-cifar").smallest()
    space = spaces.make("resnet-cifar")
    for change in (space.grow, lambda spec: space.mutate(spec, np.random.default_rng(0))):
        with pytest.raises(InputError, match="is not in the space resnet-cifar"):
            change(stranger)
