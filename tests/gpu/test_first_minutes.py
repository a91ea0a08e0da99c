"""The first ten minutes on a card, in the order in which a failure says most about what follows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from hwnas.backends import gpu_report


@pytest.mark.parametrize("name", gpu_report.STEPS)
def test_step(card: None, steps: dict[str, Any], name: str) -> None:
    step: Callable[[], dict[str, Any]] = gpu_report.STEPS[name]
    steps[name] = gpu_report.tried(step)
    assert steps[name]["passed"], steps[name]["said"]
