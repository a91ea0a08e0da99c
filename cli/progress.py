"""How far a command is: one live line on a terminal, a few plain ones elsewhere, and one in the end."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

import click

from hwnas.units import format_seconds

from . import terminal

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

# Without a terminal a line at most every so often; the pause doubles up to the longest one.
PLAIN_EVERY_S, LONGEST_S = 5.0, 60.0


@dataclass
class _Task:
    name: str
    done: int = 0
    total: int | None = None

    @property
    def count(self) -> str:
        return f"{self.done:,} of {self.total:,}" if self.total is not None else f"{self.done:,}"


class Bar:
    """Progress of one command on one stream.

    The live line is of the task that moved last; it goes when the command ends. What stays is one line
    about all of them. Where the stream is no terminal, or CI is set, there is no live line.
    """

    def __init__(self, stream: TextIO) -> None:
        """Nothing is written yet."""
        self._stream = stream
        self._live = terminal.is_terminal(stream) and not os.environ.get("CI")
        self._progress: Progress | None = None
        self._bar: TaskID | None = None
        self._tasks: dict[str, _Task] = {}
        self._last = _Task("")
        self._begun = self._told = time.monotonic()
        self._pause_s = PLAIN_EVERY_S

    def show(self, name: str, done: int, total: int | None, note: str) -> None:
        """Say how far a task is."""
        if not self._tasks:
            self._begun = self._told = time.monotonic()
        self._last = task = self._tasks.setdefault(name, _Task(name))
        task.done, task.total = done, total
        if self._live:
            self._move(task, note)
            return
        now = time.monotonic()
        if now - self._told >= self._pause_s:
            self._told, self._pause_s = now, min(2 * self._pause_s, LONGEST_S)
            click.echo(f"{name}: {task.count}{', ' + note if note else ''}", file=self._stream)

    def above(self, text: str) -> bool:
        """Print text above the live line; False where there is none."""
        if self._progress is None:
            return False
        self._progress.console.print(text, markup=False, highlight=False, soft_wrap=True)
        return True

    def end(self) -> None:
        """Take the live line away and leave one about what was done."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = self._bar = None
        if not self._tasks:
            return
        took = format_seconds(time.monotonic() - self._begun)
        told = f"{self._last.name}: {self._last.count}"
        if len(self._tasks) > 1:
            told = f"{len(self._tasks)} tasks, the last {told}"
        click.echo(f"{told}, in {took}", file=self._stream)
        self._tasks.clear()

    def _move(self, task: _Task, note: str) -> None:
        from rich.console import Console
        from rich.markup import escape
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
        from rich.table import Column

        if self._progress is None:
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=16),
                TextColumn("{task.fields[count]}"),
                TimeRemainingColumn(compact=True),
                # What does not fit is cut: a second line would stay on the screen at every step.
                TextColumn(
                    "{task.fields[note]}", style="dim", table_column=Column(no_wrap=True, overflow="ellipsis")
                ),
                console=Console(file=self._stream),
                transient=True,
            )
            self._progress.start()
        if self._bar is None:
            self._bar = self._progress.add_task("", total=None, count="", note="")
            self._shown = ""
        if self._shown != task.name:  # the remaining time is the new task's
            self._progress.reset(self._bar, description=escape(task.name))
            self._shown = task.name
        self._progress.update(
            self._bar, completed=task.done, total=task.total, count=task.count, note=escape(note)
        )
