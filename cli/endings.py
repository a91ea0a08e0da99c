"""How a command ends: every error is one sentence, an exit status and, under ``--json``, one object.

What hwnas raises on purpose carries its own message and status. What the operating system, a parser or
the memory says is put into words here, once; an error in another package's plug-in names the package.
Anything else is a bug: it keeps its traceback, exit 1.
"""

from __future__ import annotations

import errno
import io
import json
import os
import sys
import traceback
import warnings
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import click

from hwnas import plugins, schemas
from hwnas.errors import DataFormatError, HwnasError, InputError, PackageWarning

from . import terminal

INTERRUPTED = 130
# The reader of standard output went away (`| head`): what a shell shows for SIGPIPE.
PIPE_CLOSED = 141

_ELSEWHERE = "write elsewhere (--out; HWNAS_HOME for tables and caches)"
_HINTS = {
    errno.ENOSPC: f"no space is left on the disk; free some or {_ELSEWHERE}",
    errno.EDQUOT: f"the disk quota is used up; free some or {_ELSEWHERE}",
    errno.EFBIG: f"the file would grow beyond the limit for files; raise it (ulimit -f) or {_ELSEWHERE}",
    errno.EROFS: f"the file system is read-only; {_ELSEWHERE}",
    errno.EACCES: f"permission denied; change the permissions or {_ELSEWHERE}",
    errno.EPERM: f"the operation is not permitted; change the permissions or {_ELSEWHERE}",
    errno.EISDIR: "it is a folder, and a file is expected",
    errno.ENOTDIR: "it is a file or lies below one, and a folder is expected; name another place",
    errno.ENOTEMPTY: "the folder is not empty; name another place",
    errno.EEXIST: "it exists already; name another place",
    errno.ENAMETOOLONG: "the name is too long; give a shorter one",
    errno.ELOOP: "its symbolic links form a loop; name the file itself",
    errno.ENOENT: "it does not exist and could not be made; check the path",
    errno.EMFILE: "too many files are open; raise the limit (ulimit -n)",
    errno.ENFILE: "too many files are open on this machine; close other programs",
    errno.ENOMEM: "the machine has not enough memory; close other programs, or use less memory",
    errno.EIO: "the disk reports an error; use another disk",
    errno.ESTALE: "the network drive lost the file; mount it again",
    errno.EBUSY: "it is in use; close the program that uses it",
    errno.EBADF: "a standard stream is closed; leave it open or send it to /dev/null",
}
_MEMORY = (
    "not enough memory: use fewer images (--limit), smaller ones (--input), or a machine with more; "
    "-v shows where it ran out"
)


class Interrupted(Exception):
    """Ctrl-C, with what the user should know."""


@dataclass
class Ending:
    """What is known of a command's end.

    Attributes:
        as_json: whether standard output is to hold one JSON object.
        trace: whether errors show where they arose.
        printed: whether the object is out already.
    """

    as_json: bool
    trace: bool
    printed: bool = False

    def fail(self, exc: BaseException) -> int:
        """Say what went wrong; returns the exit status."""
        text, status = explain(exc)
        if isinstance(exc, click.UsageError) and exc.ctx is not None:
            _say(f"{exc.ctx.get_usage()}\nTry '{exc.ctx.command_path} --help' for help.\n")
            error(text)
        elif status == PIPE_CLOSED:
            pass
        elif status == 1 and not isinstance(exc, HwnasError):
            _say("".join(traceback.format_exception(exc)).rstrip("\n"))
        else:
            if self.trace and status != INTERRUPTED:
                _say("".join(traceback.format_exception(exc)).rstrip("\n"))
            if status == INTERRUPTED:
                _say(text)  # it may hold a path to copy
            else:
                error(text)
        if self.as_json and not self.printed and status != PIPE_CLOSED:
            body: dict[str, object] = {
                "schema": schemas.ERROR,
                "error": type(exc).__name__,
                "message": text,
                "exit_status": status,
            }
            smallest_ms = getattr(exc, "smallest_ms", None)
            if smallest_ms is not None:
                body["smallest_ms"] = smallest_ms
            with suppress(OSError, ValueError):
                click.echo(json.dumps(body, indent=2))
            self.printed = True
        return status


def explain(exc: BaseException) -> tuple[str, int]:
    """An error in one sentence, and its exit status; status 1 is a bug."""
    if isinstance(exc, HwnasError):
        return str(exc), exc.exit_status
    if isinstance(exc, (KeyboardInterrupt, Interrupted, click.Abort)):
        return str(exc) or "Interrupted.", INTERRUPTED
    if isinstance(exc, click.ClickException):
        return exc.format_message(), exc.exit_code
    if isinstance(exc, BrokenPipeError):
        return "the program that reads the output has ended", PIPE_CLOSED
    if isinstance(exc, OSError):
        return _of_system(exc)
    if isinstance(exc, MemoryError) or _is_torch_memory(exc):
        return _MEMORY, DataFormatError.exit_status
    if isinstance(exc, RecursionError):
        return "a file is nested too deeply to be read; -v shows which", DataFormatError.exit_status
    if isinstance(exc, UnicodeDecodeError):
        return f"a file is not text in {exc.encoding}: {exc}; -v shows which", DataFormatError.exit_status
    if isinstance(exc, UnicodeEncodeError):
        bad = exc.object[exc.start : exc.end]
        return f"a name holds {bad!r}, which {exc.encoding} cannot encode; rename it", InputError.exit_status
    if isinstance(exc, json.JSONDecodeError) or type(exc).__module__.partition(".")[0] == "yaml":
        return f"a file is damaged: {_one_line(str(exc))}; -v shows which", DataFormatError.exit_status
    if (told := plugins.culprit(exc)) is not None:
        return f"{told}; -v shows where", InputError.exit_status
    return f"internal error: {type(exc).__name__}: {_one_line(str(exc))}", 1


def _of_system(exc: OSError) -> tuple[str, int]:
    """An error of a place is the user's choice of it; one without a number is a parser's word on content."""
    if exc.errno is None:
        return _one_line(str(exc)) or type(exc).__name__, DataFormatError.exit_status
    named = [os.fsdecode(name) for name in (exc.filename, exc.filename2) if isinstance(name, (str, bytes))]
    place = " to ".join(named) or "standard streams" * (exc.errno == errno.EBADF) or "a file"
    hint = _HINTS.get(exc.errno, _one_line(exc.strerror or str(exc)))
    return f"{place}: {hint}", InputError.exit_status


def _is_torch_memory(exc: BaseException) -> bool:
    return type(exc).__name__ == "OutOfMemoryError" or (
        isinstance(exc, RuntimeError) and "DefaultCPUAllocator" in str(exc)
    )


def _one_line(text: str) -> str:
    """The words of a library, which wraps them as it likes."""
    return " ".join(text.split())


def error(text: str) -> None:
    """Say on stderr what went wrong."""
    shown = terminal.folded(f"Error: {text}", terminal.columns(sys.stderr), "  ")
    _say(terminal.coloured("Error:", "red", sys.stderr) + shown.removeprefix("Error:"))


def _say(text: str) -> None:
    """A line on stderr; a closed one is no reason for another error."""
    with suppress(OSError, ValueError):
        click.echo(text, err=True)


def flush() -> None:
    """Write what is still held back, so that a full disk or a closed pipe is told by us."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()


def occupy() -> None:
    """Standard streams that are closed lead nowhere: else the next file that is opened takes their number,
    and what a library prints lands in it.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free


def silence() -> None:
    """Let the interpreter's own last flush go nowhere: what it would say has been said."""
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def plain_warnings() -> None:
    """A package that hwnas leaves out is told in one line, without a place in the code."""
    usual = warnings.formatwarning

    def line(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> str:
        told = issubclass(category, PackageWarning)
        return f"Warning: {message}\n" if told else usual(message, category, *place, **more)

    warnings.formatwarning = line


def spell_anything() -> None:
    """Names that the terminal's encoding lacks are written with escapes instead of an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what stands in for a text stream cannot be told
            with suppress(ValueError, OSError):
                stream.reconfigure(errors="backslashreplace")
