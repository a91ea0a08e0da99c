"""The dense graph in a report: probabilities of edges by hand, panels, costs against the budget."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest
from report_records import write_run

from hwnas.report import dense_plot
from hwnas.report.chapter import chapter
from hwnas.report.collect import collect
from hwnas.runs import RunFolder

EDGES = [[0, 1], [0, 2], [1, 2], [1, 3], [2, 3]]


def event(epoch: int, p: float = 0.25) -> dict[str, Any]:
    return {
        "event": "supernet",
        "epoch": epoch,
        "edges": EDGES,
        "path_probabilities": [p, 1 - p, 0.4, 0.6, 1.0],
        "widths": [16, 24, 32, 256],
        "sizes": [8, 8, 4, 4],
        "expected_cost": 0.2,
        "budget": 0.1,
        "most_probable_ms": 0.15,
        "most_probable_path": [0, 2, 3],
        "derived_ms": 0.095,
        "probability_within": p / 2,
        "derived_path": [0, 1, 3],
        "collapse": {"skip_share": 0.5, "smallest_share": 0.25},
        "text": "one epoch",
    }


def test_an_edge_is_taken_as_often_as_paths_come_to_it() -> None:
    """0 to 1 with 0.25; then 1 to 2 with 0.4 of that, 0.1; block 2 is reached with 0.75 + 0.1."""
    found = dense_plot.taken(EDGES, [0.25, 0.75, 0.4, 0.6, 1.0])
    assert found == pytest.approx([0.25, 0.75, 0.1, 0.15, 0.85])


def test_first_last_and_even_passes_are_shown() -> None:
    assert [e["epoch"] for e in dense_plot.shown([event(n) for n in range(1, 4)])] == [1, 2, 3]
    assert [e["epoch"] for e in dense_plot.shown([event(n) for n in range(1, 12)])] == [1, 3, 5, 7, 9, 11]


def test_figures_are_valid_and_hold_the_figures() -> None:
    events = [event(1), event(2, 0.9)]
    graph, costs = dense_plot.graph(events), dense_plot.costs(events)
    assert graph is not None
    assert costs is not None
    drawn = go.Figure(graph)
    blocks = [trace for trace in drawn.data if trace.mode == "markers+text"]
    assert [list(trace.text) for trace in blocks] == [["16", "24", "32", "256"]] * 2
    assert "probability 25%" in blocks[0].hovertext[1]
    assert "probability 90%" in blocks[1].hovertext[1]
    lines = {trace.name: list(trace.y) for trace in go.Figure(costs).data}
    assert lines["budget"] == [0.1, 0.1]
    assert lines["best network within the budget"] == [0.095, 0.095]


def test_a_run_with_a_super_network_has_the_section_and_others_do_not(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    title = "What the super-network learned"
    assert title not in [section.title for section in chapter(collect(run)).sections]
    config = collect(run).config
    folder = RunFolder(run, "search", config)
    folder.append("supernet", {k: v for k, v in event(1).items() if k != "event"})
    folder.append("supernet", {k: v for k, v in event(2, 0.9).items() if k != "event"})
    folder.append("derived", {"text": "best network within the budget", "after": 0})
    section = next(s for s in chapter(collect(run)).sections if s.title == title)
    assert "50%" in section.lead
    cost = next(s for s in chapter(collect(run)).sections if s.title == "Expected and derived latency")
    assert "with probability 12.5% after the first epoch and 45.0% at the end" in cost.lead
    pictures = [p.name for s in chapter(collect(run)).sections for p in s.pictures]
    assert {"dense-graph", "dense-costs"} <= set(pictures)
    assert section.tables[0].rows == [("best network within the budget",)]
