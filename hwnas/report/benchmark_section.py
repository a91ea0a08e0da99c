"""The network in every runtime and precision that works here, by `hwnas benchmark`: a chart, a table."""

from __future__ import annotations

from hwnas.by_engine import BenchmarkOutcome, EngineLine
from hwnas.report import phrases
from hwnas.report.collect import RunData
from hwnas.report.page import Picture, Section, Table
from hwnas.report.style import BLUE, GREEN, GREY, Figure, axis, figure, safe
from hwnas.units import format_count, format_ms


def benchmark(run: RunData) -> Section | None:
    """Chart and table of the engines that were compared."""
    found = run.benchmark
    if found is None:
        return None
    drawn = chart(found)
    alt = "latency of the network in every runtime and precision"
    lead = "One network, timed in turn in all of them"
    if found.fastest_within_loss is not None:
        best = found.engines[found.fastest_within_loss]
        lead += (
            f"; {_name(best)} is the fastest that loses no more than {100 * found.max_loss:g} points of top-1"
        )
    head = ("runtime", "precision", "size", "lowest", "median", "p95", "top-1", "same class", "")
    return Section(
        "Every runtime and precision here",
        f"{lead}. On {found.device_arch}, batch {found.batch}, {found.threads} thread"
        f"{'' if found.threads == 1 else 's'}.",
        [Picture("engines", drawn, alt)] if drawn is not None else [],
        [Table(head, [_row(found, at) for at in range(len(found.engines))]).without_empty()],
    )


def chart(found: BenchmarkOutcome) -> Figure | None:
    """A bar for each engine, fastest first, of its lowest time; a mark at p95. The fastest that loses no
    more than is allowed is green, what loses more or fails its checks grey.
    """
    timed = [(at, line) for at, line in enumerate(found.engines) if line.floor_ms is not None]
    if not timed:
        return None
    timed.sort(key=lambda one: one[1].floor_ms or 0.0, reverse=True)  # bars are drawn from below
    names = [safe(_name(line)) for _, line in timed]
    bars = {
        "type": "bar",
        "orientation": "h",
        "name": "lowest",
        "x": [line.floor_ms for _, line in timed],
        "y": names,
        "marker": {"color": [_shade(found, at) for at, _ in timed]},
        "text": [_accuracy(line) for _, line in timed],
        "textposition": "auto",
        "hovertemplate": "%{y}: %{x:.3g} ms at its lowest<extra></extra>",
    }
    tails = {
        "type": "scatter",
        "mode": "markers",
        "name": "p95",
        "x": [line.p95_ms for _, line in timed],
        "y": names,
        "marker": {"symbol": "line-ns-open", "size": 12, "color": GREY},
        "hovertemplate": "%{y}: p95 %{x:.3g} ms<extra></extra>",
    }
    layout = {"xaxis": axis("milliseconds for a call", rangemode="tozero"), "yaxis": axis("")}
    return figure([bars, tails], height=110 + 34 * len(timed), **layout)


def _name(line: EngineLine) -> str:
    return f"{line.backend} {line.precision}" + (f" ({line.form})" if line.form else "")


def _shade(found: BenchmarkOutcome, at: int) -> str:
    if at == found.fastest_within_loss:
        return GREEN
    line = found.engines[at]
    loses = (
        found.accuracy is not None
        and line.accuracy is not None
        and found.accuracy - line.accuracy > found.max_loss
    )
    return GREY if loses or line.passed is False else BLUE


def _accuracy(line: EngineLine) -> str:
    if line.accuracy is not None:
        return f"{phrases.percent(line.accuracy)} top-1"
    return "" if line.top1_agreement is None else f"{phrases.percent(line.top1_agreement)} same class"


def _row(found: BenchmarkOutcome, at: int) -> tuple[str, ...]:
    line = found.engines[at]
    marks = ["fastest"] if at == found.fastest else []
    marks += [f"fastest within {100 * found.max_loss:g} points"] if at == found.fastest_within_loss else []
    return (
        line.backend,
        line.precision,
        format_count(line.bytes, "B") if line.bytes is not None else "",
        *(format_ms(ms) if ms is not None else "" for ms in (line.floor_ms, line.median_ms, line.p95_ms)),
        phrases.percent(line.accuracy) if line.accuracy is not None else "",
        phrases.percent(line.top1_agreement) if line.top1_agreement is not None else "",
        line.error or "; ".join(marks),
    )
