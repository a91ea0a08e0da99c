"""Slow spells of a machine, played back under whole commands: what they wait for, say and leave.

On each trace the machine is calm (1.0) until a planted fault; `bench` has run in the calm, so that the best
level of the sentinel is known.
"""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from e2e_house import SMALL, House, house
from e2e_replayed import Replayed, replayed, trace_of

from hwnas.arrays import Float64s
from hwnas.backends.fake import Fake
from hwnas.measure.patience import Patience
from hwnas.measure.sweep import Sweep, SweepOptions, header_for
from hwnas.measure.table import LatencyTable
from hwnas.measure.writer import TableWriter
from hwnas.nets import spaces
from hwnas.runs import read_events

CALM_S = 100.0  # before the fault
SPELL = (CALM_S, CALM_S + 20.0)
PATIENCE_S = 60.0
NETWORK = "resnet20"
# The smallest member takes 0.065 ms, at most 0.071 by the table; slowed by a fifth, 0.078.
BUDGET = "0.072ms"
SEARCH = (
    *("search", "--latency-budget", BUDGET, *SMALL, "--data", "digits", "--limit", "200"),
    *("--images", "400", "--strategy", "uniform", "--recipe", "batch=32", "--recipe", "threads=1"),
)


def spell(at_s: Float64s) -> Float64s:
    return np.where((at_s >= SPELL[0]) & (at_s < SPELL[1]), 1.2, 1.0)


def for_ever(at_s: Float64s) -> Float64s:
    return np.where(at_s >= CALM_S, 1.2, 1.0)


def drift(at_s: Float64s) -> Float64s:
    """A percent slower every second; unit/measure/test_reference.py has how tables divide it out."""
    return 1.0 + 0.01 * np.maximum(at_s - CALM_S, 0.0)


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a table taken in the calm, and enough looks at the sentinel."""
    folder = tmp_path_factory.mktemp("calm")
    with pytest.MonkeyPatch.context() as patch:
        device = replayed(trace_of(spell, 200.0), patch)
        there = house(folder, patch)
        there.run("profile", *SMALL, "--preset", "quick", "--out", "calm.hwlat.jsonl")
        there.run("bench", NETWORK, "--device", "fake")
        assert device.clock.now_s < CALM_S - 5.0
    return folder


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Replayed:
    return replayed(trace_of(spell, 400.0), monkeypatch)


@pytest.fixture
def home(calm: Path, device: Replayed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    shutil.copytree(calm, tmp_path, dirs_exist_ok=True)
    return house(tmp_path, monkeypatch)


def promise_of(run: Path) -> list[dict[str, Any]]:
    """The promises that a search tested, in order."""
    return [
        dict(event["promise"]) for event in read_events(run / "events.jsonl") if event["event"] == "confirm"
    ]


def search(home: House, *more: str) -> dict[str, Any]:
    return home.json(*SEARCH, "--table", "calm.hwlat.jsonl", "--out", "run", *more)


def test_a_spell_at_the_start_of_a_search_is_waited_for(device: Replayed, home: House) -> None:
    device.clock.now_s = SPELL[0]
    body = search(home)
    assert body["within_budget"] is True
    (promise,) = promise_of(Path("run"))
    assert (promise["verdict"], promise["misses"]) == ("kept", 0)
    # The spell lasts 20 s: a quarter of the patience is for the first measurement, the rest for the promise.
    assert "waited" in promise["note"]
    assert SPELL[1] <= device.clock.now_s < SPELL[1] + 4.0


def test_a_spell_during_the_promise(device: Replayed, home: House) -> None:
    device.clock.now_s = SPELL[0] - 0.2  # sessions take 60 ms each: the first two or three are calm
    body = search(home)
    assert body["within_budget"] is True
    (promise,) = promise_of(Path("run"))
    assert (promise["verdict"], promise["misses"]) == ("kept", 0)
    assert SPELL[1] <= device.clock.now_s < SPELL[1] + 4.0


def test_a_machine_that_is_never_calm_again(device: Replayed, home: House) -> None:
    """The answer comes within the patience, says why there is none, and nothing is trained again."""
    device.trace = trace_of(for_ever, 400.0)
    device.clock.now_s = CALM_S + 1.0
    before = device.clock.now_s
    args = (*SEARCH, "--table", "calm.hwlat.jsonl", "--out", "run")
    words = home.refused(*args, "--patience", f"{PATIENCE_S:.0f}s", status=3)
    assert "too disturbed to show it" in words
    assert "Repeat the command when the machine is quiet" in words
    assert before + PATIENCE_S <= device.clock.now_s < before + PATIENCE_S + 10.0
    assert not (Path("run") / "result.json").exists()
    tested = promise_of(Path("run"))
    assert {one["verdict"] for one in tested} == {"ambiguous"}
    # A quarter of the 60 s went into measuring the candidate, the rest into its promise.
    assert any("waited 45 s" in one["note"] for one in tested)
    trained = sum(event["event"] == "trial" for event in read_events(Path("run") / "events.jsonl"))
    # Calm again: the same command tests again and ends.
    device.trace = trace_of(spell, 400.0)
    device.clock.now_s = SPELL[1] + 1.0
    body = home.json(*args)
    assert body["within_budget"] is True
    assert sum(event["event"] == "trial" for event in read_events(Path("run") / "events.jsonl")) == trained


def test_the_patience_given_is_the_patience_spent(device: Replayed, home: House) -> None:
    device.trace = trace_of(for_ever, 400.0)
    device.clock.now_s = before = CALM_S + 1.0
    body = home.json("bench", NETWORK, "--device", "fake", "--patience", "10s")
    assert body["machine"] == {"state": "slow", "slow_share": 1.0, "waited_s": pytest.approx(10.0, abs=0.1)}
    assert device.clock.now_s - before < 20.0
    (row,) = body["networks"]
    assert row["gates"] == ["sentinel"], "what was measured in the spell says so"


def test_a_bench_within_a_spell_waits_and_gives_the_calm_value(device: Replayed, home: House) -> None:
    device.clock.now_s = SPELL[1] + 1.0
    (calm,) = home.json("bench", NETWORK, "--device", "fake")["networks"]
    device.clock.now_s = SPELL[0] + 5.0
    body = home.json("bench", NETWORK, "--device", "fake")
    assert body["networks"][0]["floor_ms"] == pytest.approx(calm["floor_ms"], rel=0.002)
    assert 13.0 < body["machine"]["waited_s"] < 19.0


def swept(path: Path, patience_s: float) -> LatencyTable:
    """A table of all blocks; networks would take long, and go the same way."""
    backend, space = Fake(), spaces.make("resnet-cifar", input_shape=(3, 16, 16), classes=10)
    options = SweepOptions()
    header = header_for(backend.setting("fake", "fp32", 1, 1), space.name, (3, 16, 16), 10, options.timing)
    with closing(TableWriter(path, header)) as writer:
        task = Sweep(writer, backend, options, patience=Patience(patience_s))
        task.blocks(space.blocks())
        return task.finish()


def test_a_sweep_of_a_machine_that_is_never_calm_ends_and_says_so(device: Replayed, home: House) -> None:
    device.trace = trace_of(for_ever, 1000.0)
    device.clock.now_s = before = CALM_S + 1.0
    table = swept(Path("slow.hwlat.jsonl"), 30.0)
    assert table.complete
    # 30 s of patience, and at most seven blocks' sessions of 20 ms with their warm-ups.
    assert 30.0 <= device.clock.now_s - before < 40.0
    assert all("sentinel" in row.measurement.gates for row in table.rows.values() if row.measurement)


def test_a_device_that_has_drifted_away_is_told_apart_from_a_slow_network(
    device: Replayed, home: House
) -> None:
    device.trace = trace_of(drift, 1000.0)
    device.clock.now_s = CALM_S + 20.0  # 20 % slower, and slower still within the patience
    words = home.refused(*SEARCH, "--table", "calm.hwlat.jsonl", "--out", "run", status=3)
    assert "too disturbed to show it" in words
    assert {one["verdict"] for one in promise_of(Path("run"))} == {"ambiguous"}
