"""Pictures of time: where the milliseconds go, how well they were predicted, what the proof saw.

Each function gives a Plotly figure as a dictionary, or None without data.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hwnas.estimates import Budget
from hwnas.records import Measurement, Promise, Trial, trained
from hwnas.report import phrases
from hwnas.report.plots import add_budget, hover
from hwnas.report.style import (
    BLUE,
    FAINT,
    GREEN,
    GREY,
    LEGEND,
    ORANGE,
    RED,
    Figure,
    axis,
    budget_line,
    colour,
    figure,
    safe,
)
from hwnas.units import format_ms


def stages(rows: Sequence[tuple[str, dict[str, float]]], budget_ms: float | None) -> Figure | None:
    """Where the milliseconds go: one bar per network, split into stem, stages and head."""
    rows = [(label, parts) for label, parts in rows if parts]
    if not rows:
        return None
    order = list(dict.fromkeys(place for _, parts in rows for place in parts))
    order.sort(key=lambda p: (p != "stem", not p.startswith("stage"), p == "head"))
    data = []
    for at, place in enumerate(order):
        name = phrases.stage_name(place)
        values = [parts.get(place, 0.0) for _, parts in rows]
        data.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": name,
                "y": [safe(label) for label, _ in rows],
                "x": values,
                "marker": {"color": GREY if place in ("stem", "head") else colour(at), "line": {"width": 0}},
                "text": [f"{v:.2g}" if v > 0.08 * _total(rows) else "" for v in values],
                "textposition": "inside",
                "insidetextanchor": "middle",
                "textangle": 0,
                "insidetextfont": {"color": "#fff", "size": 12},
                "hovertemplate": f"{safe(name)}: %{{x:.4g}} ms<extra></extra>",
            }
        )
    layout: Figure = {
        "barmode": "stack",
        "uniformtext": {"minsize": 10, "mode": "hide"},
        "xaxis": axis("predicted latency, ms"),
        "yaxis": axis("", autorange="reversed"),
        "showlegend": len(order) > 1,
        "legend": {**LEGEND, "traceorder": "normal"},
        "bargap": 0.35,
    }
    add_budget(layout, Budget(latency_ms=budget_ms) if budget_ms else None, 1.0)
    return figure(data, height=150 + 62 * len(rows), **layout)


def _total(rows: Sequence[tuple[str, dict[str, float]]]) -> float:
    return max(sum(parts.values()) for _, parts in rows)


def predicted_measured(pairs: Sequence[tuple[str, float, float, float, float]]) -> Figure | None:
    """Predicted against measured latency.

    Args:
        pairs: name, predicted, lower and upper bound, measured, all in ms.
    """
    if not pairs:
        return None
    low = 0.94 * min(min(p[2], p[4]) for p in pairs)
    high = 1.06 * max(max(p[3], p[4]) for p in pairs)
    ends = [low, high]
    band = {"color": FAINT, "width": 0}
    data: list[dict[str, Any]] = [
        {"x": ends, "y": [0.95 * v for v in ends], "mode": "lines", "line": band, "showlegend": False},
        {
            "x": ends,
            "y": [1.05 * v for v in ends],
            "mode": "lines",
            "line": band,
            "fill": "tonexty",
            "fillcolor": "rgba(128,134,144,0.15)",
            "name": "within 5 %",
        },
        {"x": ends, "y": ends, "mode": "lines", "line": {"color": GREY, "width": 1}, "name": "equal"},
    ]
    for trace in data:
        trace |= {"type": "scatter", "hoverinfo": "skip"}
    data.append(
        {
            "type": "scatter",
            "mode": "markers",
            "name": "a network, with its interval",
            "x": [p[4] for p in pairs],
            "y": [p[1] for p in pairs],
            "error_y": {
                "type": "data",
                "symmetric": False,
                "array": [p[3] - p[1] for p in pairs],
                "arrayminus": [p[1] - p[2] for p in pairs],
                "thickness": 1.2,
                "width": 3,
                "color": BLUE,
            },
            "marker": {"color": BLUE, "size": 8},
            "text": [f"{safe(p[0])}<br>{100 * (p[1] / p[4] - 1):+.1f} %" for p in pairs],
            "hovertemplate": "%{text}<br>measured %{x:.4g} ms<br>predicted %{y:.4g} ms<extra></extra>",
        }
    )
    layout = {
        "xaxis": axis("measured latency, ms", range=ends),
        "yaxis": axis("predicted latency, ms", range=ends),
    }
    return figure(data, height=380, **layout)


def sessions(tests: Sequence[tuple[str, Promise]]) -> Figure | None:
    """The promise tests: one dot per session, against the budget."""
    tests = [(label, p) for label, p in tests if p.session_ms]
    if not tests:
        return None
    data = []
    for within, name, shade, symbol in ((True, "within", GREEN, "circle"), (False, "over", RED, "x")):
        points = [(label, ms) for label, p in tests for ms in p.session_ms if (ms <= p.budget_ms) == within]
        if points:
            data.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": f"session {name} the budget",
                    "x": [ms for _, ms in points],
                    "y": [safe(label) for label, _ in points],
                    "marker": {"color": shade, "size": 12, "symbol": symbol, "opacity": 0.75},
                    "hovertemplate": "%{x:.4g} ms<extra></extra>",
                }
            )
    layout: Figure = {
        "xaxis": axis(f"{phrases.statistic(tests[0][1].percentile)} latency of one session, ms"),
        "yaxis": axis("", type="category", categoryorder="array", autorange="reversed"),
    }
    layout["yaxis"]["categoryarray"] = [safe(label) for label, _ in tests]
    budgets = {p.budget_ms for _, p in tests}
    add_budget(layout, Budget(latency_ms=max(budgets)))
    layout["shapes"] = [budget_line(b, "")[0] for b in sorted(budgets)]
    return figure(data, height=150 + 42 * len(tests), **layout)


def training(trials: Sequence[Trial]) -> Figure | None:
    """Where training time went: seconds by network, in the order of training."""
    done = trained(trials)
    if not done:
        return None
    groups = (
        ("candidate", "candidates", BLUE),
        ("probe", "short trial growths", GREY),
        ("final", "final training", ORANGE),
    )
    data = []
    for role, name, shade in groups:
        rows = [t for t in done if t.role == role]
        if rows:
            data.append(
                {
                    "type": "bar",
                    "name": name,
                    "x": [t.index for t in rows],
                    "y": [t.outcome.wall_s for t in rows],
                    "marker": {"color": shade},
                    "text": [hover(t) for t in rows],
                    "textposition": "none",
                    "hovertemplate": "%{text}<br>trained in %{y:.1f} s<extra></extra>",
                }
            )
    layout = {
        "xaxis": axis("network, in the order of the search", dtick=_every(done)),
        "yaxis": axis("training time, s"),
        "bargap": 0.25,
    }
    return figure(data, height=300, **layout)


def _every(done: Sequence[Trial]) -> int:
    return max(1, -(-(done[-1].index + 1) // 15))


def distribution(measured: Measurement) -> list[tuple[str, str]]:
    """Percentiles of single calls as table rows."""
    values = (
        ("10 % of calls take at most", measured.p10_ms),
        ("half of all calls", measured.median_ms),
        ("90 %", measured.p90_ms),
        ("95 %", measured.p95_ms),
        ("99 %", measured.p99_ms),
    )
    return [(name, format_ms(value)) for name, value in values]
