"""The space of all families: what a member is, at which size, and that families differ."""

import pytest

from hwnas.errors import InputError
from hwnas.nets.families import DESIGNS, PATCH, Families, auto
from hwnas.nets.spaces import make


def test_a_uniform_member_by_hand() -> None:
    space = auto(input_shape=(3, 32, 32), classes=10)
    halved = next(one for one in space.families if one.label == "residual, first stage halves")
    spec = halved.scaled(3, 2)  # the fourth width is 16
    keys = [block.key for block in spec.blocks]
    assert keys == [
        "conv-3x16-k3s1e1-relu@32",
        "basic-16x16-k3s2e1-relu@32",
        "basic-16x16-k3s1e1-relu@16",
        "basic-16x32-k3s2e1-relu@16",
        "basic-32x32-k3s1e1-relu@8",
        "basic-32x64-k3s2e1-relu@8",
        "basic-64x64-k3s1e1-relu@4",
        "classifier-64x10-k1s1e1-none@4",
    ]
    assert space.family_of(spec).label == halved.label


def test_patches_quarter_the_image() -> None:
    space = auto(input_shape=(3, 32, 32))
    design = next(design for design in DESIGNS if design.stem == PATCH)
    stem = next(one for one in space.families if one.label == design.label).scaled(0, 1).stem
    assert (stem.kernel, stem.stride, stem.size_out) == (5, 4, 8)


@pytest.mark.parametrize("side", [8, 32, 224])
def test_every_family_has_members_for_small_and_large_images(side: int) -> None:
    space = auto(input_shape=(3, side, side))
    for one in space.families:
        spec = one.scaled(5, 2)
        assert spec in one.space
        assert spec.input_shape == (3, side, side)
        assert len(spec.stages) == (4 if side == 224 else 3)


def test_what_is_in_no_family_is_refused() -> None:
    space = make("auto")
    assert isinstance(space, Families)
    other = make("macromicro").smallest()
    assert other not in space
    with pytest.raises(InputError, match="not in the space auto"):
        space.grow(other)
