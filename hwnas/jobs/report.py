"""``hwnas report``: one or several runs as one HTML page, and its pictures as files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hwnas import runs
from hwnas.protocols import Emit
from hwnas.report import html
from hwnas.report.compose import compose
from hwnas.results import Result
from hwnas.store import refuse_foreign


@dataclass(frozen=True)
class ReportOptions:
    """What to draw.

    Attributes:
        runs: names or paths; none takes the newest run.
        out: the HTML file; default ``report.html`` in the (first) run's folder.
        pictures: ``svg`` or ``png`` writes every picture as a file too.
    """

    runs: tuple[str, ...] = ()
    out: Path | None = None
    pictures: str | None = None


class ReportOutcome(Result):
    """The report that was written: headlines and missing parts by run, and the pictures' files."""

    path: str
    headlines: dict[str, str]
    missing: dict[str, tuple[str, ...]]
    pictures: tuple[str, ...]


def report(options: ReportOptions, emit: Emit | None = None) -> ReportOutcome:
    """Draw the report.

    Returns:
        Where the page is, and what it says.

    Raises:
        InputError: no such run, or an unknown kind of picture.
        BackendUnavailable: pictures were asked for and kaleido is not here; the page is written first.
    """

    paths = [runs.resolve(name) for name in options.runs or (None,)]
    page = compose(paths)
    if options.out is not None:
        refuse_foreign(options.out, 'content="hwnas report"', "a report of hwnas")
    out = options.out or paths[0] / ("report.html" if len(paths) == 1 else "comparison.html")
    html.write(page, out)
    if emit is not None:
        emit("report", {"text": f"report written to {out}", "path": str(out)})
    pictures: list[Path] = []
    if options.pictures is not None:
        folder = out.with_suffix("").with_name(f"{out.stem}-pictures")
        pictures = html.write_pictures(page, folder, options.pictures)
    body = {
        "path": str(out),
        "headlines": {chapter.name: chapter.headline for chapter in page.chapters},
        "missing": {chapter.name: list(chapter.missing) for chapter in page.chapters},
        "pictures": [str(path) for path in pictures],
    }
    return ReportOutcome.of(body)
