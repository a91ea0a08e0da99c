"""`hwnas search --strategy densenas` as a whole: super-network, derivation, resume; and planning alone."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from killing import has_event, killed, needs_sigkill

from hwnas.cost.importers import read
from hwnas.errors import BudgetInfeasible, InputError, MissingMeasurement
from hwnas.jobs.plan import PlanOptions, plan
from hwnas.jobs.profile import ProfileOptions, profile
from hwnas.jobs.search import SearchOptions, search
from hwnas.measure.writer import write
from hwnas.nets.spaces import make
from hwnas.store import read_network


@pytest.fixture(scope="module")
def home(levels: Path) -> Path:
    """Tables: of the fake device for 1x8x8 images, and a planning table of a device that is not here."""
    profile(ProfileOptions(device="fake", space="densenas-cifar", preset="quick", input_shape=(1, 8, 8)))
    profile(ProfileOptions(device="titanxp", space="densenas-mbv2", batch=32, estimate=True, classes=100))
    return levels


@pytest.fixture
def options(home: Path, levels_search: SearchOptions) -> SearchOptions:
    return replace(
        levels_search,
        strategy="densenas",
        space="densenas-cifar",
        images=600,
        recipe={"batch": 32, "lr": 0.1, "threads": 1, "checkpoint_s": 0.0},
        settings={"epochs": 2, "share": 0.4, "warmup": 0.4, "score": "learned"},
    )


def events(path: Path, kind: str) -> list[dict[str, object]]:
    file = path / "events.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    return [event for line in lines if (event := json.loads(line))["event"] == kind]


@pytest.mark.slow
@needs_sigkill
def test_a_search_and_one_killed_twice_end_alike(options: SearchOptions, tmp_path: Path) -> None:
    """Killed in the super-network's second epoch and after the first trial, then repeated."""
    whole = search(options)
    run = Path(whole["run"])
    prepared = whole["preparation"]
    assert 0 < prepared["images"] <= 0.4 * 600
    assert prepared["images"] < whole["images"] <= 600
    assert whole["train_macs"] > prepared["train_macs"] > 0
    assert whole["seconds"]["training"] >= prepared["seconds"]
    assert whole["within_budget"]
    assert 0.08 < whole["best"]["measured"]["median_ms"] <= 0.1
    passes = events(run, "supernet")
    assert [event["epoch"] for event in passes] == [1, 2]
    assert {"path_probabilities", "expected_cost", "derived_ms", "most_probable_ms", "edges"} <= set(
        passes[0]
    )
    derived = events(run, "derived")
    assert [event["kind"] for event in derived] == ["most probable", "optimum", "drawn"]
    # The last pass and the derivation speak of the same probabilities and the same costs.
    assert derived[2]["probability_within"] == passes[-1]["probability_within"]
    assert 0 <= float(str(derived[2]["probability_within"])) <= 1
    assert read_network(run / "network.json") in make("densenas-cifar", input_shape=(1, 8, 8))

    path = tmp_path / "killed"
    for kind in ("supernet", "trial"):
        killed(search, replace(options, out=path), when=partial(has_event, path, kind))
    again = search(replace(options, out=path))
    kept = ("best", "accuracy", "trials", "trained", "images", "train_macs", "stopped", "promise")
    assert {k: again[k] for k in kept} == {k: whole[k] for k in kept}
    for kind in ("supernet", "derived"):
        theirs, ours = ([{**e, "at": 0, "hash": ""} for e in events(p, kind)] for p in (path, run))
        assert theirs == ours
    assert (path / "weights.safetensors").read_bytes() == (run / "weights.safetensors").read_bytes()


def test_too_few_images_for_a_super_network_are_said_and_go_to_the_networks(options: SearchOptions) -> None:
    assert options.out is not None
    body = search(replace(options, settings={}))
    assert body.get("preparation") is None
    assert not (options.out / "supernet.safetensors").exists()
    (said,) = [e["text"] for e in events(options.out, "note") if "no super-network" in str(e["text"])]
    assert "150 of 600 images" in str(said)
    assert "proxy score alone decides" in str(events(options.out, "derived")[0]["text"])
    again = search(replace(options, settings={}))
    assert again["best"] == body["best"]
    notes = [e for e in events(options.out, "note") if "no super-network" in str(e["text"])]
    assert len(notes) == 1


def test_a_budget_that_nothing_keeps_is_refused_before_any_training(options: SearchOptions) -> None:
    with pytest.raises(BudgetInfeasible, match="smallest") as failure:
        search(replace(options, latency_budget="0.001ms"))
    assert failure.value.smallest_ms is not None
    assert options.out is not None
    assert not options.out.exists()


def proxy(budget: str, **more: object) -> PlanOptions:
    return PlanOptions(
        latency_budget=budget,
        strategy="densenas",
        space="densenas-mbv2",
        device="titanxp",
        **more,  # type: ignore[arg-type]  # options of several types
    )


def test_planning_lands_within_nine_tenths_of_random_budgets(home: Path) -> None:
    space = make("densenas-mbv2", classes=100)
    first = plan(proxy("1000s"))  # more than anything costs
    least = min(row["predicted_ms"] for row in first["published"]) / 2
    budgets_ms = np.random.default_rng(4).uniform(least, first["best"]["predicted_ms"], size=10)
    body = plan(proxy(",".join(f"{ms:.6f}ms" for ms in budgets_ms)))
    used = [
        target["best"]["predicted_ms"] / ms
        for target, ms in zip(body["targets"], sorted(budgets_ms), strict=True)
    ]
    assert max(used) <= 1.0 + 1e-6  # budgets are written with six decimals
    assert sum(share >= 0.9 for share in used) >= 9
    assert all(read["within_budget"] for read in (t["best"] for t in body["targets"]))
    assert body["trained"] == body["train_macs"] == 0
    assert "nothing was trained and nothing was measured" in body["note"]
    assert [row["network"] for row in body["published"]] == ["densenas-a", "densenas-b", "densenas-c"]
    assert space.name == body["space"]
    json.dumps(body.as_json())


def test_a_plan_is_kept_where_it_is_asked_to_be(home: Path, tmp_path: Path) -> None:
    body = plan(proxy("18ms", out=tmp_path / "plan"))
    assert read_network(tmp_path / "plan" / "network.json").key
    assert json.loads((tmp_path / "plan" / "plan.json").read_text())["best"] == body["best"]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("mine")
    with pytest.raises(InputError, match="no plan"):
        plan(proxy("18ms", out=tmp_path / "other"))
    with pytest.raises(BudgetInfeasible):
        plan(proxy("0.01ms"))
    with pytest.raises(InputError, match="stagewise"):
        plan(replace(proxy("18ms"), strategy="stagewise"))


def test_a_plan_for_another_size_names_a_profile_of_that_size(home: Path) -> None:
    with pytest.raises(MissingMeasurement, match=r"--space densenas-cifar --input 3x16x24$"):
        plan(PlanOptions("1ms", space="densenas-cifar", device="fake", input_shape=(3, 16, 24)))


DATA = os.environ.get("HWNAS_TEST_DATA")


@pytest.mark.skipif(DATA is None, reason="HWNAS_TEST_DATA names no folder with the published latency list")
def test_published_networks_beside_the_plan_under_18_ms(home: Path, tmp_path: Path) -> None:
    """The authors' list for a TITAN Xp: A, B and C as summed by hand from it, the plan under 18 ms."""
    assert DATA is not None
    table = write(
        tmp_path / "xp.hwlat.jsonl",
        read(Path(DATA) / "densenas" / "lat_list_densenas_mbv2_xp32", "densenas"),
    )
    body = plan(proxy("18ms", table=table.path))
    prices = [row["predicted_ms"] for row in body["published"]]
    assert prices == pytest.approx([13.634, 15.813, 18.007], abs=0.001)
    assert 0.99 * 18 < body["best"]["predicted_ms"] <= 18
    assert body["best"]["score"] > max(row["score"] for row in body["published"])
    assert body["members"] > 1e44
    assert body["seconds"]["total"] < 60


def test_macs_in_place_of_latency(options: SearchOptions) -> None:
    """The super-network's loss holds MACs to their limit; what is derived keeps both limits."""
    settings = {**options.settings, "cost": "macs"}
    with pytest.raises(InputError, match="--max-macs"):
        search(replace(options, settings=settings))
    told: list[str] = []
    body = search(
        replace(options, settings=settings, max_macs="2MMAC", out=Path("macs")),
        lambda kind, fields: told.append(fields["text"]) if kind == "supernet" else None,
    )
    assert body["within_budget"]
    assert body["best"]["macs"] <= 2e6
    assert told
    assert all(" of 2;" in text for text in told)
