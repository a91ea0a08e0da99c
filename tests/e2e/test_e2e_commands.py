"""Every command in turn, on the fake device: what it prints as JSON, and what it leaves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from e2e_house import BUDGET, SMALL, TINY, House

from hwnas.measure.trace import Trace
from hwnas.runs import read_events
from hwnas.spec import NetworkSpec
from hwnas.store import read_network


def test_doctor(fake: House) -> None:
    body = fake.json("doctor")
    assert {"cpu", "gpus", "backends", "noise"} <= body.keys()
    for row in body["backends"].values():
        assert {"available", "version", "reason"} <= row.keys()
    assert body["backends"]["ort"]["available"] is True
    assert body["noise"]["grade"]


@pytest.mark.parametrize("what", ["devices", "spaces", "strategies", "backends"])
def test_what_is_built_in(fake: House, what: str) -> None:
    rows = fake.json(what)[what]
    assert rows == fake.json(what, "list")[what]
    assert all({"name", "available", "reason"} <= row.keys() for row in rows)
    for row in rows:
        assert row["available"] is (row["reason"] is None)
        assert fake.json(what, "show", row["name"])["name"] == row["name"]
    assert rows[0]["name"] in fake.run(what).stdout
    expected = {"devices": "titanxp", "spaces": "mbv2-cifar", "strategies": "stagewise", "backends": "ort"}
    assert expected[what] in [row["name"] for row in rows]


def test_spaces_sample_is_seeded(fake: House) -> None:
    args = ("spaces", "sample", "--space", "mbv2-cifar", "-n", "3", "--seed", "5", "--out")
    first, again = fake.json(*args, "one")["paths"], fake.json(*args, "two")["paths"]
    nets = [read_network(Path(p)) for p in first]
    assert len({n.key for n in nets}) == 3
    assert [n.key for n in nets] == [read_network(Path(p)).key for p in again]


def test_count_is_exact(fake: House) -> None:
    """resnet20 with the counting rules of docs/counting.md: He et al.'s 0.27 M parameters, 40.8 M MACs."""
    (row,) = fake.json("count", "resnet20")["networks"]
    # stem 3*16*9*32^2; stage 1: 6 convolutions; stage 2: 32x32 but the first, 16x16 and its 1x1
    # shortcut; the same halved for stage 3; classifier 64*10.
    stem = 3 * 16 * 9 * 32 * 32
    stage1 = 6 * 16 * 16 * 9 * 32 * 32
    stage2 = (16 * 32 * 9 + 5 * 32 * 32 * 9 + 16 * 32) * 16 * 16
    stage3 = (32 * 64 * 9 + 5 * 64 * 64 * 9 + 32 * 64) * 8 * 8
    assert row["macs"] == stem + stage1 + stage2 + stage3 + 640
    assert {"path", "macs", "params", "depth", "activation_bytes"} <= row.keys()
    assert row["depths"] == [3, 3, 3]


def test_profile_says_how_good_it_is(fake: House) -> None:
    body = fake.json("profile", *SMALL, "--preset", "quick", "--out", "own.hwlat.jsonl")
    assert {"table", "rows", "probes", "measurements", "seconds", "holdout"} <= body.keys()
    keys = "networks mape_percent within_5_percent kendall_tau coverage_percent repeat_mape_percent"
    assert set(keys.split()) <= body["holdout"].keys()
    assert body["complete"]
    assert body["rows"] == 7  # stem, three blocks, two of them also at stride 2, head
    again = fake.json("profile", *SMALL, "--preset", "quick", "--out", "own.hwlat.jsonl")
    assert again["table_id"] == body["table_id"], "a finished table is not measured again"


def test_profile_dry_run_touches_nothing(fake: House) -> None:
    body = fake.json("profile", *SMALL, "--out", "dry.hwlat.jsonl", "--dry-run")
    assert body["measurements"] > 7
    assert not Path("dry.hwlat.jsonl").exists()


def test_a_run_makes_a_network_name(fake: House, searched: dict[str, Any]) -> None:
    """predict, count and bench take a run where they take a network."""
    predicted = fake.json("predict", searched["run"], "--device", "fake")
    (row,) = predicted["networks"]
    keys = "path latency_ms low_ms high_ms coverage macs params extrapolated"
    assert set(keys.split()) <= row.keys()
    assert row["low_ms"] <= row["latency_ms"] <= row["high_ms"]
    assert row["extrapolated"] == []
    assert sum(row["by_stage_ms"].values()) == pytest.approx(row["latency_ms"], rel=1e-6)
    (counted,) = fake.json("count", searched["run"])["networks"]
    assert counted["macs"] == row["macs"] == searched["best"]["macs"]
    (timed,) = fake.json("bench", searched["run"], "--device", "fake", "--preset", "quick")["networks"]
    assert {"path", "median_ms", "p10_ms", "p90_ms", "p95_ms", "samples", "setting"} <= timed.keys()
    assert row["low_ms"] <= timed["median_ms"] <= row["high_ms"]


def test_search_result(fake: House, searched: dict[str, Any]) -> None:
    best = searched["best"]
    keys = "network accuracy predicted_ms low_ms high_ms measured macs params"
    assert set(keys.split()) <= best.keys()
    assert {"median_ms", "p95_ms"} <= best["measured"].keys()
    keys = "within_budget trials trained train_macs seconds run"
    assert set(keys.split()) <= searched.keys()
    assert {"training", "measuring", "total"} <= searched["seconds"].keys()
    assert searched["within_budget"] is True
    assert best["measured"]["median_ms"] <= 0.15
    assert best["high_ms"] <= 0.15
    assert 0 < searched["trained"] <= searched["trials"]
    run = Path(searched["run"])
    names = {p.name for p in run.iterdir()}
    files = "manifest.json events.jsonl log.txt result.json network.json weights.safetensors"
    assert set(files.split()) <= names
    assert Path("runs/latest").resolve() == run.resolve()
    trials = [e["trial"] for e in read_events(run / "events.jsonl") if e["event"] == "trial"]
    over = [t for t in trials if t["estimate"]["high_ms"] > 0.15]
    assert over, "the uniform baseline ends at the first network over the budget"
    assert all(t["evaluation"] is None for t in over), "what is over the budget is never trained"


def test_search_dry_run_touches_nothing(fake: House) -> None:
    body = fake.json("search", *BUDGET, *TINY, "--out", "runs/dry", "--dry-run")
    assert body["budgets"] == ["0.15ms@p50"]
    assert not Path("runs/dry").exists()


def test_several_budgets_and_a_ratio(fake: House, searched: dict[str, Any]) -> None:
    body = fake.json("search", "--latency-budget", "100us,0.15ms", *SMALL, *TINY, "--out", "runs/two")
    assert [t["budget"] for t in body["targets"]] == ["0.1ms@p50", "0.15ms@p50"]
    assert all(t["within_budget"] for t in body["targets"])
    (row,) = fake.json("predict", searched["run"], "--device", "fake")["networks"]
    dry = fake.json("search", "--latency-budget", f"150%:{searched['run']}", *SMALL, *TINY, "--dry-run")
    assert float(dry["budgets"][0].removesuffix("ms@p50")) == pytest.approx(1.5 * row["latency_ms"], rel=1e-3)


def test_train_goes_on_from_a_run(fake: House, searched: dict[str, Any]) -> None:
    args = ("--data", "digits", "--limit", "200", "--epochs", "1", "--out", "runs/more")
    body = fake.json("train", searched["run"], *args)
    assert {"accuracy", "epochs", "seconds", "run"} <= body.keys()
    assert {"val", "test"} <= body["accuracy"].keys()
    assert body["epochs"] == 1
    assert fake.json("train", searched["run"], *args)["accuracy"] == body["accuracy"], "done is done"


def test_export_verify_report(fake: House, searched: dict[str, Any]) -> None:
    body = fake.json("export", searched["run"], "--format", "onnx")
    assert {"engine", "manifest", "parity", "measured", "within_budget", "passed"} <= body.keys()
    assert {"max_abs_err", "cosine_min", "top1_agreement"} <= body["parity"].keys()
    assert {"median_ms", "p95_ms"} <= body["measured"].keys()
    assert body["within_budget"] is True
    assert body["passed"] is True
    assert Path(body["engine"]).is_file()
    manifest = json.loads(Path(body["manifest"]).read_text())
    assert manifest["table_id"]
    checked = fake.json("verify", body["engine"])
    assert checked["passed"] is True
    assert all({"name", "passed", "detail"} <= check.keys() for check in checked["checks"])
    page = Path(fake.json("report", searched["run"])["path"])
    head = page.read_text()[:200].lower()  # the rest holds the whole plotting library
    assert "<html" in head


def test_an_engine_that_is_too_slow_fails_but_stays(fake: House, searched: dict[str, Any]) -> None:
    args = (searched["run"], "--out", "slow", "--latency-budget", "1us")
    body = fake.json("export", *args, status=5)
    assert body["passed"] is False
    assert body["within_budget"] is False
    assert Path(body["engine"]).is_file()
    result = fake.run("verify", body["engine"], "--against", searched["run"], status=5)
    assert "FAILED  budget" in result.stdout
    assert "Error: " in result.stderr


def test_runs(fake: House, searched: dict[str, Any]) -> None:
    name = Path(searched["run"]).name
    listed = {r["name"]: r for r in fake.json("runs", "list")["runs"]}
    assert listed[name]["state"] == "done"
    assert listed[name]["latency_ms"] == searched["best"]["measured"]["median_ms"]
    assert fake.json("runs", "show", name)["config"]["latency_budget"] == "0.15ms"
    fake.run("search", "--latency-budget", "0.12ms", *SMALL, *TINY, "--out", "runs/search-0999")
    compared = fake.json("runs", "compare", name, "search-0999")
    assert compared["differences"]["latency_budget"] == ["0.15ms", "0.12ms"]
    assert "add --yes" in fake.refused("runs", "rm", "search-0999", status=2)
    assert fake.json("runs", "rm", "search-0999", "--yes")["removed"] == ["runs/search-0999"]
    assert not Path("runs/search-0999").exists()


def test_tables(fake: House) -> None:
    table = fake.json("table", "list")["tables"][0]["path"]
    assert fake.json("table", "show", table)["rows"] == 7
    assert fake.json("table", "validate", table)["verdict"] == "valid"
    assert fake.json("table", "diff", table, table)["verdict"] == "same"
    shared = fake.json("table", "export", "shared.hwlat.jsonl", "--table", table)["table"]
    taken = fake.json("table", "import", shared, "--out", "taken.hwlat.jsonl")["table"]
    assert Path(taken).read_bytes() == Path(table).read_bytes()


def test_planning_without_the_device(fake: House) -> None:
    body = fake.json("profile", "--device", "titanxp", "--estimate", "--out", "xp.hwlat.jsonl")
    assert body["setting"]["provenance"] == "estimated"
    assert "estimated" in fake.run("predict", "resnet20", "--table", "xp.hwlat.jsonl").stdout


@pytest.mark.parametrize("suffix", ["yaml", "yml"])
def test_init_writes_a_pipeline_that_is_valid(fake: House, suffix: str) -> None:
    path = fake.json("init", f"mine.{suffix}")["path"]
    commands = fake.json("run", path, "--dry-run")["commands"]
    assert [c.split()[1] for c in commands] == ["profile", "search", "export", "verify", "report"]
    assert "exists already" in fake.refused("init", path, status=2)


PIPELINE = """\
run: runs/pipe
common: {device: fake, input: 3x16x16, space: resnet-cifar, data: digits, limit: 200}
profile: {preset: quick}
search:
  latency-budget: 0.15ms
  strategy: uniform
  images: 400
  recipe: [batch=32, threads=1]
train: {epochs: 1}
export: {format: onnx}
verify:
report:
"""


@pytest.mark.slow
def test_a_pipeline_runs_and_resumes(fake: House) -> None:
    Path("pipe.yaml").write_text(PIPELINE)
    body = fake.json("run", "pipe.yaml")
    assert body["passed"] is True
    assert [s["status"] for s in body["steps"]] == [0] * 6
    verified = body["steps"][4]["result"]
    assert verified["schema"] == "hwnas.verify/1"
    assert verified["passed"] is True
    assert Path("runs/pipe-train/report.html").is_file()
    again = fake.json("run", "pipe.yaml")
    assert again["steps"][1]["result"]["best"] == body["steps"][1]["result"]["best"]
    assert again["steps"][2]["result"]["accuracy"] == body["steps"][2]["result"]["accuracy"]


def test_a_pipeline_stops_at_the_first_failure(fake: House) -> None:
    Path("stops.yaml").write_text(PIPELINE.replace("0.15ms", "1us").replace("runs/pipe", "runs/stops"))
    body = fake.json("run", "stops.yaml", status=3)
    assert [s["status"] for s in body["steps"]] == [0, 3]
    assert body["steps"][-1]["result"]["smallest_ms"] > 0.001


def test_quickstart_is_a_chain_of_commands(fake: House) -> None:
    commands = fake.json("quickstart", "--device", "fake", "--dry-run")["commands"]
    assert commands[0] == "hwnas profile --device fake --latency-budget 0.5ms --preset quick"
    assert "nosuch" in fake.run("quickstart", "--device", "nosuch", "--dry-run", status=2).stderr
    mine = fake.json("quickstart", "--latency-budget", "0.8ms", "--dry-run")["commands"]
    assert mine[0].startswith("hwnas profile --device cpu --latency-budget 0.8ms --backend auto")
    assert " --latency-budget 0.8ms --data digits " in mine[1]
    assert [c.split()[1] for c in commands] == ["profile", "search", "export", "verify", "report"]


def test_a_network_file_of_ones_own(fake: House) -> None:
    spec = NetworkSpec.model_validate(
        {**read_network(Path(fake.json("spaces", "sample", *SMALL[2:], "-n", "1")["paths"][0])).model_dump()}
    )
    Path("mine.json").write_text(spec.to_json())
    (row,) = fake.json("count", "mine.json")["networks"]
    assert row["key"] == spec.key


def test_doctor_records_a_trace_that_can_be_replayed(fake: House, tmp_path: Path) -> None:
    body = fake.json("doctor", "--record", str(tmp_path / "t.npz"), "--seconds", "0.3s")
    trace = Trace.load(Path(body["path"]))
    assert len(trace.wall_ms) == body["calls"] > 0
    assert trace.seconds == pytest.approx(body["seconds"], abs=1e-3)
    assert "sentinel" in trace.names
