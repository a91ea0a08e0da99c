"""How wide a line may be and whether it may be coloured: what the place it goes to can show."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from typing import TextIO

import click

# Narrower terminals are treated as one of this width: a column of single words is unreadable.
LEAST_COLUMNS = 40


def columns(stream: TextIO | None = None) -> int | None:
    """Characters a line; None where lines may be of any length: no terminal, and COLUMNS says nothing."""
    given = os.environ.get("COLUMNS", "")
    if given.isdecimal() and int(given):
        return max(int(given), LEAST_COLUMNS)
    if not is_terminal(stream or sys.stdout):
        return None
    return max(shutil.get_terminal_size().columns, LEAST_COLUMNS)


def folded(text: str, width: int | None, indent: str = "") -> str:
    """Text in lines of at most `width`; later lines of a paragraph begin with `indent`.

    Only at spaces: a path or a name stays whole, so that it can be copied.
    """
    if width is None:
        return text
    lines = []
    for line in text.split("\n"):
        own = line[: len(line) - len(line.lstrip())]
        lines += textwrap.wrap(
            line,
            max(width, LEAST_COLUMNS),
            subsequent_indent=own + indent,
            break_long_words=False,
            break_on_hyphens=False,
            drop_whitespace=True,
        ) or [""]
    return "\n".join(lines)


def command(text: str, width: int | None, lead: str = "") -> str:
    """A command behind `lead`, continued by backslashes, so that what is copied still runs."""
    if width is None or len(lead) + len(text) <= width:
        return lead + text
    margin = " " * len(lead)
    lines = textwrap.wrap(
        text,
        width - 2,
        initial_indent=margin,
        subsequent_indent=margin + "  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    return lead + " \\\n".join(lines).removeprefix(margin)


def coloured(text: str, colour: str, stream: TextIO | None = None) -> str:
    """Text in a colour on a terminal that shows some; NO_COLOR (https://no-color.org) keeps it plain."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return text if plain or not is_terminal(stream or sys.stdout) else click.style(text, fg=colour, bold=True)


def is_terminal(stream: TextIO) -> bool:
    """Whether people look at what is written there."""
    try:
        return stream.isatty()
    except (AttributeError, ValueError):  # no stream, or a closed one
        return False
