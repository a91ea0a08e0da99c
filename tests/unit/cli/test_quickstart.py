"""What `hwnas quickstart` tells: a line for each step and a summary, not every line of the log."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from hwnas_cli.chain import Done, chain
from hwnas_cli.console import Output, brief
from hwnas_cli.quickstart import _summary, bar


def test_the_bar_shows_the_share_of_the_budget() -> None:
    """30 characters: 61 % are 18.3 of them; more than the whole budget fills it."""
    assert bar(0.61) == "[" + "#" * 18 + "-" * 12 + "] 61 %"
    assert bar(1.2) == "[" + "#" * 30 + "] 120 %"


def test_a_brief_chain_leaves_out_log_lines_and_keeps_warnings() -> None:
    stream = io.StringIO()
    ui = Output(stream=stream)
    with brief():
        ui.emit("growth", {"text": "grow stage 1"})
        ui.warn("not used")
    ui.emit("growth", {"text": "grow stage 2"})
    assert stream.getvalue().splitlines() == ["Warning: not used", "grow stage 2"]


@pytest.mark.parametrize(("level", "shown"), [(0, ""), (1, "a: spread\n")])
def test_gates_of_single_rows_are_details(level: int, shown: str) -> None:
    stream = io.StringIO()
    Output(level=level, stream=stream).emit("gate", {"text": "a: spread"})
    assert stream.getvalue() == shown


def test_a_told_step_gives_its_result_in_place_of_its_output(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    told: list[tuple[str, dict[str, Any]]] = []
    ended: list[int] = []
    chain(
        Output(),
        "hwnas.quickstart/1",
        tmp_path,
        [["count", "resnet20"]],
        tell=lambda verb, done: told.append((verb, done.result or {})),
        summary=lambda run, done: ended.append(len(done)),
    )
    ((verb, body),) = told
    assert (verb, len(body["networks"]), ended) == ("count", 1, [1])
    assert capsys.readouterr().out.split() == ["$", "hwnas", "count", "resnet20"]


def test_the_summary_says_what_was_found_and_where_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    search = {
        "best": {"depths": [1, 1, 3], "measured": {"median_ms": 0.3}, "macs": 2e7, "params": 1e5},
        "promise": {"budget_ms": 0.4, "misses": 1, "session_ms": [0.3] * 9},
        "stopped": "no further growth fits",
        "accuracy": {"test": 0.9164},
    }
    results: list[dict[str, Any]] = [
        {},
        search,
        {"engine": "runs/a/engine.onnx"},
        {"checks": [{"passed": True}] * 10},
        {"path": "runs/a/report.html"},
    ]
    _summary(Path("runs/a"), [Done("hwnas", 0, 12.0, body) for body in results])
    lines = capsys.readouterr().out.splitlines()[1:]
    assert lines == [
        "network   1-1-3 (blocks per stage), 20 MMAC, 100 kparam",
        f"latency   0.3 ms of 0.4 ms  {bar(0.75)}",
        "          25 % of the budget is left: no further growth fits",
        "          within the budget in 8 of 9 sessions",
        "accuracy  91.6 % on the test images",
        "engine    runs/a/engine.onnx, 10 of 10 checks passed",
        "report    runs/a/report.html",
        "took      1 min 00 s",
    ]
