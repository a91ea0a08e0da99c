"""Pictures of a classifier's mistakes, and of how it learned."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from hwnas.arrays import Uint8s
from hwnas.by_class import ByClass
from hwnas.lazy import lazy_import
from hwnas.report.style import (
    BLUE,
    GREEN,
    HEAT,
    INK,
    ORANGE,
    Figure,
    axis,
    figure,
    safe,
)
from hwnas.top_losses import TopLoss

if TYPE_CHECKING:
    from PIL import Image as Pillow
else:
    Pillow = lazy_import("PIL.Image")

# More bars or cells than these cannot be read; the weakest classes are drawn.
BARS, CELLS, LABELLED = 40, 40, 20
# Letters of a class's name beside an axis, and under a picture.
LONGEST = 18
# Pictures in a row of the worst images.
_ACROSS = 6


def recalls(figures: ByClass) -> Figure:
    """Share of each class that is right, weakest on top; the mean and the share by chance as lines."""
    shown = figures.weakest[:BARS]
    bars = {
        "type": "bar",
        "orientation": "h",
        "x": [100 * (row.recall or 0.0) for row in shown],
        "y": list(range(len(shown))),
        "text": [f"{100 * (row.recall or 0.0):.0f} % of {row.images}" for row in shown],
        "customdata": [safe(row.name) for row in shown],
        "textposition": "auto",
        "insidetextanchor": "end",
        "cliponaxis": False,
        "hovertemplate": "%{customdata}: %{text}<extra></extra>",
        "marker": {"color": BLUE, "opacity": 0.85},
        "showlegend": False,
    }
    styles = (
        (f"mean {100 * figures.balanced_accuracy:.0f} %", figures.balanced_accuracy, ORANGE, "dash"),
        (f"by chance {100 * figures.chance:.0f} %", figures.chance, INK, "dot"),
    )
    # Shapes have no place in a legend: an empty series stands there for each line.
    keys = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": name,
            "x": [None],
            "y": [None],
            "line": {"color": colour, "width": 2, "dash": dash},
        }
        for name, _, colour, dash in styles
    ]
    lines = [
        {
            "type": "line",
            "x0": 100 * value,
            "x1": 100 * value,
            "y0": 0,
            "y1": 1,
            "yref": "paper",
            "line": {"color": colour, "width": 2, "dash": dash},
        }
        for _, value, colour, dash in styles
    ]
    layout = {
        "xaxis": axis("right, % of the class's images", range=[0, 104]),
        "yaxis": _names([row.name for row in shown], autorange="reversed"),
        "bargap": 0.25,
        "shapes": lines,
    }
    return figure([bars, *keys], height=_height(len(shown)), **layout)


def _names(names: Sequence[str], title: str = "", **more: object) -> dict[str, object]:
    """An axis of classes by place: long names are cut, and two that are then alike stay apart."""
    cut = [safe(_cut(name)) for name in names]
    places = list(range(len(names)))
    return axis(title, tickmode="array", tickvals=places, ticktext=cut, showgrid=False, **more)


def _cut(name: str) -> str:
    return name if len(name) <= LONGEST else name[: LONGEST - 1] + "…"


def confusion(figures: ByClass) -> Figure | None:
    """Which class is taken for which, as shares of each true class; None for too many classes."""
    matrix = figures.confusion_matrix
    if matrix is None or len(matrix) > CELLS:
        return None
    names = [row.name for row in figures.classes]
    places = list(range(len(names)))
    words = len(matrix) <= LABELLED
    data = {
        "type": "heatmap",
        "x": places,
        "y": places,
        "z": [[100 * n / sum(row) if sum(row) else None for n in row] for row in matrix],
        "zmin": 0,
        "zmax": 100,
        "text": [[str(n) if n and words else "" for n in row] for row in matrix],
        "texttemplate": "%{text}",
        "customdata": [
            [
                f"{n} of {sum(row)} images of {safe(true)} predicted as {safe(named)}"
                for n, named in zip(row, names)
            ]
            for row, true in zip(matrix, names)
        ],
        "hovertemplate": "%{customdata}<extra></extra>",
        "colorscale": HEAT,
        "xgap": 1,
        "ygap": 1,
        "colorbar": {"title": {"text": "% of row", "side": "right"}, "thickness": 12, "outlinewidth": 0},
        "hoverongaps": False,
    }
    layout = {
        "xaxis": _names(names, "predicted class", side="bottom"),
        "yaxis": _names(names, "true class", autorange="reversed"),
    }
    return figure([data], height=_height(len(matrix)), **layout)


def _height(rows: int) -> int:
    return max(280, min(130 + 24 * rows, 900))


def top_losses(rows: Sequence[TopLoss], pictures: Uint8s) -> Figure:
    """The images that the network is most wrong about, the worst first.

    Args:
        rows: what is known of each.
        pictures: uint8 (n, H, W, C).
    """
    lines = -(-len(rows) // _ACROSS)
    images, words = [], []
    for at, (row, pixels) in enumerate(zip(rows, pictures)):
        down, across = divmod(at, _ACROSS)
        images.append(
            {
                "source": _png(pixels),
                "x": across + 0.5,
                "y": lines - down - 0.08,
                "xref": "x",
                "yref": "y",
                "xanchor": "center",
                "yanchor": "top",
                "sizex": 0.9,
                "sizey": 0.66,
                "layer": "above",
            }
        )
        named = f"not {safe(_cut(row.named))}" if row.named != row.true else "right, unsure"
        shown = (safe(_cut(row.true)), named, f"{100 * row.probability:.1f} %")
        words.append(
            {
                "text": "<br>".join(shown),
                "x": across + 0.5,
                "y": lines - down - 0.76,
                "xanchor": "center",
                "yanchor": "top",
                "showarrow": False,
                "font": {"size": 11},
            }
        )
    hidden = {"visible": False, "fixedrange": True}
    layout = {
        "xaxis": {**hidden, "range": [0, _ACROSS]},
        "yaxis": {**hidden, "range": [-0.2, lines]},
        "images": images,
        "annotations": words,
    }
    return figure([], height=190 * lines + 30, **layout)


def _png(pixels: Uint8s) -> str:
    """A picture (H, W, C) as the address of a PNG that it holds itself."""
    data = io.BytesIO()
    Pillow.fromarray(pixels if pixels.shape[2] == 3 else pixels[..., 0]).save(data, "PNG")
    return f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"


def learning(curve: Sequence[Mapping[str, float]], base_line: float | None) -> Figure | None:
    """Loss over the images seen, and validation accuracy where it was looked at, above its baseline."""
    rows = [row for row in curve if "images" in row and "loss" in row]
    if len(rows) < 2:
        return None
    data: list[dict[str, object]] = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": "training loss",
            "x": [row["images"] for row in rows],
            "y": [row["loss"] for row in rows],
            "line": {"color": ORANGE, "width": 2.5},
            "hovertemplate": "%{x:,} images: loss %{y:.3f}<extra></extra>",
        }
    ]
    layout: Figure = {
        "xaxis": axis("training images seen", rangemode="tozero"),
        "yaxis": axis("training loss", rangemode="tozero"),
    }
    watched = [row for row in rows if "accuracy" in row]
    if watched:
        data.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": "validation accuracy",
                "x": [row["images"] for row in watched],
                "y": [100 * row["accuracy"] for row in watched],
                "yaxis": "y2",
                "line": {"color": BLUE, "width": 2.5},
                "marker": {"color": BLUE, "size": 8},
                "hovertemplate": "%{x:,} images: %{y:.1f} %<extra></extra>",
            }
        )
        layout["yaxis2"] = axis(
            "validation accuracy, %", overlaying="y", side="right", range=[0, 104], dtick=20, showgrid=False
        )
        layout["margin"] = {"l": 56, "r": 56, "t": 12, "b": 44}
        if base_line is not None:
            ends = [0, rows[-1]["images"]]
            data.append(
                {
                    "type": "scatter",
                    "mode": "lines",
                    "name": f"baseline {100 * base_line:.0f} %",
                    "x": ends,
                    "y": [100 * base_line] * 2,
                    "yaxis": "y2",
                    "line": {"color": GREEN, "width": 1.5, "dash": "dot"},
                    "hoverinfo": "skip",
                }
            )
    return figure(data, height=320, **layout)
