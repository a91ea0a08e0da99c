"""Runs to a page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hwnas.records import now_utc, trained
from hwnas.report import phrases
from hwnas.report.chapter import chapter, headline_of
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
    return Page(title, chapters, _comparisons(runs) if several else [], now_utc())


def _comparisons(runs: Sequence[RunData]) -> list[Section]:
    """One comparison for each data set: accuracies on different images do not compare."""
    groups = by_data(runs)
    if len(groups) == 1:
        return [_compared(groups[0], "The runs compared")]
    found = []
    for number, group in enumerate(groups, start=1):
        name = group[0].data or "no data set"
        twice = sum((other[0].data or "no data set") == name for other in groups) > 1
        title = f"The runs on {name}" + (f", as it was for {group[0].name}" if twice else "")
        found.append(_compared(group, title, f"-data{number}"))
    return found


def by_data(runs: Sequence[RunData]) -> list[list[RunData]]:
    """Runs in groups of one data set each, in the order of their first runs.

    A fingerprint is of images and splits, so that it differs between seeds; runs that were to see the
    very same images and did not, saw a data set that was changed in between.
    """
    groups: list[list[RunData]] = []
    seen: list[dict[tuple[object, ...], object]] = []
    for run in runs:
        spec = run.network or (run.trials[0].spec if run.trials else None)
        config = run.config
        asked = (config.get("seed"), config.get("limit"), spec.input_shape if spec else None)
        mark = config.get("data_fingerprint")
        for group, marks in zip(groups, seen):
            if group[0].data == run.data and marks.get(asked, mark) == mark:
                group.append(run)
                marks.setdefault(asked, mark)
                break
        else:
            groups.append([run])
            seen.append({asked: mark})
    return groups


def _compared(runs: Sequence[RunData], title: str, tag: str = "") -> Section:
    """Runs on one data set in one picture and one table."""
    rows = []
    for run in runs:
        budget = run.budget
        best = run.chosen
        seconds = run.seconds()
        split, accuracy = run.accuracy()
        images = sum(t.outcome.images for t in trained(run.trials))
        setting, figures = run.setting(), run.by_class()
        rows.append(
            (
                run.name,
                run.result.strategy if run.result else run.verb,
                headline_of(run, budget, best)[0],
                best.spec.depths_text if best else "",
                format_ms(run.result.measured.median_ms) if run.result else "",
                f"{phrases.percent(accuracy)} ({split})" if accuracy is not None else "",
                phrases.percent(figures[1].balanced_accuracy) if figures is not None else "",
                f"{images:,}" if images else "",
                format_seconds(seconds) if seconds else "",
                setting.describe() if setting is not None else "",
            )
        )
    head = (
        "run",
        "strategy",
        "in short",
        "network",
        "median",
        "top-1",
        "balanced",
        "training images",
        "time",
        "conditions",
    )
    drawn = comparison(runs)
    pictures = [Picture(f"compared{tag}", drawn, f"fronts and winners: {title}")] if drawn else []
    lead = "Each line is the Pareto front of one run; the star is its winner." if drawn else ""
    if len({row[-1] for row in rows if row[4]}) > 1:
        lead += " The latencies were taken under different conditions, named below, and do not compare."
    return Section(title, lead.strip(), pictures, [Table(head, rows).without_empty()])
