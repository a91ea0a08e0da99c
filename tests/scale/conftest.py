"""These start clusters of processes: `make test-scale` runs them, and a plain `pytest` leaves them out."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip all here without Ray, or where nobody asked."""
    asked = os.environ.get("HWNAS_SCALE")
    missing = "needs Ray: pip install 'hwnas[ray]'" if find_spec("ray") is None else None
    if missing is not None and asked and "HWNAS_REQUIRED" in os.environ:
        raise pytest.UsageError(missing)
    reason = missing or (None if asked else "starts Ray clusters; `make test-scale` runs it")
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("scale")
            item.add_marker(pytest.mark.filterwarnings("default"))  # Ray's own
            if reason is not None:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home with a table of the fake device."""
    from hwnas.jobs.profile import ProfileOptions, profile

    place = tmp_path_factory.mktemp("scale")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HWNAS_HOME", str(place / "home"))
        patch.setenv("OMP_NUM_THREADS", "1")
        given: dict[str, Any] = {"device": "fake", "space": "resnet-cifar", "input_shape": (1, 8, 8)}
        profile(ProfileOptions(**given, preset="quick", out=place / "t.hwlat.jsonl"))
        yield place


@pytest.fixture(scope="session")
def cluster(folder: Path) -> Iterator[Any]:
    """Three machines, for tests that leave them as they are."""
    from clusters import three_machines

    with three_machines() as made:
        yield made


@pytest.fixture(scope="session")
def alone(folder: Path) -> list[Any]:
    """The history of the search without any executor."""
    from clusters import searched

    return searched(folder, "alone")
