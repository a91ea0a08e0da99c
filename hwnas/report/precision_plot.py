"""Precision by block: which are in int8, what each of them gains and what it would lose."""

from __future__ import annotations

from typing import Any

from hwnas.by_block import Mixed
from hwnas.report.style import BLUE, INK, ORANGE, Figure, axis, figure, safe

SHADES = {"int8": BLUE, "fp32": ORANGE, "bf16": ORANGE}


def by_block(mixed: Mixed) -> Figure:
    """A bar for each block: points of top-1 that int8 is thought to lose there, in the colour of the
    precision that was chosen; a mark for the time that int8 saves there, where it was timed.
    """
    places = list(range(len(mixed.blocks)))
    names = [safe(block.block) for block in mixed.blocks]
    used = {block.precision for block in mixed.blocks}
    data = [_bars(mixed, precision) for precision in SHADES if precision in used]
    layout: dict[str, Any] = {
        "xaxis": axis("block", tickvals=places, ticktext=names, tickangle=-45),
        "yaxis": axis("points of top-1 lost in int8"),
        "barmode": "overlay",
    }
    if all(block.gain_ms is not None for block in mixed.blocks):
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": "time saved in int8",
                "x": places,
                "y": [1e3 * (block.gain_ms or 0.0) for block in mixed.blocks],
                "yaxis": "y2",
                "marker": {"symbol": "diamond", "size": 9, "color": INK},
                "hovertemplate": "%{y:.3g} us saved<extra></extra>",
            }
        )
        layout["yaxis2"] = axis("us saved in int8", overlaying="y", side="right", showgrid=False)
    return figure(data, height=360, **layout)


def _bars(mixed: Mixed, precision: str) -> dict[str, Any]:
    mine = [(at, block) for at, block in enumerate(mixed.blocks) if block.precision == precision]
    notes = [safe(block.block) + (", went back to float" if block.returned else "") for _, block in mine]
    return {
        "type": "bar",
        "name": {"int8": "in int8", "fp32": "in float", "bf16": "in bfloat16"}[precision],
        "x": [at for at, _ in mine],
        "y": [100 * block.loss for _, block in mine],
        "marker": {"color": SHADES[precision]},
        "text": notes,
        "textposition": "none",
        "hovertemplate": "%{text}<br>%{y:.3g} points<extra></extra>",
    }
