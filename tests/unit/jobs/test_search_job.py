"""`hwnas search` as a whole, on the fake device and small images; and what it plans."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from killing import has_event, killed, needs_sigkill
from strategy_fakes import FakeCost

from hwnas.errors import BudgetInfeasible, InputError, MissingMeasurement
from hwnas.estimates import Budget, Estimate
from hwnas.jobs.profile import ProfileOptions, profile
from hwnas.jobs.profile.plan import PLANS, Plan
from hwnas.jobs.search import SearchOptions, first_table, plan, search
from hwnas.measure import reliability
from hwnas.measure.table import LatencyTable, load
from hwnas.nets.spaces import make
from hwnas.records import SearchResult
from hwnas.report.class_sections import by_class
from hwnas.report.collect import collect
from hwnas.results import Result
from hwnas.spec import NetworkSpec
from hwnas.store import read_network


@pytest.fixture(scope="module")
def home(levels: Path) -> Path:
    """With a table of the fake device for 1x8x8 images."""
    profile(ProfileOptions(device="fake", space="resnet-cifar", preset="quick", input_shape=(1, 8, 8)))
    return levels


@pytest.fixture
def options(home: Path, levels_search: SearchOptions) -> SearchOptions:
    return replace(
        levels_search,
        latency_budget="0.12ms",
        space="resnet-cifar",
        strategy="stagewise",
        images=2000,
        recipe={"batch": 32, "lr": 0.1, "threads": 1, "checkpoint_s": 0.0},
        settings={"rounds": 2},
        importance="gradient",
    )


@dataclass(frozen=True)
class Whole:
    """A search that nothing interrupted: its result, its folder, and what was told on the way."""

    body: Result
    out: Path
    told: list[tuple[str, Any]]


@pytest.fixture(scope="module")
def wholes() -> list[Whole]:
    return []


@pytest.fixture
def whole(wholes: list[Whole], options: SearchOptions, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """The search of `options`, made once; what reads or repeats it leaves it as it is."""
    if not wholes:
        torch.set_num_threads(1)
        told: list[tuple[str, Any]] = []
        out = tmp_path_factory.mktemp("whole") / "run"
        body = search(replace(options, out=out), lambda kind, fields: told.append((kind, dict(fields))))
        wholes.append(Whole(body, out, told))
    return wholes[0]


def test_search_keeps_what_it_says(options: SearchOptions, whole: Whole) -> None:
    body, options = whole.body, replace(options, out=whole.out)
    assert json.loads(json.dumps(body.as_json())) == body.as_json()
    assert {"best", "within_budget", "trials", "trained", "train_macs", "seconds", "run"} <= set(
        body.as_json()
    )
    best = body["best"]
    assert {"network", "accuracy", "predicted_ms", "low_ms", "high_ms", "measured", "macs", "params"} <= set(
        best
    )
    assert body["within_budget"] is True
    assert best["measured"]["median_ms"] <= 0.12
    assert best["low_ms"] <= best["predicted_ms"] <= best["high_ms"] <= 0.12
    assert body["images"] <= 2000
    assert set(body["seconds"]) == {"training", "measuring", "total"}
    assert body["train_macs"] > 3 * best["macs"] * 500
    assert all("text" in fields for kind, fields in whole.told if kind != "progress")
    run = Path(body["run"])
    assert read_network(run / "network.json").depths == tuple(best["depths"])
    saved = json.loads((run / "result.json").read_text())
    assert saved["accuracy"] == body["accuracy"]
    fields = {name: value for name, value in saved.items() if name in SearchResult.model_fields}
    assert SearchResult.model_validate(fields).trials
    assert (run.parent / "latest").resolve() == run

    # Again: everything from the folder, nothing trained, the test split not read.
    size = (run / "events.jsonl").stat().st_size
    again = search(replace(options, max_time_s=1000.0))
    assert {**again, "seconds": 0} == {**body, "seconds": 0}
    notes = (run / "events.jsonl").read_text()[size:].splitlines()
    assert all(json.loads(line)["event"] == "note" for line in notes)
    assert "test accuracy" not in "".join(notes)
    with pytest.raises(InputError, match="seed was 0, is 1"):
        search(replace(options, seed=1))


def test_test_split_is_read_once_and_only_at_the_end(
    options: SearchOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hwnas.train.data import Dataset, Split

    real, reads = Dataset.test, []

    def counted(self: Dataset) -> Split:
        reads.append((options.out or Path()) / "result.json")
        assert reads[-1].exists()  # every choice is made
        return real(self)

    monkeypatch.setattr(Dataset, "test", counted)
    plain = replace(options, strategy="uniform", importance=None, settings={}, images=900)
    search(plain)
    search(plain)
    assert len(reads) == 1


@pytest.mark.slow
@needs_sigkill
def test_a_killed_search_ends_as_an_unbroken_one(
    options: SearchOptions, whole: Whole, tmp_path: Path
) -> None:
    """The process is killed in the middle of a training and between two events, then repeated."""
    path = tmp_path / "killed"

    def training() -> bool:
        return any(path.glob("weights/trial-0001*.checkpoint"))

    for reached in (training, partial(has_event, path, "trial", 2)):
        killed(search, replace(options, out=path), when=reached)
    assert not (path / "result.json").exists()
    again = search(replace(options, out=path))
    kept = ("best", "accuracy", "trials", "trained", "images", "train_macs", "stopped", "promise")
    assert {k: again[k] for k in kept} == {k: whole.body[k] for k in kept}
    weights = [(run / "weights.safetensors").read_bytes() for run in (path, whole.out)]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("strategy", ["uniform", "random", "tpe"])
def test_baselines_and_several_budgets(strategy: str, options: SearchOptions) -> None:
    if strategy == "tpe":
        pytest.importorskip("optuna", reason="the extra compare is not installed")
    settings = {} if strategy == "uniform" else {"samples": 2}
    several = replace(
        options,
        strategy=strategy,
        importance=None,
        settings=settings,
        latency_budget="0.16ms,0.09ms",
        images=900,
    )
    body = search(several)
    assert [target["budget"] for target in body["targets"]] == ["0.09ms@p50", "0.16ms@p50"]
    for target, limit_ms in zip(body["targets"], (0.09, 0.16), strict=True):
        assert target["best"]["measured"]["median_ms"] <= limit_ms
        assert (Path(body["run"]) / "targets" / f"{limit_ms:g}ms" / "weights.safetensors").is_file()
        assert target["accuracy"]["val"] == target["best"]["accuracy"]
        assert target["by_class"]["test"]["images"] == 80  # a fifth of the 400 images
        assert target["by_class"]["test"]["accuracy"] == target["accuracy"]["test"]
    assert body["targets"][-1]["accuracy"] == body["accuracy"]
    assert not list(Path(body["run"]).glob(".*")), "the lock is given back, whoever still holds the strategy"
    section = by_class(collect(Path(body["run"])))
    assert section is not None
    tables = section.tables
    assert [row[0] for row in tables[-1].rows] == ["0.09ms@p50", "0.16ms@p50"]
    assert search(several).as_json()["targets"] == body["targets"]


def test_the_strategy_of_a_run_is_gone_on_with(options: SearchOptions, whole: Whole) -> None:
    """A default that has changed since a run began is no other configuration."""
    options = replace(options, out=whole.out)
    assert search(replace(options, strategy=None)).as_json()["best"] == whole.body["best"]
    assert SearchOptions("1ms", "digits").strategy is None
    with pytest.raises(InputError, match="strategy was 'stagewise', is 'uniform'"):
        search(replace(options, strategy="uniform", importance=None, settings={}))


def test_the_curve_of_a_winner_ends_at_its_accuracy(options: SearchOptions) -> None:
    body = search(replace(options, strategy="uniform", importance=None, settings={}, images=900))
    curve = collect(Path(body["run"])).curve
    assert curve[-1]["accuracy"] == body["best"]["accuracy"]


def test_dry_run_touches_nothing(options: SearchOptions, tmp_path: Path) -> None:
    body = search(replace(options, dry_run=True))
    assert body["dry_run"] is True
    assert body["images"] == 2000
    assert body["budgets"] == ["0.12ms@p50"]
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(BudgetInfeasible):
        search(replace(options, dry_run=True, latency_budget="1us"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"latency_budget": "18"}, "18ms"),
        ({"latency_budget": "0.1ms,18"}, "18ms"),
        ({"latency_budget": "0.1ms@p95,0.2ms@p50"}, "several percentiles"),
        ({"strategy": "stagewize"}, "did you mean 'stagewise'"),
        ({"preset": "quik"}, "did you mean 'quick'"),
        ({"recipe": {"rl": 1}}, "training option 'rl'"),
        ({"settings": {"round": 1}}, "did you mean 'rounds'"),
        ({"importance": "vipp"}, "importance"),
        ({"images": 0}, "at least one"),
        ({"data": "npz:nowhere.npz"}, "nowhere.npz"),
    ],
)
def test_wrong_options_are_one_clear_error(
    change: dict[str, Any], message: str, options: SearchOptions, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        search(replace(options, **change))
    assert not (tmp_path / "run" / "events.jsonl").exists()


def test_infeasible_names_the_smallest_latency(options: SearchOptions, home: Path) -> None:
    with pytest.raises(BudgetInfeasible, match="the smallest, ") as failure:
        search(replace(options, latency_budget="2us"))
    assert failure.value.smallest_ms is not None
    assert failure.value.smallest_ms > 0.002


def test_a_table_of_other_images_is_not_used(options: SearchOptions) -> None:
    with pytest.raises(MissingMeasurement, match=r"hwnas profile --device fake .*--input 3x16x16"):
        search(replace(options, input_shape=(3, 16, 16), profile=False))


def test_without_a_space_that_of_the_newest_table_is_searched(options: SearchOptions, home: Path) -> None:
    """As the README's two commands: `--space` stands in the profile, not in the search."""
    search(replace(options, space=None, max_trials=1))
    assert options.out is not None
    assert json.loads((options.out / "manifest.json").read_text())["config"]["space"] == "resnet-cifar"
    other = replace(options, space=None, input_shape=(1, 16, 16), dry_run=True, out=None)
    for strategy in (None, "auto"):  # no table is of such images: a new one, of all families
        planned = search(replace(other, strategy=strategy))
        assert "-auto-" in planned["profile"]["table"]
        assert planned["strategy"] == "families"
    other = replace(other, settings={}, importance=None)
    one_space: list[dict[str, Any]] = [
        {"strategy": "uniform"},
        {"latency_budget": "2x:smallest", "strategy": None},
    ]
    for asked in one_space:  # what is not about one latency, or not by a race of families
        assert "-mbv2-cifar-" in search(replace(other, **asked))["profile"]["table"]


@pytest.mark.parametrize("off_percent", [4.0, 7.0])
def test_a_doubtful_table_of_all_families_gives_way_to_a_profile_near_the_budget(
    off_percent: float, options: SearchOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HWNAS_HOME", str(tmp_path / "fresh"))
    few = Plan(calibration=8, probes=0, holdout=2, target=1.0, blocks=60)
    monkeypatch.setitem(PLANS, "quick", few)
    shape = options.input_shape or (1, 8, 8)
    wide = profile(ProfileOptions(device="fake", space="auto", preset="quick", input_shape=shape))
    monkeypatch.setattr(reliability, "error_percent", lambda table: off_percent)
    asked = replace(options, space=None, strategy=None, dry_run=True, out=None, settings={}, importance=None)
    planned = search(asked).as_json()
    assert planned["strategy"] == "families"
    if off_percent < 5:
        assert planned["table"] == wide.as_json()["table"]
        return
    assert "a quick profile is measured first" in planned["table"]
    # insisted on or named, it is gone by
    assert search(replace(asked, insist=True)).as_json()["table"] == wide.as_json()["table"]
    named = replace(asked, table=Path(wide.as_json()["table"]))
    assert search(named).as_json()["table"] == wide.as_json()["table"]


def test_no_table_names_the_command(options: SearchOptions) -> None:
    with pytest.raises(MissingMeasurement, match="hwnas profile --device fake --space mbv2-cifar"):
        search(replace(options, space="mbv2-cifar", profile=False))


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        ({}, ("auto", "auto")),
        ({"backend": "ort"}, (None, "fp32")),  # as the profile's own default
        ({"precision": "int8"}, (None, "int8")),
        ({"space": "resnet-cifar"}, (None, "fp32")),
        ({"device": "fake"}, (None, "fp32")),
        ({"device": "ssh://pi@board"}, (None, "fp32")),
    ],
)
def test_the_first_table_is_of_what_the_clock_prefers_unless_something_is_named(
    given: dict[str, Any], asked: tuple[str | None, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[ProfileOptions] = []

    def planned(options: ProfileOptions) -> Any:
        seen.append(options)
        return profile(replace(options, device="fake", backend="fake", precision="fp32"))

    monkeypatch.setattr(first_table, "job", planned)
    options = SearchOptions(
        **{"latency_budget": "1ms", "device": "cpu", "data": "digits", **given, "dry_run": True}
    )
    space = make(options.space or "auto", input_shape=(3, 16, 16))
    with pytest.raises(first_table.NotYet):
        first_table.measure(options, space, lambda kind, fields: None, None, why="none fits")
    backend, precision = asked
    assert (seen[0].backend, seen[0].precision) == (given.get("backend", backend), precision)


def test_a_dry_run_without_a_table_plans_a_quick_profile(options: SearchOptions, home: Path) -> None:
    before = sorted(home.rglob("*"))
    body = search(replace(options, space="mbv2-cifar", dry_run=True))
    assert body["profile"]["measurements"] > 0
    assert body["seconds"] == body["profile"]["seconds"]
    assert "quick profile" in body["table"]
    assert sorted(home.rglob("*")) == before


def test_without_a_table_a_quick_profile_is_measured_and_searched_with(
    options: SearchOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HWNAS_HOME", str(tmp_path / "fresh"))
    told: list[tuple[str, Any]] = []
    body = search(
        replace(options, space="resnet-cifar", images=400),
        lambda kind, fields: told.append((kind, dict(fields))),
    )
    table = load(Path(body["table"]))
    assert table.complete
    assert (table.setting.device, table.header.space, table.header.input_shape) == (
        "fake",
        "resnet-cifar",
        (1, 8, 8),
    )
    assert body["within_budget"] is True
    words = next(f["text"] for kind, f in told if kind == "note" and "quick" in str(f.get("text")))
    assert re.search(r"no latency table fits.*quick.*about \d.*`hwnas profile`", words)


def test_a_ratio_that_no_table_can_answer_is_refused_before_the_first_profile(
    options: SearchOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ResNet-20 is of 3x32x32 images: neither its stem nor its 9 blocks occur for 1x8x8 ones."""
    monkeypatch.setenv("HWNAS_HOME", str(tmp_path / "fresh"))
    with pytest.raises(InputError, match=r"10 blocks of resnet20.*1x8x8.*0\.9x:smallest"):
        search(replace(options, space="resnet-cifar", latency_budget="0.9x:resnet20"))
    assert not list(tmp_path.rglob("*.hwlat.jsonl"))


def test_max_time_ends_the_first_profile_too_and_a_repeat_continues_it(
    options: SearchOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HWNAS_HOME", str(tmp_path / "fresh"))
    short = replace(options, space="resnet-cifar", images=400, max_time_s=1e-3)
    with pytest.raises(MissingMeasurement, match=r"not finished within --max-time.*repeat the command"):
        search(short)
    assert not (tmp_path / "run" / "events.jsonl").exists()
    unfinished = next((tmp_path / "fresh").rglob("*.hwlat.jsonl"))
    assert search(replace(short, max_time_s=None))["table"] == str(unfinished)


# -- planning ------------------------------------------------------------------------------------


class Priced:
    """A cost model where ResNet-20 takes 0.5 ms."""

    setting = None
    table_id = "t"
    extrapolated: tuple[str, ...] = ()

    def estimate(self, spec: NetworkSpec) -> Estimate:
        assert spec.depths == (3, 3, 3)
        given = {"latency_ms": 0.5, "low_ms": 0.4, "high_ms": 0.6, "by_stage_ms": {"stem": 0.1}}
        return FakeCost().estimate(spec).model_copy(update={**given, "extrapolated": self.extrapolated})


@pytest.mark.parametrize(
    ("text", "expected", "percentile"),
    [
        ("0.6ms", [0.6], "p50"),
        ("18ms@p95", [18.0], "p95"),
        ("0.9ms, 0.4ms,0.6ms", [0.4, 0.6, 0.9], "p50"),
        ("1.15x:resnet20", [0.575], "p50"),
        ("80%:resnet20", [0.4], "p50"),
        ("2x:resnet20@p90", [1.0], "p90"),
        ("0.7ms,1x:resnet20", [0.5, 0.7], "p50"),
    ],
)
def test_budgets(text: str, expected: list[float], percentile: str) -> None:
    found = plan.budgets(text, Priced())  # type: ignore[arg-type]  # only what is asked for
    assert [budget.latency_ms for budget in found] == pytest.approx(expected)
    assert {budget.percentile for budget in found} == {percentile}


def test_further_limits_belong_to_every_budget() -> None:
    found = plan.budgets("1ms,2ms", Priced(), "60MMAC", "500kparam", "1MiB")  # type: ignore[arg-type]  # only what is asked for
    assert [(b.macs, b.params, b.memory_bytes) for b in found] == [(60e6, 500e3, 2**20)] * 2


def test_a_ratio_to_a_network_that_was_not_measured_is_refused() -> None:
    model = Priced()
    model.extrapolated = ("basic-16x16",)
    with pytest.raises(MissingMeasurement, match="does not cover resnet20"):
        plan.budgets("1x:resnet20", model)  # type: ignore[arg-type]  # only what is asked for
    with pytest.raises(InputError, match="unknown network 'resnet2O'"):
        plan.budgets("1x:resnet2O", Priced())  # type: ignore[arg-type]  # only what is asked for


def test_a_tail_budget_scales_the_predictions(home: Path) -> None:
    table = load(next((home / "tables").glob("*.jsonl")))
    assert plan.tail_factor(table, "p50") == 1.0
    ratios = [row.measurement.p95_ms / row.measurement.floor_ms for row in table.networks]
    assert plan.tail_factor(table, "p95") == pytest.approx(max(float(np.median(ratios)), 1.0))
    with pytest.raises(MissingMeasurement, match="holds no whole network"):
        plan.tail_factor(LatencyTable(table.header), "p95")

    scaled = plan.TailModel(Priced(), 1.2)  # type: ignore[arg-type]  # only what is asked for
    spec = make("resnet-cifar").smallest().grow(0, 2).grow(1, 2).grow(2, 2)
    found = scaled.estimate(spec)
    assert (found.low_ms, found.latency_ms, found.high_ms) == pytest.approx((0.48, 0.6, 0.72))
    assert found.by_stage_ms["stem"] == pytest.approx(0.12)


def test_strategy_options_are_those_that_it_has() -> None:
    chosen = plan.preset("default")
    targets = [Budget(latency_ms=1.0), Budget(latency_ms=2.0)]
    grown = plan.strategy_options("stagewise", chosen, 200_000, targets, {"patience": 1})
    assert grown == {
        "images": 200_000,
        "rounds": chosen.rounds,
        "targets_ms": (1.0,),
        "patience": 1,
    }
    drawn = plan.strategy_options("random", chosen, 500, targets, {})
    assert set(drawn) == {"images", "samples", "targets_ms"}


def test_a_newer_table_of_other_images_hides_no_older_one(
    home: Path, options: SearchOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(home, tmp_path / "home")
    monkeypatch.setenv("HWNAS_HOME", str(tmp_path / "home"))
    (older,) = (tmp_path / "home" / "tables").glob("*.jsonl")
    profile(ProfileOptions(device="fake", space="resnet-cifar", preset="quick", input_shape=(1, 16, 16)))
    body = search(replace(options, dry_run=True))
    assert body["table"] == str(older)
