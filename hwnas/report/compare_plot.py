"""Several runs in one picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hwnas.report import plots
from hwnas.report.collect import RunData
from hwnas.report.style import INK, Figure, axis, budget_line, colour, figure, marker, safe
from hwnas.units import format_ms


def comparison(runs: Sequence[RunData]) -> Figure | None:
    """Front and winner of each run; the budgets that they were given."""
    data: list[dict[str, Any]] = []
    budgets: set[float] = set()
    for at, run in enumerate(runs):
        budget = run.budget
        budgets |= {budget.latency_ms} if budget and budget.latency_ms else set()
        line = plots.front(run.trials, budget)
        if not line:
            continue
        own = {"color": colour(at), "symbol": marker(at), "size": 8}
        name = safe(run.name if run.result is None else f"{run.name}, {run.result.strategy}")
        data.append(
            plots.points(
                line,
                budget,
                name=name,
                mode="lines+markers",
                marker=own,
                line={"color": colour(at), "width": 2, "shape": "hv"},
                legendgroup=str(at),
            )
        )
        if run.best is not None and run.best.evaluation is not None:
            star = {"color": colour(at), "size": 17, "symbol": "star", "line": {"color": INK, "width": 1}}
            data.append(plots.points([run.best], budget, marker=star, showlegend=False, legendgroup=str(at)))
    if not data:
        return None
    layout: Figure = {
        "xaxis": axis("latency, ms (measured where it was, else predicted)"),
        "yaxis": axis("validation accuracy, %"),
        "shapes": [],
        "annotations": [],
    }
    for value in sorted(budgets):
        line_shape, text = budget_line(value, f"budget {format_ms(value)}")
        layout["shapes"].append(line_shape)
        layout["annotations"].append(text)
    return figure(data, height=430, **layout)
