"""Engines in the report: every runtime and precision, and precision by block."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest
from report_records import write_run

from hwnas import schemas
from hwnas.by_block import BlockPrecision, Mixed
from hwnas.by_engine import BENCHMARK
from hwnas.report.benchmark_section import benchmark, chart
from hwnas.report.collect import collect
from hwnas.report.compose import compose
from hwnas.report.precision_plot import by_block
from hwnas.report.style import BLUE, GREEN, GREY, ORANGE
from hwnas.store import write_json


def line(backend: str, precision: str, ms: float | None, accuracy: float | None) -> dict[str, Any]:
    there = ms is not None
    return {
        "backend": backend,
        "precision": precision,
        "format": backend,
        "bytes": 1000 if there else None,
        "floor_ms": ms,
        "se_ms": 0.001 if there else None,
        "median_ms": None if ms is None else 1.1 * ms,
        "p95_ms": None if ms is None else 1.5 * ms,
        "samples": 100 if there else None,
        "accuracy": accuracy,
        "top1_agreement": 0.98 if there else None,
        "parity": {"max_abs_err": 0.1, "cosine_min": 0.99} if there else None,
        "passed": True if there else None,
        "error": None if there else "the runtime has no <Erf>",
    }


# 0.900 in float; 0.894 loses 0.6 points, more than the 0.5 that are allowed.
FOUND = {
    "network": "runs/one",
    "device": "cpu",
    "device_arch": "Testcore 9000",
    "batch": 1,
    "threads": 2,
    "images": 1000,
    "max_loss": 0.005,
    "accuracy": 0.900,
    "engines": [
        line("ort", "fp32", 0.40, 0.900),
        line("ort", "int8", 0.20, 0.897),
        line("openvino", "int8", 0.18, 0.894),
        line("trt", "fp16", None, None),
    ],
    "fastest": 2,
    "fastest_within_loss": 1,
    "notes": [],
}


def with_benchmark(folder: Path, **changed: Any) -> Path:
    run = write_run(folder)
    write_json(run / BENCHMARK, {"schema": schemas.BENCHMARK, **FOUND, **changed})
    return run


def test_every_runtime_and_precision(tmp_path: Path) -> None:
    found = collect(with_benchmark(tmp_path / "one"))
    assert found.benchmark is not None
    drawn = chart(found.benchmark)
    assert drawn is not None
    bars = go.Figure(drawn).data[0]
    assert tuple(bars.y) == ("ort fp32", "ort int8", "openvino int8")  # drawn from below: fastest on top
    assert tuple(bars.x) == (0.40, 0.20, 0.18)
    assert tuple(bars.marker.color) == (BLUE, GREEN, GREY)
    assert bars.text[1] == "89.7 % top-1"
    section = benchmark(found)
    assert section is not None
    assert "ort int8 is the fastest that loses no more than 0.5 points" in section.lead
    assert "2 threads" in section.lead
    last = [row[-1] for row in section.tables[0].rows]
    assert last == ["", "fastest within 0.5 points", "fastest", "the runtime has no <Erf>"]
    assert "Every runtime and precision here" in [s.title for s in compose([found.path]).chapters[0].sections]


def test_nothing_could_be_built(tmp_path: Path) -> None:
    only = [line("trt", "fp16", None, None)]
    found = collect(with_benchmark(tmp_path / "one", engines=only, fastest=None, fastest_within_loss=None))
    section = benchmark(found)
    assert section is not None
    assert section.pictures == []


@pytest.mark.parametrize(
    "damage", [{"fastest": 7}, {"engines": [{"backend": "ort"}]}, {"max_loss": "little"}]
)
def test_a_damaged_file_is_named(tmp_path: Path, damage: dict[str, Any]) -> None:
    found = collect(with_benchmark(tmp_path / "one", **damage))
    assert found.benchmark is None
    assert benchmark(found) is None
    assert any(BENCHMARK in text for text in found.missing)


def test_no_benchmark_no_section(tmp_path: Path) -> None:
    found = collect(write_run(tmp_path / "one"))
    assert benchmark(found) is None
    assert not any(BENCHMARK in text for text in found.missing)


def test_precision_by_block() -> None:
    blocks = (
        BlockPrecision(block="stem", precision="fp32", loss=0.001, gain_ms=-0.01, returned=True),
        BlockPrecision(block="head", precision="int8", loss=0.002, gain_ms=0.05),
    )
    mixed = Mixed(blocks=blocks, switch_ms=(0.02,), lost_before=0.02, lost_after=0.004)
    figure = go.Figure(by_block(mixed))
    by_name = {trace.name: trace for trace in figure.data}
    assert by_name["in int8"].x == (1,)
    assert by_name["in int8"].y == pytest.approx((0.2,))
    assert by_name["in int8"].marker.color == BLUE
    assert by_name["in float"].text == ("stem, went back to float",)
    assert by_name["in float"].marker.color == ORANGE
    assert by_name["time saved in int8"].y == pytest.approx((-10.0, 50.0))
    untimed = Mixed(
        blocks=tuple(b.model_copy(update={"gain_ms": None}) for b in blocks), lost_before=0.02, lost_after=0.0
    )
    assert len(by_block(untimed)["data"]) == 2
    assert json.dumps(by_block(untimed))
    assert mixed.describe() == (
        "1 of 2 blocks stay in float (stem); 2.00 points of top-1 lost before, 0.40 after"
    )
