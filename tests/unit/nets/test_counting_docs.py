"""docs/counting.md says what the counters give."""

from pathlib import Path

import pytest

from hwnas.jobs.resolve.networks import examples
from hwnas.nets.count import count
from hwnas.store import read_network

PAGE = Path(__file__).resolve().parents[3] / "docs" / "counting.md"
ROWS = [
    [cell.strip() for cell in line.strip("|\n").split("|")]
    for line in PAGE.read_text().splitlines()
    if line.startswith("| `")
]
TABLE = {cells[0].strip("`"): cells[1:] for cells in ROWS if cells[0].strip("`") in examples()}


def test_every_published_network_is_in_the_table() -> None:
    formula_only = {"resnet20", "resnet32", "resnet44"}
    assert set(TABLE) == set(examples()) - formula_only


@pytest.mark.parametrize("name", TABLE)
def test_row(name: str) -> None:
    _, depth, params, mmacs, _ = TABLE[name]
    counts = count(read_network(examples()[name]))
    assert params == f"{counts.params:,}"
    assert float(mmacs) == round(counts.macs / 1e6, len(mmacs.partition(".")[2]))
    assert depth in ("", str(counts.depth))
