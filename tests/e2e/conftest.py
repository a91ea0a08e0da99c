"""Houses for the end-to-end tests."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from e2e_house import BUDGET, SMALL, TINY, House, house

# The small search log is shared with the unit tests.
sys.path.insert(0, str(Path(__file__).parents[1] / "contract"))


@pytest.fixture(scope="module")
def fake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A house with a table of the fake device."""
    with pytest.MonkeyPatch.context() as patch:
        found = house(tmp_path_factory.mktemp("house"), patch)
        found.run("profile", *SMALL, "--preset", "quick")
        yield found


@pytest.fixture(scope="module")
def searched(fake: House) -> dict[str, Any]:
    """The result of a small search in the fake house."""
    return fake.json("search", *BUDGET, *TINY)
