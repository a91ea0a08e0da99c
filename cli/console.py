"""What a command prints: the result on stdout, progress and log on stderr.

Lines fit the terminal, or COLUMNS; elsewhere they are as long as they are, for `grep` and for files.
"""

from __future__ import annotations

import json
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import click

from . import config, terminal
from .endings import Ending, Interrupted
from .progress import Bar

# Between two columns of a table.
GAP = "  "
# A longer word, a path most of all, does not widen its column: it gets a line of its own.
LONG = 24
# Whether commands show their progress and warnings only: for a chain that tells their results itself.
_BRIEF = ContextVar("_BRIEF", default=False)
_CHAINED = ContextVar("_CHAINED", default=False)


@contextmanager
def brief(wanted: bool = True) -> Iterator[None]:
    """Commands that run inside the block leave out the lines of their log."""
    token = _BRIEF.set(wanted)
    try:
        yield
    finally:
        _BRIEF.reset(token)


@contextmanager
def chained() -> Iterator[None]:
    """Commands that run inside the block name no next one: it follows by itself."""
    token = _CHAINED.set(True)
    try:
        yield
    finally:
        _CHAINED.reset(token)


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
        self._bar = Bar(self._stream)
        self.run: Path | None = None

    def __enter__(self) -> Output:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._bar.end()

    def emit(self, kind: str, fields: Mapping[str, Any]) -> None:
        """Show what a job reports."""
        if "run" in fields:
            self.run = Path(str(fields["run"]))
        if kind == "progress":
            if self.level >= 0:
                self._bar.show(
                    str(fields.get("task", "")),
                    int(fields.get("done", 0)),
                    fields.get("total"),
                    str(fields.get("note", "")),
                )
        elif kind in ("began", "ended"):  # of the tasks of an executor
            if self.level >= 0 and kind == "began":
                self._bar.began(str(fields.get("task", "")), str(fields.get("where", "")))
            elif self.level >= 0:
                self._bar.ended(str(fields.get("task", "")))
        elif kind in ("debug", "gate"):  # gates are in the result, the journal and the report as well
            self.log(str(fields.get("text", "")), level=1)
        elif fields.get("text"):
            self.log(str(fields["text"]))

    def log(self, text: str, *, level: int = 0) -> None:
        """A sentence on stderr, from verbosity `level` on."""
        if level <= self.level and not _BRIEF.get():
            self._write(terminal.folded(text, terminal.columns(self._stream), "  "))

    def warn(self, text: str) -> None:
        """A warning on stderr, whatever the verbosity."""
        head = terminal.coloured("Warning:", "yellow", self._stream)
        shown = terminal.folded(f"Warning: {text}", terminal.columns(self._stream), "  ")
        self._write(head + shown.removeprefix("Warning:"))

    def _write(self, text: str) -> None:
        if not self._bar.above(text):
            click.echo(text, file=self._stream)

    def result(self, schema: str, body: Mapping[str, Any], show: Callable[[], None]) -> None:
        """Print the result: one JSON object with its schema under ``--json``, else `show()`."""
        self._bar.end()
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
        if not self.as_json and self.level >= 0 and not _CHAINED.get():
            self._write(terminal.command(command, terminal.columns(self._stream), "Next: "))


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, below: Sequence[str] = ()) -> None:
    """Print a table on stdout, aligned; columns of numbers to the right, empty columns left out.

    What is too wide for the terminal is folded inside its columns, at spaces; a table whose longest words
    do not fit side by side is printed row by row, a name and a value on each line. `below` has a line for
    each row, to stand under it: a path, which must not be folded.
    """
    body = [[_cell(value) for value in row] for row in rows]
    kept = [at for at in range(len(columns)) if not body or any(row[at] for row in body)]
    names, body = [columns[at] for at in kept], [[row[at] for at in kept] for row in body]
    widths = _widths(names, body, terminal.columns())
    if widths is None:
        _row_by_row(names, body, below)
        return
    right = [bool(body) and all(_is_number(row[at]) for row in body) for at in range(len(names))]
    for number, row in enumerate((names, ["-" * width for width in widths], *body)):
        for line in _row(row, widths, right):
            click.echo(line)
        if below and number >= 2:
            click.echo(f"{GAP}{below[number - 2]}")


def _row(row: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> Iterator[str]:
    """One row in lines; a word wider than its column (a path) has a line of its own, at its column."""
    folds = [_lines(cell, width) for cell, width in zip(row, widths)]
    for at, fold in enumerate(folds):
        long = [part for part in fold if len(part) > widths[at]]
        for part in long:
            before = (cells.pop(0) if cells else "" for cells in folds[:at])
            yield "".join(f"{cell:<{width}}{GAP}" for cell, width in zip(before, widths)) + part
        folds[at] = [part for part in fold if part not in long]
    for n in range(max(map(len, folds), default=0)):
        parts = [fold[n] if n < len(fold) else "" for fold in folds]
        cells = [f"{p:>{w}}" if r else f"{p:<{w}}" for p, w, r in zip(parts, widths, right)]
        yield GAP.join(cells).rstrip()


def _widths(names: Sequence[str], body: Sequence[Sequence[str]], whole: int | None) -> list[int] | None:
    """Width of every column; None where their longest words do not fit side by side."""
    texts = list(zip(names, *body))
    widths = [max(map(len, column)) for column in texts]
    if whole is None:
        return widths
    words = [[len(word) for text in column for word in text.split()] for column in texts]
    least = [min(max(lengths, default=0), LONG) for lengths in words]
    room = whole - len(GAP) * (len(widths) - 1)
    if sum(least) > room:
        return None
    while sum(widths) > room:  # the widest gives way, as long as its words allow
        loose = [at for at in range(len(widths)) if widths[at] > least[at]]
        widths[max(loose, key=lambda at: widths[at])] -= 1
    return widths


def _row_by_row(names: Sequence[str], body: Sequence[Sequence[str]], below: Sequence[str]) -> None:
    for number, row in enumerate(body):
        if number:
            click.echo()
        facts(zip(names, row))
        if below:
            click.echo(f"{GAP}{below[number]}")


def _lines(text: str, width: int) -> list[str]:
    """A cell in lines of its column's width."""
    if len(text) <= width:
        return [text]
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False) or [""]


def facts(pairs: Iterable[tuple[str, object]]) -> None:
    """Print names and values on stdout, one pair per line, values aligned."""
    listed = [(name, _cell(value)) for name, value in pairs if value is not None and value != ""]
    margin = " " * (max((len(name) for name, _ in listed), default=0) + len(GAP))
    for name, value in listed:
        line = f"{name:<{len(margin)}}{value}".rstrip()
        # A path alone stays beside its name, however long it is.
        click.echo(terminal.folded(line, terminal.columns(), margin) if " " in value else line)


def say(text: str, indent: str = "  ") -> None:
    """Print sentences on stdout; later lines of a folded one are indented."""
    click.echo(terminal.folded(text, terminal.columns(), indent))


def verdicts(checks: Iterable[Mapping[str, Any]]) -> None:
    """Print checks on stdout, each ``PASSED`` or ``FAILED`` with its name and what was found."""
    for check in checks:
        word, colour = ("PASSED", "green") if check["passed"] else ("FAILED", "red")
        text = terminal.folded(f"  {word}  {check['name']}: {check['detail']}", terminal.columns(), " " * 8)
        click.echo(text.replace(word, terminal.coloured(word, colour), 1))


def when(created: str) -> str:
    """Date and time of a record to the minute, in UTC as it is written."""
    return created[:16].replace("T", " ")


def percent(value: float | None) -> str:
    """``97.80 %``; empty where there is none."""
    return "" if value is None else f"{100 * value:.2f} %"


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        named = {str(key): _cell(one) for key, one in value.items()}
        return ", ".join(f"{key} {text}" for key, text in named.items() if text)
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_cell, value))
    return "" if value is None else str(value)


def _is_number(text: str) -> bool:
    """A figure with perhaps a unit; dates and names that begin with a digit are none."""
    return not text or re.fullmatch(r"[-+<]?[\d.,]+x?( ?[%A-Za-z]+)?", text) is not None


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
