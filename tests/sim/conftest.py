"""These tests run by ``make test-sim``: they need what prepare.py downloads, and a process a machine."""

import os
from pathlib import Path

import pytest

# Without the simulated machines nothing here is collected; `make test` stays fast and offline.
collect_ignore_glob = ["*"] if "HWNAS_SIM" not in os.environ else []


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Long ones only for ``make test-sim HWNAS_SIM=all``; left out, and not skipped (see below)."""
    if os.environ.get("HWNAS_SIM") == "all":
        return
    here = Path(__file__).parent
    long = [one for one in items if one.get_closest_marker("long") and here in one.path.parents]
    if long:
        items[:] = [one for one in items if one not in long]
        config.hook.pytest_deselected(items=long)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """A skipped test fails the run: what was not tried did not hold."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if "HWNAS_SIM" in os.environ and reporter and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
