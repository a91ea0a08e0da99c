"""The space of all families: what a member is, at which size, and that families differ."""

import pytest

from hwnas.errors import InputError
from hwnas.nets.families import DESIGNS, PATCH, Families, auto, widths_of
from hwnas.nets.spaces import make


def test_a_uniform_member_by_hand() -> None:
    space = auto(input_shape=(3, 32, 32), classes=10)
    halved = next(one for one in space.families if one.label == "residual, first stage halves")
    spec = halved.scaled(halved.widths.index((16, 40, 80)), 2)
    keys = [block.key for block in spec.blocks]
    assert keys == [
        "conv-3x16-k3s1e1-relu@32",
        "basic-16x16-k3s2e1-relu@32",
        "basic-16x16-k3s1e1-relu@16",
        "basic-16x40-k3s2e1-relu@16",
        "basic-40x40-k3s1e1-relu@8",
        "basic-40x80-k3s2e1-relu@8",
        "basic-80x80-k3s1e1-relu@4",
        "classifier-80x10-k1s1e1-none@4",
    ]
    assert space.family_of(spec).label == halved.label


def test_widths_are_eights_and_each_stage_is_rounded_by_itself() -> None:
    """4, 4.32, 4.67, ... channels: the first stage's rounded down; 4 times as many to the nearest eight."""
    widths = widths_of((1, 4, 4))
    # 4.32 * 4 is 17.3, 4.67 * 4 is 18.7, 5.04 * 4 is 20.2. The last stage steps first
    assert widths[:3] == ((4, 16, 16), (4, 16, 24), (4, 24, 24))
    # 15.98 * 4 is 63.9; 17.26 * 4 is 69.1. Twice as many in the first stage is a large step: before it the
    # others go on, up to 17.26 * sqrt(2) * 4, which is 97.6
    steps = [(64, 64), (64, 72), (72, 72), (72, 80), (80, 80), (80, 88), (88, 88), (88, 96), (96, 96)]
    at = widths.index((8, 64, 64))
    assert widths[at - 1 : at + 12] == (
        (8, 56, 64),
        *((8, *others) for others in steps),
        *((16, 72, 72), (16, 72, 80), (16, 80, 80)),
    )
    # from 80 channels to 88 is a small one
    at = widths.index((88, 376, 376))
    assert widths[at - 2 : at] == ((80, 344, 344), (80, 344, 376))
    assert {channels % 8 for stages in widths for channels in stages if channels != 4} == {0}
    assert list(widths) == sorted(set(widths))


def test_a_pooled_stem_by_hand() -> None:
    """Three eighths of 72 channels are 27, so 24. Halved by it, and by each of the two stages."""
    one = next(f for f in auto(input_shape=(3, 32, 32)).families if f.label == "pooled stem")
    assert [block.key for block in one.scaled(one.widths.index((72, 72)), 1).blocks] == [
        "pooled_conv-3x24-k3s2e1-relu@32",
        "pooled_conv-24x72-k3s2e1-relu@16",
        "pooled_conv-72x72-k3s2e1-relu@8",
        "classifier-72x10-k1s1e1-none@4",
    ]


def test_patches_quarter_the_image() -> None:
    space = auto(input_shape=(3, 32, 32))
    design = next(design for design in DESIGNS if design.stem == PATCH)
    stem = next(one for one in space.families if one.label == design.label).scaled(0, 1).stem
    assert (stem.kernel, stem.stride, stem.size_out) == (5, 4, 8)


@pytest.mark.parametrize("side", [8, 32, 224])
def test_every_family_has_members_for_small_and_large_images(side: int) -> None:
    space = auto(input_shape=(3, side, side))
    for one, design in zip(space.families, DESIGNS, strict=True):
        spec = one.scaled(5, 2)
        assert spec in one.space
        assert spec.input_shape == (3, side, side)
        assert len(spec.stages) == design.stages + (side == 224)
        assert len(spec.stages[0]) == (1 if design.lean else 2)
        assert {len(stage) for stage in spec.stages[1:]} == {2}


def test_what_is_in_no_family_is_refused() -> None:
    space = make("auto")
    assert isinstance(space, Families)
    other = make("macromicro").smallest()
    assert other not in space
    with pytest.raises(InputError, match="not in the space auto"):
        space.grow(other)
