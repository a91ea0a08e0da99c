"""The page says what the run's files say, for whole and for partial runs, and nothing else."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest
from report_records import BUDGET, CHECKS, measurement, network, result, trials, write_run

from hwnas.deploy.manifest import EngineManifest, write_manifest
from hwnas.errors import BackendUnavailable, InputError
from hwnas.estimates import Budget
from hwnas.jobs.report import ReportOptions, report
from hwnas.records import Check, Promise, Target, to_json
from hwnas.report import html, phrases, plots
from hwnas.report.collect import collect
from hwnas.report.compose import compose
from hwnas.runs import read_manifest
from hwnas.store import write_json


class Reader(HTMLParser):
    """Visible text, attributes and tags of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self._hidden = 0
        self.feed(page)
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        self._hidden += tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in ("script", "style")

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.text += " " + data


@pytest.fixture(autouse=True)
def light_script(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five megabytes of Plotly are not what these tests are about."""
    monkeypatch.setattr(html, "plotly_script", lambda: "/* plotly */")


def page_of(*runs: Path) -> str:
    return html.render(compose(runs))


def figures_of(page: str) -> dict[str, go.Figure]:
    found = re.search(r'<script type="application/json" id="figures">(.*?)</script>', page, re.S)
    assert found
    # go.Figure refuses unknown properties, so this also checks every name we wrote.
    return {name: go.Figure(figure) for name, figure in json.loads(found.group(1)).items()}


def test_headline_is_the_proof(tmp_path: Path) -> None:
    text = Reader(page_of(write_run(tmp_path / "search-0001"))).text
    # measured 0.581 of 0.6 ms; 0.70 + 0.01 (1 + 2*3 + 3*6) = 0.95; five sessions, none over
    assert "0.58 ms of 0.60 ms, 95.0 % top-1, kept in 5 of 5 sessions" in text
    assert "97 % of the latency budget" in text  # 0.581 / 0.6 = 0.968


def test_figures_are_those_of_the_run(tmp_path: Path) -> None:
    figures = figures_of(page_of(write_run(tmp_path / "search-0001")))
    expected = {"accuracy-latency", "growth", "stages", "predicted-measured", "promise", "importance"}
    assert expected <= set(figures)
    trained = figures["accuracy-latency"].data[0]
    assert list(trained.x) == [0.2, 0.252, 0.298, 0.35, 0.352, 0.448, 0.581]  # measured, else predicted
    assert list(trained.y) == pytest.approx([76, 79, 81, 82, 84, 90, 95])
    front = figures["accuracy-latency"].data[1]
    assert list(front.y) == pytest.approx([76, 79, 81, 82, 84, 90, 95])
    assert figures["accuracy-latency"].layout.shapes[0].x0 == 0.6
    sessions = figures["promise"].data[0]
    assert list(sessions.x) == [0.581, 0.584, 0.579, 0.590, 0.582]
    # The stage bars of the chosen network add up to its prediction, 0.05 + 0.05 * 10.
    assert sum(trace.x[-1] for trace in figures["stages"].data) == pytest.approx(0.55)


def test_growth_path_leaves_out_what_was_not_taken(tmp_path: Path) -> None:
    path = plots.path_to(trials(), trials()[6])
    assert [t.spec.depths_text for t in path] == ["1-1-1", "1-1-2", "1-2-2", "1-2-3", "1-2-5", "1-3-6"]
    # A final training from new weights belongs to the network that won.
    final = trials()[6].model_copy(update={"index": 99, "parent": None, "role": "final", "winner": 6})
    assert [t.spec.depths_text for t in plots.path_to([*trials(), final], final)] == [
        t.spec.depths_text for t in path
    ]
    text = Reader(page_of(write_run(tmp_path / "search-0001"))).text
    assert "stage 2: 2 to 3 blocks; stage 3: 5 to 6 blocks" in text
    # 7 trained networks, two refusals after each
    assert "14 rejected growths" in text
    assert "stage 1: +0.40 % +- 0.30 % for 0.05 ms: not significant" in text


def test_refused_networks_keep_their_reason(tmp_path: Path) -> None:
    text = Reader(page_of(write_run(tmp_path / "search-0001"))).text
    assert "0.70 ms is over the budget of 0.60 ms: not trained" in text
    assert "considered 8 networks of resnet-cifar and trained 7; 1 was rejected before training" in text


def test_nothing_comes_from_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # the real script
    page = page_of(write_run(tmp_path / "search-0001"))
    assert len(html.plotly_script()) > 1_000_000
    assert html.plotly_script() in page
    reader = Reader(page)
    assert not {"link", "img", "iframe", "object", "embed", "base"} & set(reader.tags)
    assert not [a for a in reader.attributes if a[0] in ("src", "href", "action", "poster")]
    policy = (
        dict(reader.attributes).get("http-equiv"),
        [v for n, v in reader.attributes if n == "content" and "default-src" in v],
    )
    assert policy[0] == "Content-Security-Policy"
    assert policy[1][0].startswith("default-src 'none'")


def test_text_from_files_is_escaped(tmp_path: Path) -> None:
    evil = '</script><script>alert(1)</script><a href="http://x.example">x</a>'
    changed = [
        t.model_copy(update={"reason": evil, "spec": t.spec.model_copy(update={"name": evil})})
        for t in trials()
    ]
    run = write_run(tmp_path / "search-0001", result(trials=tuple(changed), stopped=evil))
    manifest = read_manifest(run)
    manifest["argv"] = ["search", evil]
    manifest["config"][evil] = evil
    write_json(run / "manifest.json", manifest, sealed=True)
    page = page_of(run)
    reader = Reader(page)
    assert reader.tags.count("script") == 3  # data, plotly, drawing
    assert "a" not in reader.tags
    assert "alert(1)" in reader.text  # shown as text
    assert page.count("<script>alert") == 0


def test_killed_run_has_a_report_that_says_so(tmp_path: Path) -> None:
    text = Reader(page_of(write_run(tmp_path / "search-0002", keep=3))).text
    # (1,2,2): 0.30 ms predicted, 0.70 + 0.01 (1 + 4 + 6) = 0.81
    assert "Unfinished: 81.0 % top-1 so far, 0.30 ms of 0.60 ms predicted" in text
    assert "the search has no result yet" in text
    assert f"hwnas search --latency-budget 0.6ms --data digits --out {tmp_path / 'search-0002'}" in text


@pytest.mark.parametrize("name", ["events.jsonl", "manifest.json", "network.json"])
def test_missing_parts_are_named_or_not_needed(tmp_path: Path, name: str) -> None:
    run = write_run(tmp_path / "search-0001")
    (run / name).unlink()
    text = Reader(page_of(run)).text
    assert "0.58 ms of 0.60 ms" in text
    assert (f"{name} is missing" in text) == (name != "network.json")


def test_damaged_lines_and_results_are_left_out_and_said(tmp_path: Path) -> None:
    run = write_run(tmp_path / "search-0001")
    with (run / "events.jsonl").open("a") as file:
        file.write('{"event": "tri\n')
    (run / "result.json").write_text('{"schema": "hwnas.search/1", "strategy": 3}')
    text = Reader(page_of(run)).text
    assert "1 line(s) of events.jsonl are damaged" in text
    assert "result.json cannot be read" in text
    assert "Unfinished" in text


def test_empty_run_and_no_run(tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    with pytest.raises(InputError, match="not a run folder of hwnas"):
        compose([tmp_path / "nothing"])
    with pytest.raises(InputError, match="no run folder"):
        compose([tmp_path / "absent"])


def test_several_runs_are_compared(tmp_path: Path) -> None:
    first = write_run(tmp_path / "search-0001")
    second = write_run(tmp_path / "search-0002", result(strategy="random"))
    page = page_of(first, second)
    figures = figures_of(page)
    assert "compared" in figures
    assert {"growth-1", "growth-2"} <= set(figures)
    text = Reader(page).text
    assert "2 runs side by side" in text
    assert "random" in text


def test_broken_promise_is_not_dressed_up(tmp_path: Path) -> None:
    broken = Promise(
        verdict="broken", budget_ms=0.6, percentile="p50", session_ms=(0.61, 0.59), misses=1, confidence=0.9
    )
    found = result(promise=broken)
    page = compose([write_run(tmp_path / "search-0001", found)])
    assert page.chapters[0].good is False
    assert "missed in 1 of 2 sessions" in page.chapters[0].headline


@pytest.mark.parametrize(
    ("value", "budget", "expected"),
    [
        (0.581, 0.6, "0.58 ms of 0.60 ms"),
        (0.604, 0.6, "0.604 ms of 0.600 ms"),  # over: never rounded down to the budget
        (17.96, 18.0, "18.0 ms of 18.0 ms"),
        (0.0321, 0.05, "32.1 us of 50.0 us"),
        (1500.0, 2000.0, "1.50 s of 2.00 s"),
    ],
)
def test_latencies_are_written_with_one_unit(value: float, budget: float, expected: str) -> None:
    assert phrases.pair_ms(value, budget) == expected


@pytest.mark.parametrize(
    ("used", "stopped", "expected"),
    [
        (0.55, "no further growth fits", "45 % of the budget is left: no further growth fits"),
        (0.93, "no further growth fits", ""),
        (None, "no further growth fits", ""),
        (0.55, "", ""),
    ],
)
def test_much_of_a_budget_left_is_explained(used: float | None, stopped: str, expected: str) -> None:
    assert phrases.unused(used, stopped) == expected


def test_front_by_hand() -> None:
    # All but the refused one are better than everything faster, see PATH in report_records.
    assert [t.index for t in plots.front(trials(), BUDGET)] == [0, 1, 2, 3, 4, 5, 6]


def test_job_writes_the_page_into_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write_run(tmp_path / "runs" / "search-0001")
    monkeypatch.chdir(tmp_path)
    said = []
    out = report(ReportOptions(), lambda kind, fields: said.append(fields["text"]))
    assert Path(out["path"]) == Path("runs/search-0001/report.html")
    assert (run / "report.html").stat().st_size > 10_000
    assert out["headlines"]["search-0001"].startswith("0.58 ms of 0.60 ms")
    assert said == [f"report written to {out['path']}"]


def test_pictures_need_kaleido(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write_run(tmp_path / "search-0001")
    monkeypatch.setattr("hwnas.report.html.importlib.util.find_spec", lambda name: None)
    with pytest.raises(BackendUnavailable, match="pip install kaleido"):
        report(ReportOptions(runs=(str(run),), pictures="png"), lambda kind, fields: None)
    assert (run / "report.html").exists()  # the page does not wait for the pictures
    with pytest.raises(InputError, match="svg or png"):
        report(ReportOptions(runs=(str(run),), pictures="gif"), lambda kind, fields: None)


def test_several_budgets_each_have_their_winner(tmp_path: Path) -> None:
    found = result()
    small = Target(
        budget=Budget(latency_ms=0.36),
        best=4,
        measured=measurement(0.352),
        promise=found.promise.model_copy(update={"budget_ms": 0.36}),
    )
    large = Target(budget=found.budget, best=6, measured=found.measured, promise=found.promise)
    run = write_run(tmp_path / "search-0001", result(targets=(small, large)))
    page = page_of(run)
    drawn = figures_of(page)["accuracy-latency"]
    assert sorted(shape.x0 for shape in drawn.layout.shapes) == [0.36, 0.6]
    assert "chosen for 0.36 ms: 1-2-3" in [trace.name for trace in drawn.data]
    assert "0.36ms@p50 1-2-3 0.352 ms" in Reader(page).text


def test_training_shows_the_search_that_found_its_network(tmp_path: Path) -> None:
    search = write_run(tmp_path / "search-0001")
    run = tmp_path / "train-0001"
    run.mkdir()
    config = {"network": str(search), "data": "digits"}
    write_json(
        run / "manifest.json", {"schema": "hwnas.run/1", "verb": "train", "config": config}, sealed=True
    )
    body = {"schema": "hwnas.train/1", "accuracy": {"val": 0.97, "test": 0.961}}
    write_json(run / "result.json", body)
    text = Reader(page_of(run)).text
    assert "0.58 ms of 0.60 ms, 96.1 % top-1, kept in 5 of 5 sessions" in text
    assert "found by search-0001 and trained further here" in text


def training(run: Path, **config: str) -> Path:
    run.mkdir()
    body = {"schema": "hwnas.run/1", "verb": "train", "config": {"data": "digits", **config}}
    write_json(run / "manifest.json", body, sealed=True)
    write_json(run / "result.json", {"schema": "hwnas.train/1", "accuracy": {"val": 0.97, "test": 0.961}})
    return run


def test_trainings_that_name_each_other_are_read_once(tmp_path: Path) -> None:
    first, second = tmp_path / "train-0001", tmp_path / "train-0002"
    training(first, network=str(second))
    training(second, network=str(first))
    assert collect(first).accuracy() == ("test", 0.961)


def test_a_training_is_shown_without_the_run_of_its_network_where_that_is_damaged(tmp_path: Path) -> None:
    search = tmp_path / "search-0001"
    search.mkdir()
    (search / "result.json").write_text("{")
    found = collect(training(tmp_path / "train-0001", network=str(search)))
    assert found.accuracy() == ("test", 0.961)
    assert any("run that the network is from cannot be shown" in text for text in found.missing)


def test_names_that_no_file_system_takes_are_no_files(tmp_path: Path) -> None:
    name = "a" * 5000
    found = collect(training(tmp_path / "train-0001", network=name, table=name, table_id="ab" * 8))
    assert found.accuracy() == ("test", 0.961)
    assert any("is not on this machine" in text for text in found.missing)


def engine_beside(run: Path, **changes: Any) -> None:
    found = result()
    promise = found.promise.model_copy(update={"session_ms": (0.571, 0.572, 0.573, 0.574, 0.575)})
    (run / "engine.onnx").write_bytes(b"engine")
    manifest = EngineManifest(
        engine="engine.onnx",
        format="onnx",
        setting=found.setting,
        engine_sha256="ab" * 32,
        engine_bytes=6,
        weights_sha256="cd" * 32,
        network_key=network(1, 3, 6).key,
        network=network(1, 3, 6),
        budget=found.budget,
        measured=measurement(0.573),
        promise=promise,
        checks=CHECKS,
    )
    write_manifest(run, manifest.model_copy(update=changes))


def test_proof_of_the_exported_file_goes_first(tmp_path: Path) -> None:
    run = write_run(tmp_path / "search-0001")
    engine_beside(run)
    text = Reader(page_of(run)).text
    assert "0.57 ms of 0.60 ms, 95.0 % top-1, kept in 5 of 5 sessions" in text
    assert "The exported file was loaded and timed again in 5 independent sessions" in text
    assert "Engine engine.onnx All checks passed." in text
    assert f"hwnas verify {run / 'engine.onnx'}" in text


def test_a_failed_engine_is_bad_news(tmp_path: Path) -> None:
    run = write_run(tmp_path / "search-0001")
    wrong = Check(name="parity", passed=False, detail="scores differ by at most 3")
    engine_beside(run, checks=(wrong, CHECKS[1]))
    chapter = compose([run]).chapters[0]
    assert chapter.good is False
    assert chapter.headline.endswith("engine.onnx failed its checks")


def test_budget_of_a_killed_run_that_was_asked_as_a_ratio(tmp_path: Path) -> None:
    run = write_run(tmp_path / "search-0001", keep=2)
    body = read_manifest(run)
    body["config"] |= {"latency_budget": "1.15x:resnet20", "budgets": [to_json(Budget(latency_ms=0.5))]}
    write_json(run / "manifest.json", body, sealed=True)
    assert "0.25 ms of 0.50 ms predicted" in compose([run]).chapters[0].headline


def test_kaleido_without_a_browser_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_browser(*_: object) -> None:
        raise RuntimeError("Kaleido requires Google Chrome to be installed.")

    monkeypatch.setattr("hwnas.report.html.importlib.util.find_spec", lambda name: object())
    monkeypatch.setattr(html, "_draw", no_browser)
    page = compose([write_run(tmp_path / "search-0001")])
    with pytest.raises(BackendUnavailable, match="requires Google Chrome"):
        html.write_pictures(page, tmp_path / "pictures", "svg")


def test_gates_of_the_proof_are_told(tmp_path: Path) -> None:
    found = result(measured=measurement(0.581, gates=("load",)))
    text = Reader(page_of(write_run(tmp_path / "search-0001", found))).text
    assert "Disturbances during this measurement: other processes used the machine." in text


def test_predictions_are_those_from_before_the_measurement(tmp_path: Path) -> None:
    changed = list(trials())
    late = changed[1].estimate.model_copy(update={"latency_ms": 0.2470, "low_ms": 0.24, "high_ms": 0.25})
    changed[1] = changed[1].model_copy(update={"estimate": late})
    again = changed[1].model_copy(update={"index": 8, "predicted": None})  # the same network once more
    run = write_run(tmp_path / "search-0001", result(trials=(*changed, again)))
    points = figures_of(page_of(run))["predicted-measured"].data[-1]
    assert len(points.x) == 5
    assert points.y[0] == 0.25  # not 0.2470, which knows the measurement
    assert points.x[0] == pytest.approx(0.252 * 0.98)  # the floor


def test_further_training_is_no_step_of_growth() -> None:
    found = list(trials())
    further = found[6].model_copy(
        update={"index": 8, "parent": 6, "reason": "final training", "role": "final"}
    )
    path = plots.path_to([*found, further], further)
    assert [t.spec.depths_text for t in path][-2:] == ["1-2-5", "1-3-6"]
    assert path[-1].index == 8
    assert path[-1].reason.startswith("stage 3 and 2")
