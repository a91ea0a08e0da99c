"""The benchmark of scores goes on where it was stopped, and what it tells follows from its rows."""

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from benchmarks import equal_latency, figures_spaces
from benchmarks import scores as command
from benchmarks.scores import PARTS, SCORES, Question, Scores
from hwnas.nets.families import auto
from hwnas.train.data import load
from hwnas.train.score import score

BUDGET = "0.2ms"
SPACE = auto()
SPECS = [family.scaled(0, 1) for family in SPACE.families[:3]]


def networks() -> list[dict[str, Any]]:
    return [
        {
            "key": spec.key,
            "family": f"family {at // 2}",
            "spec": spec.model_dump(mode="json"),
            "predicted_ms": 0.19,
            "floor_ms": 0.185 + at / 1000,
            "ms": 0.19,
        }
        for at, spec in enumerate(SPECS)
    ]


def asked(out: Path, **changed: Any) -> argparse.Namespace:
    given = {"data": "digits", "seeds": [0], "networks": 3, "short": 16, "backend": "ort", "out": str(out)}
    return argparse.Namespace(**(given | changed))


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(equal_latency, "profiled", lambda *given: None)
    monkeypatch.setattr(equal_latency, "priced", lambda *given: (None, None))
    monkeypatch.setattr(equal_latency, "chosen", lambda *given: networks())


class Stopped(Exception):
    """Instead of kill -9."""


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Scores that are told by a network's name, and how often each was computed."""
    calls: Counter[str] = Counter()

    def told(name: str) -> Any:
        def compute(question: Question) -> dict[str, float]:
            calls[f"{name} {question.spec.key}"] += 1
            at = float([spec.key for spec in SPECS].index(question.spec.key))
            names = ("expressivity", "progressivity", "trainability") if name == "az_nas" else (name,)
            return dict.fromkeys(names, -at if name == "zico" else at)

        return compute

    monkeypatch.setattr(command, "SCORES", {name: told(name) for name in SCORES})
    return calls


def all_of(out: Path) -> Scores:
    found = Scores(asked(out))
    found.choose(BUDGET)
    for network in found.networks[BUDGET]:
        found.score(BUDGET, network, 0)
    for network in found.networks[BUDGET]:
        found.train(BUDGET, network, 16, 0)
    return found


@pytest.mark.usefixtures("measured")
def test_what_is_in_the_file_is_not_made_again(
    tmp_path: Path, counted: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = all_of(tmp_path / "whole.json")
    assert set(counted.values()) == {1}
    counted.clear()
    made: Counter[str] = Counter()

    def stops(module: Any, split: Any) -> Any:
        made["tests"] += 1
        if made["tests"] == 2:
            raise Stopped
        return score(module, split)

    monkeypatch.setattr(command, "score", stops)
    out = tmp_path / "stopped.json"
    with pytest.raises(Stopped):
        all_of(out)
    kept = json.loads(out.read_text())
    assert [row["network"] for row in kept["rows"]] == [SPECS[0].key]
    again = all_of(out)
    assert made["tests"] == 4  # the first, the one that was stopped, and the two that were left
    assert set(counted.values()) == {1}
    parts = [[(row["network"], row["val"], row["test"]) for row in one.rows] for one in (whole, again)]
    assert parts[0] == parts[1]
    assert not list((tmp_path / "stopped").glob("*.ckpt"))


@pytest.mark.usefixtures("measured")
def test_scores_are_kept_one_by_one(
    tmp_path: Path, counted: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(question: Question) -> dict[str, float]:
        raise Stopped

    with monkeypatch.context() as patched:
        patched.setitem(command.SCORES, "swap", fails)
        with pytest.raises(Stopped):
            all_of(tmp_path / "one.json")
    kept = json.loads((tmp_path / "one.json").read_text())["scores"]
    assert list(kept[0]["seconds"]) == ["entropy", "parameters", "macs", "zico"]
    all_of(tmp_path / "one.json")
    assert set(counted.values()) == {1}


@pytest.mark.usefixtures("measured", "counted")
def test_the_table_ranks_by_what_the_rows_say(tmp_path: Path) -> None:
    found = Scores(asked(tmp_path / "table.json"))
    found.choose(BUDGET)
    for network in found.networks[BUDGET]:
        found.score(BUDGET, network, 0)
    assert found.table() == []
    for seed, tests in ((0, (0.5, 0.25, 0.75)), (1, (0.5, 0.75, 0.75))):  # means 0.5, 0.5, 0.75
        found.rows += [
            {"budget": BUDGET, "network": spec.key, "images": 16, "seed": seed, "test": test, "val": test}
            for spec, test in zip(SPECS, tests)
        ]
    table = {row["score"]: row for row in found.table()}
    assert table.keys() == {*(set(SCORES) - {"az_nas"}), *PARTS, "az_nas"}
    # Pairs 02 and 12 agree, 01 is tied in the accuracy: 2 / sqrt(3 * 2). Reversed by ZiCo.
    assert table["entropy"]["all"]["tau"] == pytest.approx(2 / 6**0.5)
    assert table["zico"]["all"]["tau"] == pytest.approx(-2 / 6**0.5)
    assert (table["entropy"]["regret"], table["zico"]["regret"]) == (0.0, 0.25)
    assert table["az_nas"]["all"] == table["entropy"]["all"]
    assert table["entropy"]["within"] is None  # the one pair within a family is tied
    found.write()
    body = json.loads((tmp_path / "table.json").read_text())
    text = figures_spaces.scores(body)
    assert "| 0.2ms | 16 | 3 | ZiCo | no | -0.82 " in text
    assert "| entropy (the score in use) | yes | 0.82 " in text
    assert "| no pair | 25.00 points |" in text
    assert "0.2ms: 3 networks of 2 families, 0.185 to 0.187 ms" in text
    command.show(body["table"])


@pytest.mark.usefixtures("measured")
def test_another_question_to_the_same_file_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "file.json"
    Scores(asked(out)).choose(BUDGET)
    with pytest.raises(SystemExit, match=r"3 networks at 0\.2ms, and 4 are asked for"):
        Scores(asked(out, networks=4)).choose(BUDGET)
    with pytest.raises(SystemExit, match="short trainings of 16 images, and 17"):
        Scores(asked(out, short=17))


def test_scores_of_a_network_are_of_training_images_by_its_seed() -> None:
    data = load("digits", seed=0)
    question = Question(SPECS[0], data, seed=0, short=16)
    one, labels = question.images(0, 32)
    two, _ = question.images(1, 32)
    again, _ = Question(SPECS[0], data, seed=0, short=16).images(0, 32)
    assert one.shape == (32, 3, 32, 32)
    assert labels.shape == (32,)
    assert bool((one == again).all())
    assert not bool((one == two).all())
    found = [compute(question) for name, compute in SCORES.items() if name != "short"]
    names = [name for one in found for name in one]
    assert names == [
        "entropy",
        "parameters",
        "macs",
        "zico",
        "swap",
        "expressivity",
        "progressivity",
        "trainability",
    ]
    assert data.test_reads == 0
