"""Pictures of a latency table: block costs, and what happens to them inside a network."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from hwnas import sizes
from hwnas.report import phrases
from hwnas.report.style import BLUE, GREY, HEAT, Figure, axis, colour, figure, marker, safe
from hwnas.spec import BlockSpec
from hwnas.units import format_ms

MAX_LABELLED = 250  # cells; beyond that the figures are on hover only


def heat_map(costs: Mapping[BlockSpec, float]) -> Figure | None:
    """Block costs in ms: one row per kind of block, one column per shape, the deepest layers to the right."""
    if not costs:
        return None
    heads = {_shape(b) for b in costs if b.kind == "classifier"}
    shapes = sorted({_shape(b) for b in costs}, key=lambda s: (s in heads, -math.prod(s[0]), s))
    kinds = sorted({_kind(b) for b in costs})
    cells = {(_kind(b), _shape(b)): (b, ms) for b, ms in costs.items()}
    grid = [[cells.get((kind, shape)) for shape in shapes] for kind in kinds]
    labelled = len(kinds) * len(shapes) <= MAX_LABELLED
    data = {
        "type": "heatmap",
        "x": [_shape_name(shape) for shape in shapes],
        "y": [safe(kind) for kind in kinds],
        "z": [[cell[1] if cell else None for cell in row] for row in grid],
        "text": [[f"{cell[1]:.3g}" if cell and labelled else "" for cell in row] for row in grid],
        "texttemplate": "%{text}",
        "customdata": [
            [f"{phrases.block(cell[0])}<br>{format_ms(cell[1])}" if cell else "" for cell in row]
            for row in grid
        ],
        "hovertemplate": "%{customdata}<extra></extra>",
        "colorscale": HEAT,
        "xgap": 2,
        "ygap": 2,
        "colorbar": {"title": {"text": "ms", "side": "right"}, "thickness": 12, "outlinewidth": 0},
        "hoverongaps": False,
    }
    layout = {
        "xaxis": axis("channels in and out, input size in pixels", type="category", showgrid=False),
        "yaxis": axis("", type="category", showgrid=False, autorange="reversed"),
    }
    return figure([data], height=min(190 + 30 * len(kinds), 900), **layout)


def _shape(block: BlockSpec) -> tuple[sizes.Sides, int, int, int]:
    return (sizes.sides(block.size_in), block.c_in, block.c_out, block.stride)


def _shape_name(shape: tuple[sizes.Sides, int, int, int]) -> str:
    size, c_in, c_out, stride = shape
    return f"{c_in} to {c_out}{' /2' if stride == 2 else ''} @{sizes.brief(sizes.of(*size))}"


def _kind(block: BlockSpec) -> str:
    name = block.kind if block.kind == "classifier" else f"{block.kind} {block.kernel}x{block.kernel}"
    name += f" e{block.expand}" if block.expand > 1 else ""
    return name + (f" SE{block.se:g}" if block.se else "")


def in_context(pairs: Sequence[tuple[BlockSpec, float, float]]) -> Figure | None:
    """Cost of each block inside a network against its time alone.

    Args:
        pairs: block, time alone and cost in context, in ms.
    """
    if not pairs:
        return None
    values = [v for _, alone, inside in pairs for v in (alone, inside)]
    ends = [0.8 * max(min(values), 1e-4), 1.2 * max(values)]
    data = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": "equal",
            "x": ends,
            "y": ends,
            "line": {"color": GREY, "width": 1},
            "hoverinfo": "skip",
        }
    ]
    for at, kind in enumerate(sorted({b.kind for b, _, _ in pairs})):
        mine = [p for p in pairs if p[0].kind == kind]
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": kind,
                "x": [alone for _, alone, _ in mine],
                "y": [inside for _, _, inside in mine],
                "text": [f"{phrases.block(b)}<br>{100 * (i / a - 1):+.0f} % in context" for b, a, i in mine],
                "hovertemplate": "%{text}<extra></extra>",
                "marker": {"color": colour(at), "symbol": marker(at), "size": 8, "opacity": 0.8},
            }
        )
    ticks = [m * 10.0**e for e in range(-5, 4) for m in (1, 2, 5) if ends[0] <= m * 10.0**e <= ends[1]]
    logarithmic = {"type": "log", "tickvals": ticks, "ticktext": [f"{v:g}" for v in ticks]}
    layout = {
        "xaxis": axis("timed alone, ms", **logarithmic),
        "yaxis": axis("inside a network, ms", **logarithmic),
    }
    return figure(data, height=380, **layout)


def noise(spreads: Sequence[float]) -> Figure | None:
    """How far apart sessions of the same thing were: one value per measurement, in percent."""
    if len(spreads) < 5:
        return None
    data = {
        "type": "histogram",
        "x": list(spreads),
        "marker": {"color": BLUE},
        "nbinsx": 30,
        "hovertemplate": "%{y} measurements with %{x} %<extra></extra>",
    }
    layout = {
        "xaxis": axis("standard error of a measurement, % of its value"),
        "yaxis": axis("measurements"),
        "bargap": 0.05,
    }
    return figure([data], height=300, **layout)
