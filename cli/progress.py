"""How far a command is: a live line on a terminal, a few plain ones elsewhere, and one in the end.

Tasks that run at the same time, here or on other machines, have a live line each.
"""

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

    The live line is of the task that moved last; tasks that an executor runs (`began`, `ended`) have a line
    each, with the place where they run. All go when the command ends. What stays is one line about all of
    them. Where the stream is no terminal, or CI is set, there is no live line.
    """

    def __init__(self, stream: TextIO) -> None:
        """Nothing is written yet."""
        self._stream = stream
        self._live = terminal.is_terminal(stream) and not os.environ.get("CI")
        self._progress: Progress | None = None
        self._bars: dict[str, TaskID] = {}  # by the task that an executor runs; "" is what this process does
        self._places: dict[str, str] = {}
        self._shown: dict[str, str] = {}  # the task that each line is of now
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

    def began(self, name: str, place: str) -> None:
        """A task begins to run at a place."""
        self._places[name] = place.partition(",")[0]
        if self._live:
            self._move(_Task(name), "")

    def ended(self, name: str) -> None:
        """A task that began has ended; its line goes."""
        self._places.pop(name, None)
        if self._progress is not None and name in self._bars:
            self._progress.remove_task(self._bars.pop(name))

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
            self._progress = None
            self._bars.clear()
        if not self._tasks:
            return
        took = format_seconds(time.monotonic() - self._begun)
        told = f"{self._last.name}: {self._last.count}"
        if len(self._tasks) > 1:
            told = f"{len(self._tasks)} tasks, the last {told}"
        click.echo(f"{told}, in {took}", file=self._stream)
        self._tasks.clear()

    def _move(self, task: _Task, note: str) -> None:
        from rich.markup import escape

        progress = self._progress = self._progress or self._started()
        # A part of a task that an executor runs is named after it.
        owner = next((name for name in self._places if task.name == name or _is_part(task.name, name)), "")
        if owner not in self._bars:
            self._bars[owner] = progress.add_task("", total=None, count="", note="", place="")
            self._shown.pop(owner, None)
        bar = self._bars[owner]
        if self._shown.get(owner) != task.name:  # the remaining time is the new task's
            progress.reset(bar, description=escape(task.name))
            self._shown[owner] = task.name
        place = escape(self._places.get(owner, ""))
        progress.update(
            bar, completed=task.done, total=task.total, count=task.count, note=escape(note), place=place
        )

    def _started(self) -> Progress:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
        from rich.table import Column

        progress = Progress(
            TextColumn("{task.description}"),
            TextColumn("{task.fields[place]}"),
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
        progress.start()
        return progress


def _is_part(task: str, owner: str) -> bool:
    return task.startswith(f"{owner}: ")
