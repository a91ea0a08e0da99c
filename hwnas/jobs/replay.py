"""`hwnas replay`: a published search log through our controller, without any training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hwnas import plugins
from hwnas.errors import InputError
from hwnas.protocols import Emit
from hwnas.results import Result


@dataclass(frozen=True)
class ReplayOptions:
    """Which log, and of which strategy.

    Attributes:
        log: the file.
        strategy: name of a strategy whose published logs can be replayed.
    """

    log: Path
    strategy: str = "macromicro"

    def __post_init__(self) -> None:
        known = plugins.names("replays")
        if self.strategy not in known:
            raise InputError(
                f"strategy {self.strategy!r} has no logs to replay; write --strategy {' or '.join(known)}"
            )


class ReplayOutcome(Result):
    """What our controller made of a log: candidates, how many differ, and the log's own result keys."""

    candidates: int
    mismatches: int


def replay(options: ReplayOptions, emit: Emit | None = None) -> ReplayOutcome:
    """Feed the logged accuracies to the strategy's controller.

    Returns:
        The keys of the log's own ``result``, and ``candidates``, ``mismatches``; notes say what differs.

    Raises:
        InputError: there is no such file, or no such strategy.
        DataFormatError: the file is not a search log, or ends early.
    """
    read = plugins.load("replays", options.strategy)
    with plugins.blamed("replays", options.strategy, f"cannot replay {options.log}"):
        body = dict(read(options.log))
        missing = {"candidates", "mismatches", "mismatch_details"} - body.keys()
    if missing:
        raise InputError(f"the replay of {options.strategy!r} gives no {', '.join(sorted(missing))}")
    if emit is not None:
        verdict = "the same candidates" if not body["mismatches"] else f"{body['mismatches']} mismatches"
        emit("note", {"text": f"replayed {body['candidates']} candidates of {options.log}: {verdict}"})
        for text in body["mismatch_details"]:
            emit("note", {"text": text})
    return ReplayOutcome.of({key: value for key, value in body.items() if key != "mismatch_details"})
