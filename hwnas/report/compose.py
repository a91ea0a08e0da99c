"""Runs to a page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hwnas.records import now_utc, trained
from hwnas.report import phrases
from hwnas.report.chapter import chapter, headline_of, known_budget, provisional
from hwnas.report.collect import RunData, collect
from hwnas.report.compare_plot import comparison
from hwnas.report.page import Page, Picture, Section, Table
from hwnas.units import format_ms, format_seconds


def compose(paths: Sequence[Path]) -> Page:
    """The page of one or several runs; InputError names a folder that is no run."""
    runs = [collect(path) for path in paths]
    several = len(runs) > 1
    chapters = [chapter(run, f"-{n}" if several else "") for n, run in enumerate(runs, start=1)]
    title = f"{len(runs)} runs side by side" if several else f"{chapters[0].name}: {chapters[0].headline}"
    return Page(title, chapters, _compared(runs) if several else None, now_utc())


def _compared(runs: Sequence[RunData]) -> Section:
    """All runs in one picture and one table."""
    rows = []
    for run in runs:
        budget = known_budget(run)
        best = run.best or provisional(run, budget)
        seconds = run.seconds()
        split, accuracy = run.accuracy()
        images = sum(t.outcome.images for t in trained(run.trials))
        rows.append(
            (
                run.name,
                run.result.strategy if run.result else run.verb,
                headline_of(run, budget, best)[0],
                best.spec.depths_text if best else "",
                format_ms(run.result.measured.median_ms) if run.result else "",
                f"{phrases.percent(accuracy)} ({split})" if accuracy is not None else "",
                f"{images:,}" if images else "",
                format_seconds(seconds) if seconds else "",
            )
        )
    head = ("run", "strategy", "in short", "network", "median", "top-1", "training images", "time")
    drawn = comparison(runs)
    pictures = [Picture("compared", drawn, "fronts and winners of all runs")] if drawn else []
    lead = "Each line is the Pareto front of one run; the star is its winner."
    return Section("The runs compared", lead, pictures, [Table(head, rows)])
