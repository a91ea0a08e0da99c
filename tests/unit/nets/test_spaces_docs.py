"""docs/spaces.md says what the spaces hold."""

from pathlib import Path

import pytest

from hwnas import plugins
from hwnas.nets import spaces

PAGE = Path(__file__).resolve().parents[3] / "docs" / "spaces.md"
ROWS = [
    [cell.strip() for cell in line.strip("|\n").split("|")]
    for line in PAGE.read_text().splitlines()
    if line.startswith("| `")
]
TABLE = {cells[0].strip("`"): cells[1:] for cells in ROWS}


def test_every_space_is_in_the_table() -> None:
    assert set(TABLE) == set(plugins.BUILT_IN["spaces"])


@pytest.mark.parametrize("name", TABLE)
def test_row(name: str) -> None:
    shape, members, blocks, _ = TABLE[name]
    said = spaces.describe(spaces.make(name))
    assert shape == "x".join(map(str, said["input_shape"]))
    assert blocks == f"{said['blocks']:,}"
    assert members == (f"{said['members']:,}" if said["members"] < 1e7 else f"{said['members']:.1e}")
