"""For every test: no waiting for a quiet machine in real time, lines of any length, slow files first."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import pytest

# Several tests run at once, and networks are small; before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from hwnas.measure.patience import Patience


@pytest.fixture(scope="session", autouse=True)
def impatient() -> Iterator[None]:
    """Patience with a real clock is spent from the start; tests of waiting bring clocks of their own."""
    plain = Patience.__init__

    def spent(self: Patience, seconds: float = 0.0, **given: Any) -> None:
        plain(self, seconds if given.get("sleep", time.sleep) is not time.sleep else 0.0, **given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Patience, "__init__", spent)
        yield


@pytest.fixture(scope="session", autouse=True)
def any_width() -> Iterator[None]:
    """No width from outside (workers of pytest-xdist start with COLUMNS=80): lines are not folded."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("COLUMNS", raising=False)
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with tests that are marked slow begin first, so that no process is left with one at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
