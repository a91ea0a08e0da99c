"""What a report says about the latency table: costs, errors, noise and the gates that fired."""

import re
from pathlib import Path
from typing import Literal

import plotly.graph_objects as go
import pytest
from report_records import SETTING, measurement, network, result, write_run

from hwnas.errors import DataFormatError
from hwnas.measure.rows import BlockRow, FailureRow, Header, NetworkRow
from hwnas.measure.writer import TableWriter
from hwnas.report import html, table_plots
from hwnas.report.compose import compose
from hwnas.spec import BlockSpec


@pytest.fixture(autouse=True)
def light_script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(html, "plotly_script", lambda: "")
    monkeypatch.setenv("HWNAS_HOME", str(tmp_path / "home"))


def table_file(path: Path) -> str:
    """Each block 0.05 ms alone; networks take 0.8 of the sum of their blocks. Gives the table's id."""
    writer = TableWriter(path, Header(setting=SETTING, space="resnet-cifar"))
    depths = [(a, b, c) for a in (1, 2, 3) for b in (1, 2) for c in (1, 2, 4)]
    blocks = {block for depth in depths for block in network(*depth).blocks}
    for at, block in enumerate(sorted(blocks)):
        gates = ("load",) if at == 0 else ()
        taken = measurement(0.05 / 0.98, gates=gates)  # its floor is 0.05
        writer.append(BlockRow(block=block, value_ms=0.05, se_ms=0.001, measurement=taken))
    for at, depth in enumerate(depths):
        spec = network(*depth)
        taken = measurement(0.8 * 0.05 * len(spec.blocks) / 0.98, se_ms=0.0005)
        role: Literal["holdout", "calibration"] = "holdout" if at % 3 == 0 else "calibration"
        writer.append(NetworkRow(spec=spec, role=role, measurement=taken))
    bad = BlockSpec(kind="mbconv", c_in=8, c_out=8, size_in=8)
    writer.append(FailureRow(blocks=(bad,), error="<b>the runtime's own words</b>"))
    return writer.finish({"holdout": {"mape_percent": 1.234, "repeat_mape_percent": 0.5}}).table_id


def text_of(page: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", re.sub(r"<script.*?</script>", "", page, flags=re.S)).split())


def test_table_of_a_run_is_found_by_its_id(tmp_path: Path) -> None:
    table_id = table_file(tmp_path / "home" / "tables" / "cpu.hwlat.jsonl")
    run = write_run(tmp_path / "search-0001", result(table_id=table_id))
    page = compose([run])
    titles = [section.title for section in page.chapters[0].sections]
    assert "How good the predictions are" in titles
    assert "What a block costs" in titles
    text = text_of(html.render(page))
    assert "On 6 networks not used for fitting the mean error is" in text  # 18 networks, every third
    assert "mean error on networks not used for fitting, % 1.234" in text
    assert "load other processes used the machine 1" in text  # one measurement with the gate "load"
    assert "mbconv-8x8-k3s1e1-relu@8 &lt;b&gt;the runtime" in text


def test_costs_in_context_are_those_of_whole_networks(tmp_path: Path) -> None:
    table_file(tmp_path / "one.hwlat.jsonl")
    page = compose([tmp_path / "one.hwlat.jsonl"])
    assert page.chapters[0].headline.endswith("1.2 % off on average")
    pictures = {p.name: go.Figure(p.figure) for p in page.pictures}
    inside = [y for trace in pictures["table-context"].data[1:] for y in trace.y]
    # Whole networks take 0.8 of the sum, so blocks cost about 0.04 inside, 0.05 alone.
    assert sum(inside) / len(inside) == pytest.approx(0.04, rel=0.1)
    assert all(x == 0.05 for trace in pictures["table-context"].data[1:] for x in trace.x)
    held = pictures["table-holdout"].data[-1]
    assert len(held.x) == 6
    assert list(held.y) == pytest.approx(list(held.x), rel=0.03)


def test_table_elsewhere_is_said(tmp_path: Path) -> None:
    page = compose([write_run(tmp_path / "search-0001")])
    assert any("is not on this machine" in text for text in page.chapters[0].missing)


def test_damaged_table_alone_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "bad.hwlat.jsonl"
    path.write_text("{}\n")
    with pytest.raises(DataFormatError):
        compose([path])


def test_heat_map_by_hand() -> None:
    small = BlockSpec(kind="basic", c_in=8, c_out=8, size_in=16)
    down = BlockSpec(kind="basic", c_in=8, c_out=16, stride=2, size_in=16)
    wide = BlockSpec(kind="mbconv", c_in=8, c_out=8, kernel=5, expand=3, size_in=16)
    drawn = table_plots.heat_map({small: 0.1, down: 0.2, wide: 0.3})
    assert drawn is not None
    data = drawn["data"][0]
    assert data["x"] == ["8 to 8 @16", "8 to 16 /2 @16"]
    assert data["y"] == ["basic 3x3", "mbconv 5x5 e3"]
    assert data["z"] == [[0.1, 0.2], [0.3, None]]
