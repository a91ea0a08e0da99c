"""The executor that ``--executor`` names: ``local``, ``ray``, ``ray://ADDRESS``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hwnas import plugins
from hwnas.errors import BackendUnavailable, InputError

if TYPE_CHECKING:  # the command line reads this file for its help, which must not wait for the records
    from hwnas.protocols import Emit, Executor

# Far more than one search keeps busy.
MOST_JOBS = 4_096


def parse(text: str) -> tuple[str, str]:
    """Registered name and address (empty where none is named); InputError for an unknown name."""
    name, colon, address = text.partition("://")
    if not plugins.has("executors", name) or (colon and not address):
        known = [*plugins.names("executors"), "ray://ADDRESS"]
        raise InputError(plugins.unknown("executor", text, known))
    return name, address


def made(text: str, *, jobs: int, device: str, emit: Emit) -> Executor:
    """The executor, ready.

    Args:
        text: what the user wrote.
        jobs: tasks at once.
        device: that latencies are of.
        emit: told what tasks tell.

    Raises:
        InputError: an unknown name, or an address where none is taken.
        BackendUnavailable: what it needs is not installed or cannot be reached.
    """
    name, address = parse(text)
    found = plugins.load("executors", name)
    missing = found.unavailable()
    if missing is not None:
        raise BackendUnavailable(f"executor {name} {missing}")
    executor: Executor = found(address, jobs=jobs, device=device, emit=emit)
    return executor
