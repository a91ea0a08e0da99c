"""How pictures look: one layout, one palette that colour-blind readers can tell apart.

A figure is a plain dictionary in Plotly's JSON form. Colours of text and grids are left to the
page's style sheet, so that the same figure serves a light and a dark page; the data's colours
(after Okabe and Ito 2008) stand out from both, and every series also has its own marker or dash.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

Figure = dict[str, Any]

BLUE, ORANGE, GREEN, RED = "#3a86c8", "#e69f00", "#009e73", "#d55e00"
PINK, SKY, GREY = "#cc79a7", "#56b4e9", "#8b929c"
SERIES = (BLUE, ORANGE, GREEN, PINK, SKY, RED, "#b2a02f", GREY)
MARKERS = ("circle", "square", "diamond", "triangle-up", "cross", "star", "hexagon", "x")
INK, FAINT = "#6b7280", "rgba(128,134,144,0.28)"
LEGEND = {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "font": {"size": 12}}
# Light to dark of one hue: reads the same in grey print and for every kind of colour vision.
HEAT = [[0.0, "#e8f1f8"], [0.35, "#9cc4e0"], [0.7, "#3a86c8"], [1.0, "#0b3c66"]]


def colour(index: int) -> str:
    """The colour of a series."""
    return SERIES[index % len(SERIES)]


def marker(index: int) -> str:
    """The marker of a series."""
    return MARKERS[index % len(MARKERS)]


def safe(text: object) -> str:
    """Text from a file for a label: Plotly reads tags in labels, so they are escaped."""
    return escape(str(text), quote=False)


def axis(title: str, **more: Any) -> dict[str, Any]:
    """An axis with its title; the title names the unit."""
    return {
        "title": {"text": title, "standoff": 10},
        "gridcolor": FAINT,
        "linecolor": FAINT,
        "zeroline": False,
        "automargin": True,
        "ticks": "",
        **more,
    }


def figure(data: Sequence[dict[str, Any]], *, height: int = 380, **layout: Any) -> Figure:
    """A figure with the common layout."""
    base: dict[str, Any] = {
        "height": height,
        "margin": {"l": 56, "r": 16, "t": 12, "b": 44},
        "font": {
            "family": "system-ui, -apple-system, Segoe UI, Roboto, sans-serif",
            "size": 13,
            "color": INK,
        },
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "hovermode": "closest",
        "hoverlabel": {"align": "left"},
        "legend": LEGEND,
        "colorway": list(SERIES),
    }
    return {"data": list(data), "layout": {**base, **layout}}


def budget_line(budget_ms: float, label: str, y: float = 0.02) -> tuple[dict[str, Any], dict[str, Any]]:
    """A dashed vertical line at the budget over the whole height, and its label at height `y` of 1."""
    line = {
        "type": "line",
        "x0": budget_ms,
        "x1": budget_ms,
        "xref": "x",
        "y0": 0,
        "y1": 1,
        "yref": "paper",
        "line": {"color": RED, "width": 2, "dash": "dash"},
    }
    text = {
        "x": budget_ms,
        "xref": "x",
        "y": y,
        "yref": "paper",
        "yanchor": "bottom",
        "xanchor": "right",
        "xshift": -4,
        "text": label,
        "showarrow": False,
        "font": {"color": RED, "size": 12},
    }
    return line, text
