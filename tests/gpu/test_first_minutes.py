"""The first ten minutes on a card, in the order in which a failure says most about what follows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from hwnas.backends.gpu_report.report import STEPS, tried


@pytest.mark.parametrize("name", STEPS)
def test_step(card: None, steps: dict[str, Any], name: str) -> None:
    step: Callable[[], dict[str, Any]] = STEPS[name]
    steps[name] = tried(step)
    assert steps[name]["passed"], steps[name]["said"]
