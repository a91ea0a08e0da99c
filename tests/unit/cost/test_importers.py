"""Published tables: read right, refused when their shape is wrong."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hwnas.cost import importers
from hwnas.cost.model import cost_model
from hwnas.errors import DataFormatError, InputError
from hwnas.jobs.table import import_
from hwnas.nets.densenas.graph import SKIP, DenseSpace, densenas_mbv2, densenas_resnet
from hwnas.store import data_dir, read_network

DATA = Path(os.environ.get("HWNAS_TEST_DATA", "no-data")) / "densenas"
published = pytest.mark.skipif(not DATA.is_dir(), reason="HWNAS_TEST_DATA does not name the published lists")


def made_up(space: DenseSpace) -> list[Any]:
    """A list of the right shape with times that tell where they came from."""
    blocks = []
    for j in range(1, space.sink):
        heads = [
            [j + 0.01 * e + 0.001 * o for o in range(len(space.head_ops))]
            for e in range(len(space.in_edges[j]))
        ]
        stack = [
            [10 * j + s + 0.1 * o for o in range(len(space.stack_ops))] for s in range(space.routing[j].stack)
        ]
        blocks.append([heads, stack])
    last = [[0.5 + e] for e in range(len(space.in_edges[space.sink]))]
    return [2.0, blocks, last, 0.25]


@pytest.mark.parametrize("space", [densenas_mbv2(), densenas_resnet()], ids=lambda s: s.name)
def test_every_number_lands_at_its_block(space: DenseSpace) -> None:
    table = importers.densenas(repr(made_up(space)))
    for j in range(1, space.sink):
        for e, i in enumerate(space.in_edges[j]):
            for o, op in enumerate(space.head_ops):
                assert table[space.head_block(i, j, op)].value_ms == pytest.approx(j + 0.01 * e + 0.001 * o)
        slots = space.routing[j].stack
        for o, op in enumerate(space.stack_ops):
            if slots and op is not SKIP:
                # The mean over slots 0 ... n-1 of 10 j + slot + 0.1 o.
                want = 10 * j + (slots - 1) / 2 + 0.1 * o
                assert table[space.stack_block(j, op)].value_ms == pytest.approx(want)
    for e, i in enumerate(space.in_edges[space.sink]):
        assert table[space.head_block(i, space.sink, SKIP)].value_ms == 0.5 + e
    assert sum(table[block].value_ms for block in space.stem) == pytest.approx(2.0)
    assert table.setting.describe() == "titanxp, pytorch-eager, fp32, batch 32, imported"
    assert table.header.input_shape == (3, 224, 224)


@published
@pytest.mark.parametrize(("which", "ms"), [("a", 13.634), ("b", 15.813), ("c", 18.007)])
def test_published_networks_cost_what_the_published_list_says(which: str, ms: float) -> None:
    table = importers.read(DATA / "lat_list_densenas_mbv2_xp32", "densenas")
    spec = read_network(data_dir("examples") / "networks" / f"densenas-{which}.json")
    estimate = cost_model(table).estimate(spec)
    assert estimate.latency_ms == pytest.approx(ms, abs=0.0005)
    assert estimate.extrapolated == ()
    assert estimate.provenance == "imported"


@published
@pytest.mark.parametrize("name", ["lat_list_resv2_32", "lat_list_resv2_32_reg10"])
def test_the_resnet_lists_are_read(name: str) -> None:
    table = importers.read(DATA / name, "densenas")
    assert table.header.space == "densenas-resnet"
    assert len(table.slots) == 17
    # The regularised list replaces each skip's time by a tenth of the basic block's.
    space = densenas_resnet()
    basic = table[space.stack_block(4, space.stack_ops[0])].value_ms
    skip = next(slot.value_ms for slot in table.slots if slot.width == 72)
    assert (skip == pytest.approx(basic / 10)) == name.endswith("reg10")


def wrong(space: DenseSpace, change: Callable[[Any], object]) -> str:
    body = made_up(space)
    change(body)
    return repr(body)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda b: b[1][2][0].pop(), r"block 3 \(40 channels\), heads: expected 2 entries, found 1"),
        (
            lambda b: b[1][2][0][1].pop(),
            r"block 3 \(40 channels\), head from 24 channels: expected 6 entries, found 5",
        ),
        (lambda b: b[1][4][1].pop(), r"block 5 \(56 channels\), stack: expected 3 layers, found 2"),
        (
            lambda b: b[1][4][1][0].pop(),
            r"block 5 \(56 channels\), stack layer 0: expected 7 entries, found 6",
        ),
        (lambda b: b[1].pop(), "15 routing blocks; a DenseNAS table has 16 or 20"),
        (lambda b: b.pop(), "the table: expected 4 entries, found 3"),
        (lambda b: b[2].pop(), r"last layer \(block 17\): expected 3 entries, found 2"),
        (lambda b: b.__setitem__(0, -1.0), "stem: -1.0 is not a time in ms greater than zero"),
        (lambda b: b.__setitem__(3, "x"), "classifier: 'x' is not a time"),
        (lambda b: b[1].__setitem__(0, 3.0), r"block 1 \(24 channels\): expected a list of 2, found 3.0"),
    ],
)
def test_a_wrong_shape_names_the_block(change: Callable[[Any], object], said: str) -> None:
    with pytest.raises(DataFormatError, match=said):
        importers.densenas(wrong(densenas_mbv2(), change))


def test_nothing_is_evaluated() -> None:
    with pytest.raises(DataFormatError, match="not a Python literal"):
        importers.densenas("__import__('os').getcwd()")


OFA = """
Conv-input:224x224x3-output:112x112x32: {count: 10, mean: 1.5, var: 0.04}
expanded_conv-input:112x112x32-output:112x112x16-expand:1-kernel:3-stride:1-idskip:0: {count: 4, mean: 2.0}
expanded_conv-input:112x112x16-output:56x56x24-expand:6-kernel:5-stride:2-idskip:0: {count: 4, mean: 6.0}
expanded_conv-input:56x56x24-output:56x56x24-expand:3-kernel:7-stride:1-idskip:1: {count: 4, mean: 3.0}
Conv_1-input:7x7x320-output:7x7x1280: {count: 4, mean: 2.5}
Logits-input:7x7x1280-output:1000: {count: 4, mean: 0.75}
expanded_conv-input:56x56x24-output:28x28x40-expand:72-kernel:5-stride:2-idskip:0-se:1-hs:0:
  {count: 4, mean: 1.0}
expanded_conv-input:56x56x24-output:28x28x40-expand:64-kernel:5-stride:2-idskip:0-se:1-hs:1:
  {count: 4, mean: 1.0}
AvgPool2D-input:7x7x960-output:1x1x960: {count: 4, mean: 0.1}
"""


def test_once_for_all_tables() -> None:
    table = importers.ofa(OFA)
    found = {block.key: row.value_ms for block, row in table.rows.items()}
    assert found == {
        "conv-3x32-k3s2e1-relu6@224": 1.5,
        "mbconv-32x16-k3s1e1-relu6@112": 2.0,
        "mbconv-16x24-k5s2e6-relu6@112": 6.0,
        "mbconv-24x24-k7s1e3-relu6@56": 3.0,
        "conv-320x1280-k1s1e1-relu6@7": 2.5,
        "classifier-1280x1000-k1s1e1-none@7": 0.75,
        "mbconv-24x40-k5s2e3se0.25-relu@56": 1.0,  # 72 hidden channels of 24: three times
    }
    # The standard error of a mean of 10 with variance 0.04: sqrt(0.04 / 10).
    assert next(r.se_ms for b, r in table.rows.items() if b.kind == "conv") == pytest.approx(0.0632, abs=1e-4)
    assert len(table.header.protocol["not_imported"]) == 2, "64 hidden channels, and the pooling layer"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("!!python/object/apply:os.getcwd []", "not valid YAML"),
        ("[1, 2]", "expected a mapping"),
        ("a: 3", "expected .count, mean., found 3"),
        ("a: {count: 1, mean: .nan}", "holds the number nan, which is not finite"),
        ("a: {count: 1, mean: 2.0}", "none of its 1 entries"),
    ],
)
def test_other_yaml_is_refused(text: str, said: str) -> None:
    with pytest.raises(DataFormatError, match=said):
        importers.ofa(text)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("{count: 4, mean: -2.0}", "-2.0 is not a time in ms greater than zero"),
        ("{count: 4, mean: 0}", "0 is not a time in ms"),
        ("{count: 4, mean: 1.0e+12}", "1000000000000.0 is not a time in ms"),
        ("{count: 4, mean: true}", "True is not a time in ms"),
        ("{count: 4, mean: '2.0'}", "'2.0' is not a time in ms"),
        ("{count: -1, mean: 2.0}", "-1 is not a count of samples"),
        ("{count: 1.0e+30, mean: 2.0}", "is not a count of samples"),
        ("{count: 4, mean: 2.0, var: -0.1}", "-0.1 is not a variance"),
        ("{count: 4, mean: 2.0, var: [1]}", r"\[1\] is not a variance"),
    ],
)
def test_impossible_values_of_once_for_all_tables(entry: str, said: str) -> None:
    with pytest.raises(DataFormatError, match=said):
        importers.ofa(f"Conv-input:224x224x3-output:112x112x32: {entry}")


@pytest.mark.parametrize(
    "key",
    [
        "Conv-input:0x0x3-output:112x112x32",
        "Conv-input:224x224x3-output:0x0x32",
        "Conv-input:224x224x0-output:112x112x32",
        "Conv-input:99999999x99999999x3-output:49999999x49999999x32",
        "expanded_conv-input:56x56x24-output:56x56x24-expand:3-kernel:0-stride:1-idskip:1",
        "expanded_conv-input:56x56x24-output:56x56x24-expand:3-kernel:4-stride:1-idskip:1",
        "expanded_conv-input:56x56x24-output:56x56x24-expand:99999-kernel:3-stride:1-idskip:1",
    ],
)
def test_impossible_layers_of_once_for_all_tables(key: str) -> None:
    with pytest.raises(DataFormatError, match="this key does not describe a layer that can be built"):
        importers.ofa(f"{key}: {{count: 4, mean: 2.0}}")


@pytest.mark.parametrize("value", ["1e308", "-1.0", "0", "0.0", "1e999", "True", "None", "'1.0'", "1j"])
def test_impossible_times_of_densenas_lists(value: str) -> None:
    with pytest.raises(DataFormatError, match=r"not a time in ms|Python literal"):
        importers.densenas(repr(made_up(densenas_mbv2())).replace("0.25", value))


def test_what_is_left_out_is_counted_by_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HWNAS_HOME", str(tmp_path))
    (tmp_path / "ofa.yaml").write_text(OFA)
    found = import_(tmp_path / "ofa.yaml", fmt="ofa", out=tmp_path / "o.hwlat.jsonl")
    assert found["rows"] == 7
    assert found["not_imported"] == [
        "expanded_conv-input:56x56x24-output:28x28x40-expand:64-kernel:5-stride:2-idskip:0-se:1-hs:1",
        "AvgPool2D-input:7x7x960-output:1x1x960",
    ]


def test_read_says_which_file(tmp_path: Path) -> None:
    file = tmp_path / "list"
    file.write_text("[1, 2]")
    with pytest.raises(DataFormatError, match=f"{file}: the table: expected 4 entries"):
        importers.read(file, "densenas")
    with pytest.raises(InputError, match="unknown table format 'pickle'"):
        importers.read(file, "pickle")
    with pytest.raises(InputError, match="does not exist"):
        importers.read(tmp_path / "none", "ofa")
