"""Networks as data: shapes are checked, identity is what is computed, JSON comes back equal."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from hwnas.errors import DataFormatError, InputError
from hwnas.spec import BlockSpec, NetworkSpec
from hwnas.store import read_network, write_network


def small(**kwargs: Any) -> NetworkSpec:
    """Stem 3->16 at 32, a stage at 32, a stage of 32 channels at 16, ten classes."""
    return NetworkSpec(
        stem=BlockSpec(kind="conv", c_in=3, c_out=16, size_in=32),
        stages=(
            (BlockSpec(kind="basic", c_in=16, c_out=16, size_in=32),),
            (BlockSpec(kind="basic", c_in=16, c_out=32, stride=2, size_in=32),),
        ),
        head=BlockSpec(kind="classifier", c_in=32, c_out=10, kernel=1, act="none", size_in=16),
        **kwargs,
    )


def test_sizes() -> None:
    assert BlockSpec(kind="conv", c_in=3, c_out=8, stride=2, size_in=7).size_out == 4
    assert BlockSpec(kind="conv", c_in=3, c_out=8, size_in=7).size_out == 7
    assert small().head.size_out == 1
    assert small().input_shape == (3, 32, 32)
    assert small().classes == 10
    assert small().depths == (1, 1)


def test_identity_joins_only_equal_shapes() -> None:
    net = small()
    assert net.stages[0][0].joins_identity
    assert not net.stages[1][0].joins_identity
    assert not net.head.joins_identity


@pytest.mark.parametrize(
    "change",
    [
        {"kernel": 2},
        {"stride": 3},
        {"c_in": 0},
        {"se": 1.5},
        {"kind": "what"},
        {"size_in": 0},
        {"colour": 1},
        # What is no number is not taken for one.
        {"c_in": "16"},
        {"c_out": 16.0},
        {"stride": True},
        {"stride": 1.0},
        {"size_in": "32"},
        {"size_in": ["32", 64]},
        {"expand": True},
        {"se": "0.25"},
    ],
)
def test_impossible_blocks_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        BlockSpec.model_validate({"kind": "basic", "c_in": 16, "c_out": 16, "size_in": 32, **change})


def test_integers_of_numpy_are_integers() -> None:
    given = {"kind": "basic", "c_in": np.int64(16), "c_out": np.int32(16), "size_in": np.int64(32)}
    block = BlockSpec.model_validate(given)
    assert block == BlockSpec(kind="basic", c_in=16, c_out=16, size_in=32)
    assert type(block.c_in) is int


def test_a_chain_that_does_not_join_names_the_block() -> None:
    net = small()
    with pytest.raises(ValidationError, match=r"block 2 .*16x32x32"):
        NetworkSpec(stem=net.stem, stages=(net.stages[0], (net.stages[1][0].repeated(),)), head=net.head)


def test_growing_repeats_the_last_block_at_stride_one() -> None:
    grown = small().grow(1, 2)
    assert grown.depths == (1, 3)
    assert grown.stages[1][1] == BlockSpec(kind="basic", c_in=32, c_out=32, size_in=16)
    with pytest.raises(InputError):
        small().grow(0, 0)
    with pytest.raises(InputError, match="stages 0 to 1"):
        small().replace_stage(2, ())


def test_identity_ignores_names_and_sees_everything_else() -> None:
    assert small().key == small(name="a", space="b").key
    assert small().key != small(convention="keras").key
    assert small().key != small().grow(0).key


def test_walk_gives_the_places_of_weights() -> None:
    assert [place for place, _ in small().grow(0).walk()] == [
        "stem",
        "stages.0.0",
        "stages.0.1",
        "stages.1.0",
        "head",
    ]


def test_keys_tell_blocks_apart() -> None:
    base = {"kind": "mbconv", "c_in": 16, "c_out": 16, "size_in": 8}
    variants: list[dict[str, Any]] = [
        {},
        {"kernel": 5},
        {"stride": 2},
        {"expand": 6},
        {"se": 0.25},
        {"act": "relu6"},
        {"size_in": 4},
        {"c_out": 24},
    ]
    keys = {BlockSpec.model_validate({**base, **v}).key for v in variants}
    assert len(keys) == len(variants)
    assert (
        BlockSpec(kind="basic", c_in=16, c_out=32, stride=2, size_in=32).key == "basic-16x32-k3s2e1-relu@32"
    )


def test_json_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "net.json"
    write_network(path, small(name="n", space="s"))
    assert read_network(path) == small(name="n", space="s")
    assert json.loads(path.read_text())["schema"] == "hwnas.network/1"
    assert read_network(path).key == small().key


def test_a_network_without_a_name_takes_its_files(tmp_path: Path) -> None:
    write_network(tmp_path / "mine.json", small())
    assert read_network(tmp_path / "mine.json").name == "mine"


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda t: t[: len(t) // 2], "not valid JSON"),
        (lambda t: "[]", "not a JSON object"),
        (lambda t: t.replace("hwnas.network/1", "hwnas.network/9"), "hwnas.network/9"),
        (lambda t: t.replace('"c_out": 16', '"c_out": 17'), "takes 16x32x32"),
        (lambda t: t.replace('"kind": "basic"', '"kind": "basik"'), "basik|Input should be"),
    ],
)
def test_damaged_network_files_say_what_is_wrong(tmp_path: Path, damage: object, says: str) -> None:
    path = tmp_path / "net.json"
    write_network(path, small())
    path.write_text(damage(path.read_text()))  # type: ignore[operator]  # functions of several types
    with pytest.raises(DataFormatError, match=says):
        read_network(path)
