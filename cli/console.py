"""What a command prints: the result on stdout, progress and log on stderr.

On a terminal progress is a live bar; elsewhere, or when CI is set, it is plain lines.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

import click

from . import config
from .endings import Ending, Interrupted

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

# Without a terminal a line of progress at most every so often.
PLAIN_EVERY_S = 5.0


class Output:
    """Where one command's words go.

    `emit` is the callback that the library's jobs take: kind ``progress`` moves a bar, any other
    kind with a ``text`` is a line of the log. An event with a ``run`` field names the run folder,
    which a user needs to know to resume.

    Attributes:
        run: the run folder, once a job has named it.
    """

    def __init__(self, *, as_json: bool = False, level: int = 0, stream: TextIO | None = None) -> None:
        """Args: `level` is -1 quiet, 0 usual, 1 with details; `stream` is stderr unless told."""
        self.as_json = as_json
        self.level = level
        self._stream = stream if stream is not None else sys.stderr
        self._live = level >= 0 and self._stream.isatty() and not os.environ.get("CI")
        self._progress: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._said: dict[str, float] = {}
        self.run: Path | None = None

    def __enter__(self) -> Output:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._stop()

    def emit(self, kind: str, fields: Mapping[str, Any]) -> None:
        """Show what a job reports."""
        if "run" in fields:
            self.run = Path(str(fields["run"]))
        if kind == "progress":
            self._show_progress(
                str(fields.get("task", "")),
                int(fields.get("done", 0)),
                fields.get("total"),
                str(fields.get("note", "")),
            )
        elif kind == "debug":
            self.log(str(fields.get("text", "")), level=1)
        elif fields.get("text"):
            self.log(str(fields["text"]))

    def log(self, text: str, *, level: int = 0) -> None:
        """One line on stderr, from verbosity `level` on."""
        if level > self.level:
            return
        if self._progress is not None:
            self._progress.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            click.echo(text, file=self._stream)

    def result(self, schema: str, body: Mapping[str, Any], show: Callable[[], None]) -> None:
        """Print the result: one JSON object with its schema under ``--json``, else `show()`."""
        self._stop()
        if self.as_json:
            text = json.dumps({"schema": schema, **body}, indent=2, allow_nan=False)
            context = click.get_current_context(silent=True)
            if context is not None and isinstance(context.obj, Ending):
                context.obj.printed = True
            click.echo(text)
        else:
            show()

    def next(self, command: str) -> None:
        """Say which command a user would type next; a script does not read it."""
        if not self.as_json:
            self.log(f"Next: {command}")

    def _show_progress(self, task: str, done: int, total: int | None, note: str) -> None:
        if self.level < 0:
            return
        if self._live:
            self._bar(task, done, total, note)
            return
        now = time.monotonic()
        finished = total is not None and done >= total
        if finished or now - self._said.get(task, -PLAIN_EVERY_S) >= PLAIN_EVERY_S:
            self._said[task] = now
            count = f"{done}/{total}" if total is not None else str(done)
            click.echo(f"{task}: {count}{'  ' + note if note else ''}", file=self._stream)

    def _bar(self, task: str, done: int, total: int | None, note: str) -> None:
        from rich.console import Console
        from rich.markup import escape
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        if self._progress is None:
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=30),
                MofNCompleteColumn(),
                TimeRemainingColumn(compact=True),
                TextColumn("{task.fields[note]}", style="dim"),
                console=Console(file=self._stream),
                transient=True,
            )
            self._progress.start()
        if task not in self._tasks:
            self._tasks[task] = self._progress.add_task(escape(task), total=total, note="")
        self._progress.update(self._tasks[task], completed=done, total=total, note=escape(note))

    def _stop(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
            self._tasks.clear()


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table on stdout, aligned and never wrapped or cut; columns of numbers to the right."""
    body = [[_cell(value) for value in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *body)]
    right = [bool(body) and all(_is_number(row[at]) for row in body) for at in range(len(columns))]
    for line in (list(columns), ["-" * width for width in widths], *body):
        cells = [f"{cell:>{w}}" if r else f"{cell:<{w}}" for cell, w, r in zip(line, widths, right)]
        click.echo("  ".join(cells).rstrip())


def facts(pairs: Iterable[tuple[str, object]]) -> None:
    """Print names and values on stdout, one pair a line, values aligned."""
    listed = [(name, _cell(value)) for name, value in pairs if value is not None and value != ""]
    width = max((len(name) for name, _ in listed), default=0)
    for name, value in listed:
        click.echo(f"{name:<{width}}  {value}")


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else str(value)


def _is_number(text: str) -> bool:
    return not text or text.lstrip("+-<")[:1].isdigit()


def common(function: Callable[..., None]) -> Callable[..., Any]:
    """Add ``--config --json -v -q`` and hand the command its `Output` as first argument."""

    @config.option
    @click.option("--json", "as_json", is_flag=True, help="Print exactly one JSON object on stdout.")
    @click.option("-v", "--verbose", count=True, help="More detail on stderr; errors with traceback.")
    @click.option("-q", "--quiet", is_flag=True, help="Only the result and errors.")
    @wraps(function)
    def wrapped(*args: Any, as_json: bool, verbose: int, quiet: bool, **values: Any) -> None:
        with Output(as_json=as_json, level=-1 if quiet else min(verbose, 1)) as ui:
            try:
                function(ui, *args, **values)
            except KeyboardInterrupt:
                where = f" with --out {ui.run}" if ui.run else ""
                raise Interrupted(
                    f"Interrupted. Nothing is lost: repeat the command{where} to continue."
                ) from None

    return wrapped
