"""What a dense super-network learned, pass by pass: its graph with path probabilities, and its costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from hwnas import sizes
from hwnas.report.style import BLUE, FAINT, GREEN, GREY, INK, ORANGE, RED, Figure, axis, figure, marker

Event = Mapping[str, Any]

PANELS, COLUMNS = 6, 2
# Bounds of the probability that a path takes an edge; lines of one class share width and opacity.
CLASSES = ((0.02, 0.6, 0.25), (0.1, 1.2, 0.4), (0.3, 2.2, 0.6), (0.6, 3.5, 0.8), (1.01, 5.0, 1.0))
CURVE = 8  # straight pieces of an arc


def passes(events: Sequence[Event]) -> list[Event]:
    """The events of super-network epochs that can be drawn, in order."""
    needed = ("epoch", "path_probabilities", "edges", "expected_cost", "budget")
    found = [e for e in events if e.get("event") == "supernet" and all(name in e for name in needed)]
    return [e for e in found if len(e["edges"]) == len(e["path_probabilities"])]


def shown(found: Sequence[Event]) -> list[Event]:
    """The first pass, the last, and others evenly between."""
    if len(found) <= PANELS:
        return list(found)
    return [found[round(n * (len(found) - 1) / (PANELS - 1))] for n in range(PANELS)]


def taken(edges: Sequence[Sequence[int]], probabilities: Sequence[float]) -> list[float]:
    """Probability that a path goes along each edge: that it comes to its tail, times the edge's own."""
    comes = {0: 1.0}
    found = []
    for (i, j), p in sorted(zip(map(tuple, edges), probabilities, strict=True)):
        along = comes.get(i, 0.0) * p
        comes[j] = comes.get(j, 0.0) + along
        found.append(((i, j), along))
    order = dict(found)
    return [order[i, j] for i, j in edges]


def graph(events: Sequence[Event]) -> Figure | None:
    """Small multiples of the dense graph: blocks in a row, edges as arcs, as thick as they are likely."""
    panels = shown(passes(events))
    if not panels:
        return None
    rows = -(-len(panels) // COLUMNS)
    data: list[dict[str, Any]] = []
    layout: dict[str, Any] = {"annotations": [], "showlegend": True}
    for at, event in enumerate(panels):
        own = "" if at == 0 else str(at + 1)
        data += _panel(event, own, legend=at == 0)
        column, row = at % COLUMNS, at // COLUMNS
        left, top = column / COLUMNS, 1 - row / rows
        across = [left + 0.01, left + 1 / COLUMNS - 0.01]
        up = [top - 0.8 / rows, top - 0.12 / rows]
        plain = {"showgrid": False, "zeroline": False, "showticklabels": False, "ticks": ""}
        layout[f"xaxis{own}"] = {"domain": across, "anchor": f"y{own}", **plain}
        highest = max(1, *(int(j) - int(i) - 1 for i, j in event["edges"]))
        room = [-0.3 * highest, 1.1 * highest]  # below the row of blocks for their names
        layout[f"yaxis{own}"] = {"domain": up, "anchor": f"x{own}", "range": room, **plain}
        layout["annotations"].append(
            {
                "text": f"after epoch {int(event['epoch'])}",
                "x": left + 0.01,
                "y": top - 0.02 / rows,
                "xref": "paper",
                "yref": "paper",
                "xanchor": "left",
                "yanchor": "top",
                "showarrow": False,
                "font": {"size": 12, "color": INK},
            }
        )
    return figure(data, height=60 + 190 * rows, **layout)


def _panel(event: Event, own: str, *, legend: bool) -> list[dict[str, Any]]:
    edges = [(int(i), int(j)) for i, j in event["edges"]]
    likely = dict(zip(edges, taken(edges, event["path_probabilities"])))
    axes = {"xaxis": f"x{own}", "yaxis": f"y{own}"}
    data = []
    for low, (high, width, opacity) in zip((0.0, *(c[0] for c in CLASSES)), CLASSES):
        mine = [edge for edge in edges if low <= likely[edge] < high]
        line = {"color": BLUE, "width": width}
        data.append(
            {"type": "scatter", "mode": "lines", "opacity": opacity, "line": line, **_arcs(mine), **axes}
            | {"hoverinfo": "skip", "showlegend": False}
        )
    for name, path, shade, dash in (
        ("most probable path", event.get("most_probable_path"), ORANGE, "dot"),
        ("path of the best network within the budget", event.get("derived_path"), GREEN, "solid"),
    ):
        if path:
            data.append(
                {
                    "type": "scatter",
                    "mode": "lines",
                    "name": name,
                    "legendgroup": name,
                    "showlegend": legend,
                    "line": {"color": shade, "width": 1.6, "dash": dash},
                    "hoverinfo": "skip",
                    **_arcs(list(pairwise(map(int, path))), lift=0.12 if dash == "dot" else 0.0),
                    **axes,
                }
            )
    return [*data, _blocks(event, edges, likely, axes)]


def _blocks(
    event: Event,
    edges: Sequence[tuple[int, int]],
    likely: Mapping[tuple[int, int], float],
    axes: dict[str, str],
) -> dict[str, Any]:
    """The routing blocks: how likely a path comes through each."""
    count = max(j for _, j in edges) + 1
    through = [1.0] + [sum(likely[e] for e in edges if e[1] == j) for j in range(1, count)]
    widths = [str(w) for w in event.get("widths") or range(count)]
    told = [tuple(size) if isinstance(size, list) else size for size in event.get("sizes") or []]
    pixels = [f", {sizes.text(size)} pixels" for size in told] or [""] * count
    return {
        "type": "scatter",
        "mode": "markers+text",
        "x": list(range(count)),
        "y": [0.0] * count,
        "text": widths,
        "textposition": "bottom center",
        "textfont": {"size": 10, "color": INK},
        "marker": {
            "size": [6 + 8 * p for p in through],
            "color": through,
            "cmin": 0,
            "cmax": 1,
            "colorscale": [[0, FAINT], [1, BLUE]],
            "line": {"color": GREY, "width": 1},
        },
        "hovertext": [
            f"block {j}: {w} channels{s}<br>on the path with probability {p:.0%}"
            for j, (w, s, p) in enumerate(zip(widths, pixels, through))
        ],
        "hovertemplate": "%{hovertext}<extra></extra>",
        "showlegend": False,
        **axes,
    }


def _arcs(edges: Sequence[tuple[int, int]], lift: float = 0.0) -> dict[str, list[float | None]]:
    """Half ellipses over the row of blocks, higher the farther they reach."""
    x: list[float | None] = []
    y: list[float | None] = []
    for i, j in edges:
        height = (j - i - 1) + lift
        for n in range(CURVE + 1):
            share = n / CURVE
            x.append(i + (j - i) * share)
            y.append(4 * height * share * (1 - share))
        x.append(None)
        y.append(None)
    return {"x": x, "y": y}


def costs(events: Sequence[Event]) -> Figure | None:
    """Expected cost of the super-network and the costs of what it derives, epoch by epoch."""
    found = passes(events)
    if not found:
        return None
    epochs = [int(e["epoch"]) for e in found]
    lines = (
        ("expected over all paths", "expected_cost", BLUE),
        ("most probable network", "most_probable_ms", ORANGE),
        ("best network within the budget", "derived_ms", GREEN),
    )
    data: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": name,
            "x": epochs,
            "y": [e.get(key) for e in found],
            "line": {"color": shade, "width": 2},
            "marker": {"symbol": marker(at), "size": 7},
        }
        for at, (name, key, shade) in enumerate(lines)
    ]
    budget = {"color": RED, "width": 2, "dash": "dash"}
    data.append(
        {
            "type": "scatter",
            "mode": "lines",
            "name": "budget",
            "x": epochs,
            "y": [e["budget"] for e in found],
            "line": budget,
        }
    )
    layout = {"xaxis": axis("epoch of the super-network", dtick=1), "yaxis": axis("ms", rangemode="tozero")}
    return figure(data, height=350, **layout)


def chances(events: Sequence[Event]) -> tuple[float, float] | None:
    """P(T <= budget) of a network drawn by the probabilities of the first epoch and of the last."""
    found = [e["probability_within"] for e in passes(events) if e.get("probability_within") is not None]
    return (float(found[0]), float(found[-1])) if found else None


def collapsed(events: Sequence[Event]) -> tuple[float, float] | None:
    """Shares, at the end, of stack layers that would be skipped and of layers at their smallest operator."""
    found = [e["collapse"] for e in passes(events) if isinstance(e.get("collapse"), Mapping)]
    return (float(found[-1]["skip_share"]), float(found[-1]["smallest_share"])) if found else None
