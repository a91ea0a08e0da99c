"""A home with a small data set, and a search of it, for the tests of `hwnas search`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

# What kills a process is shared with the contract tests.
sys.path.insert(0, str(Path(__file__).parents[2] / "contract"))

from hwnas.jobs.profile.plan import PLANS, Plan
from hwnas.jobs.search import SearchOptions


@pytest.fixture(scope="module")
def levels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A HWNAS_HOME with ``levels.npz``: 400 images of 1x8x8 pixels, ten levels of grey under noise.

    A quick profile measures a few networks only.
    """
    path = tmp_path_factory.mktemp("home")
    rng = np.random.default_rng(0)
    labels = np.arange(400) % 10
    images = rng.integers(0, 60, (400, 8, 8, 1)) + (labels * 19)[:, None, None, None]
    np.savez(path / "levels.npz", images=images.astype(np.uint8), labels=labels)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HWNAS_HOME", str(path))
        few = Plan(calibration=6, probes=2, holdout=3, target=0.01, blocks=250)
        patch.setitem(PLANS, "quick", few)
        yield path


@pytest.fixture
def levels_search(levels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SearchOptions:
    """A search of `levels` on the fake device, into a folder of the test's own."""
    monkeypatch.chdir(tmp_path)
    return SearchOptions(
        latency_budget="0.1ms",
        data=f"npz:{levels / 'levels.npz'}",
        device="fake",
        input_shape=(1, 8, 8),
        preset="quick",
        out=tmp_path / "run",
    )
