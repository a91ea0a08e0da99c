"""Which network a name means."""

from pathlib import Path

import pytest

from hwnas.errors import DataFormatError, InputError
from hwnas.jobs.resolve.networks import find, network
from hwnas.spec import BlockSpec, NetworkSpec
from hwnas.store import write_network


def tiny(name: str = "") -> NetworkSpec:
    return NetworkSpec(
        stem=BlockSpec(kind="conv", c_in=3, c_out=4, size_in=8),
        stages=((BlockSpec(kind="basic", c_in=4, c_out=4, size_in=8),),),
        head=BlockSpec(kind="classifier", c_in=4, c_out=10, size_in=8),
        name=name,
    )


def test_a_file_a_run_and_an_example(tmp_path: Path) -> None:
    write_network(tmp_path / "mine.json", tiny())
    write_network(tmp_path / "runs" / "search-0001" / "network.json", tiny("winner"))
    assert network(str(tmp_path / "mine.json")).name == "mine"
    root = tmp_path / "runs"
    assert network("search-0001", root).name == "winner"
    assert network(str(root / "search-0001")).name == "winner"
    assert network("resnet20").depths == (3, 3, 3)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("resnet-20", "did you mean 'resnet20'"),
        ("no/such.json", "no/such.json does not exist"),
    ],
)
def test_an_unknown_name_is_one_clear_error(name: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        find(name)


def test_an_unfinished_run_is_named(tmp_path: Path) -> None:
    (tmp_path / "search-0001").mkdir()
    with pytest.raises(InputError, match=r"holds no network\.json"):
        find("search-0001", tmp_path)


def test_a_damaged_network_is_a_data_error(tmp_path: Path) -> None:
    (tmp_path / "n.json").write_text('{"schema": "hwnas.network/1", "stem":')
    with pytest.raises(DataFormatError, match="not valid JSON"):
        network(str(tmp_path / "n.json"))
