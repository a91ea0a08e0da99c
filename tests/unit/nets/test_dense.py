"""Dense spaces: published counts, the edge rule by hand, descriptions that cannot work are refused."""

import copy
import dataclasses
from itertools import pairwise

import pytest

from hwnas.errors import InputError
from hwnas.nets.densenas.graph import SKIP, DenseSpace, RoutingBlock, densenas_mbv2, densenas_resnet
from hwnas.nets.densenas.layers import candidates, layer_places


def test_published_counts() -> None:
    mbv2, resnet = densenas_mbv2(), densenas_resnet()
    assert (len(mbv2.edges), mbv2.paths) == (54, 15_456)
    assert (len(resnet.edges), resnet.paths) == (87, 540_225)
    assert [len(e) for e in mbv2.in_edges][1:] == [1, 1, 2, 3, 3, 4, 4, 3, 4, 4, 3, 4, 4, 3, 4, 4, 3]


def test_a_space_that_travelled_has_the_same_layers() -> None:
    """Skips as well, which are no object of this process any more."""
    space = densenas_mbv2()
    travelled = copy.deepcopy(space)
    for mine, theirs in zip(layer_places(space), layer_places(travelled), strict=True):
        assert candidates(travelled, theirs) == candidates(space, mine)
    # Every stacked layer may be left out.
    assert sum(None in candidates(travelled, place) for place in layer_places(travelled)) == sum(
        block.stack for block in space.routing
    )


def test_paths_are_counted_as_by_listing_them() -> None:
    space = densenas_mbv2()

    def listed(i: int) -> int:
        return 1 if i == space.sink else sum(listed(j) for j in space.out_edges[i])

    assert listed(0) == space.paths


def test_edge_rule_by_hand() -> None:
    edges = set(densenas_mbv2().edges)
    assert {(0, 1), (1, 2), (1, 4), (2, 5), (4, 7)} <= edges
    assert (0, 2) not in edges  # two stages ahead
    assert (2, 7) not in edges  # five blocks ahead, the reach is four
    assert densenas_mbv2().in_edges[5] == (4, 3, 2)  # nearest first


def test_a_path_becomes_a_network() -> None:
    space = densenas_mbv2(classes=10)
    k3t3, k3t6 = space.head_ops[:2]
    net = space.network(
        [0, 1, 4, 6, 10, 12, 16, 17], [k3t6] * 7, [(), (k3t3, SKIP, SKIP), (), (), (), (), ()]
    )
    assert net.depths == (1, 1, 2, 1, 1, 1, 1, 1)  # fixed block, six routing blocks, the 1x1 tail
    assert [s[0].c_out for s in net.stages] == [16, 24, 48, 64, 128, 176, 384, 1984]
    assert net.stages[2][1].expand == 3
    assert net.head.c_in == 1984
    assert net.head.size_in == 7


def test_the_residual_space_drops_its_tail() -> None:
    space = densenas_resnet()
    path = [0, 1, 4, 7, 11, 14, 18, 21]
    assert set(pairwise(path)) <= set(space.edges)
    net = space.network(path, [space.head_ops[0]] * 7, [()] * 7)
    assert net.head.c_in == 480


@pytest.mark.parametrize("path", [[0], [0, 1], [0, 2, 17], [1, 2]])
def test_what_is_no_path_is_refused(path: list[int]) -> None:
    space = densenas_mbv2()
    with pytest.raises(InputError, match="not a path"):
        space.network(path, [space.head_ops[0]] * 8, [()] * 8)


def with_routing(change: dict[int, RoutingBlock | None]) -> DenseSpace:
    space = densenas_mbv2()
    kept = [change.get(i, block) for i, block in enumerate(space.routing)]
    return dataclasses.replace(space, routing=tuple(b for b in kept if b is not None))


def test_a_block_left_without_edges_out_is_named() -> None:
    # without stage 3 the last block of stage 2 stands beside stage 4: two stages ahead
    with pytest.raises(InputError, match=r"block 4 \(48 channels at 28x28, stage 2\) has no outgoing edge"):
        with_routing({5: None, 6: None, 7: None})


def test_sizes_that_no_stride_joins_are_refused() -> None:
    with pytest.raises(InputError, match=r"block 0 .* has no outgoing edge"):
        with_routing({1: RoutingBlock(24, 28, 1, 3)})
