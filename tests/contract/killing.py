"""Work in a process of its own that is killed in the middle (SIGKILL), and that starts warm.

Processes are forked from one server that has imported torch and hwnas and computed nothing: to import them
anew takes longer than most of the work.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

IMPORTED = ["hwnas.jobs.profile", "hwnas.jobs.search", "hwnas.train.evaluator", "hwnas.backends.fake"]
needs_sigkill = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this platform")


def killed(
    work: Callable[..., object], *given: object, when: Callable[[], bool], deadline_s: float = 300
) -> None:
    """Do `work` (a function of a module) in another process, here and now, and kill it once `when` holds."""
    context = multiprocessing.get_context("forkserver")
    # torch imports dynamo when the first optimiser is made.
    context.set_forkserver_preload([*IMPORTED, "torch._dynamo"])
    process = context.Process(target=_placed, args=(dict(os.environ), work, given))
    process.start()
    try:
        deadline = time.monotonic() + deadline_s
        while not when():
            assert process.is_alive(), "it ended before it was killed"
            assert time.monotonic() < deadline
            time.sleep(0.005)
    finally:
        process.kill()
        process.join()
    assert process.exitcode == -signal.SIGKILL
    process.close()


def _placed(environment: Mapping[str, str], work: Callable[..., object], given: Sequence[object]) -> None:
    """The server's environment is that of the first test that asked for a process: take this one's."""
    os.environ.clear()
    os.environ.update(environment)
    work(*given)


def hwnas(*args: str) -> None:
    """A command, as `work`."""
    from hwnas_cli.main import cli

    cli(list(args), prog_name="hwnas")


def has_event(path: Path, kind: str, number: int = 1) -> bool:
    """Whether a run's events hold so many of a kind; of any kind where it is ``""``."""
    file = path / "events.jsonl"
    said = f'"event":"{kind}"' if kind else '"event":'
    return file.exists() and file.read_text().count(said) >= number
