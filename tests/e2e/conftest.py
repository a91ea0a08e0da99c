"""Houses for the end-to-end tests."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from e2e_house import BUDGET, SMALL, TINY, House, house

# The small search log is shared with the unit tests.
sys.path.insert(0, str(Path(__file__).parents[1] / "contract"))


@pytest.fixture(scope="session")
def fake_table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of the fake device, measured once for all houses."""
    with pytest.MonkeyPatch.context() as patch:
        found = house(tmp_path_factory.mktemp("measured"), patch)
        return Path(found.json("profile", *SMALL, "--preset", "quick")["table"])


@pytest.fixture(scope="module")
def fake(fake_table: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A house with a table of the fake device."""
    with pytest.MonkeyPatch.context() as patch:
        found = house(tmp_path_factory.mktemp("house"), patch)
        tables = found.folder / "home" / "tables"
        tables.mkdir(parents=True)
        shutil.copy(fake_table, tables)
        yield found


@pytest.fixture(scope="module")
def searched(fake: House) -> dict[str, Any]:
    """The result of a small search in the fake house."""
    return fake.json("search", *BUDGET, *TINY)
