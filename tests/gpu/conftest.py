"""Tests for a machine with an NVIDIA GPU: `make test-gpu` there runs them and writes a report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

SCHEMA = "hwnas.gpu-report/1"
figures: dict[str, dict[str, Any]] = {}
outcomes: dict[str, dict[str, str]] = {}


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
def backend() -> Any:
    """The backend `trt`, or a skip with the reason."""
    from hwnas.backends.trt.backend import Trt

    made = Trt()
    missing = made.unavailable()
    if missing:
        pytest.skip(missing)
    return made


@pytest.fixture
def note(request: pytest.FixtureRequest) -> Any:
    """Keep a figure for the report: ``note(mape_percent=2.1)``."""

    def keep(**values: Any) -> None:
        figures.setdefault(request.node.name, {}).update(values)

    return keep


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    report = yield
    mine = Path(__file__).parent in item.path.parents
    if mine and (report.when == "call" or report.outcome != "passed"):
        said = "" if report.outcome == "passed" else str(report.longrepr)[-2000:]
        outcomes[item.name] = {"outcome": report.outcome, "said": said}
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    path = session.config.getoption("gpu_report", default=None)
    if path is None or not outcomes:
        return
    from hwnas.records import now_utc

    tests = {name: {**result, "figures": figures.get(name, {})} for name, result in outcomes.items()}
    body = {"schema": SCHEMA, "taken_at": now_utc(), "machine": machine(), "tests": tests}
    Path(path).write_text(json.dumps(body, indent=2) + "\n", encoding="utf-8")
    print(f"\nwrote {path}; docs/gpu.md says where to send it")


def machine() -> dict[str, Any]:
    """What the figures are true for."""
    import platform

    import hwnas
    from hwnas import backends
    from hwnas.backends.cuda.gpus import gpus
    from hwnas.backends.cuda.opening import open_driver

    driver = open_driver()
    return {
        "hwnas": hwnas.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "gpus": [gpu.model_dump() for gpu in gpus()],
        "cuda": {"package": driver.name, "serves": driver.properties.cuda_version},
        "backends": {row["name"]: row["version"] for row in backends.describe() if row["available"]},
    }
