"""Tests for a machine with an NVIDIA GPU: `make test-gpu` there runs them and writes a report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

_steps: dict[str, dict[str, Any]] = {}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--gpu-report", metavar="FILE", help="write what was found to FILE (JSON)")


def pytest_configure(config: pytest.Config) -> None:
    """With a report asked for, a machine that cannot run anything is an error, not a row of skips."""
    if config.getoption("gpu_report", default=None) is None:
        return
    from hwnas.backends.trt.backend import Trt

    missing = Trt().unavailable()
    if missing:
        pytest.exit(f"nothing can be tested here: {missing}", returncode=4)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.gpu)


@pytest.fixture(scope="session")
def card() -> None:
    """A skip with the reason where there is no card."""
    from hwnas.backends.trt.backend import Trt

    missing = Trt().unavailable()
    if missing:
        pytest.skip(missing)


@pytest.fixture(scope="session")
def steps() -> dict[str, dict[str, Any]]:
    """What each step gave, for the report."""
    return _steps


def pytest_sessionfinish(session: pytest.Session) -> None:
    path = session.config.getoption("gpu_report", default=None)
    if path is None or not _steps:
        return
    from hwnas.backends.gpu_report.report import body

    Path(path).write_text(json.dumps(body(_steps), indent=2) + "\n", encoding="utf-8")
    print(f"\nwrote {path}; docs/gpu.md says where to send it")
