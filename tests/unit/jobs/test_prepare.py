"""The door of preparations: made once, kept in the run folder, counted."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import pytest

from hwnas import plugins
from hwnas.errors import DataFormatError
from hwnas.jobs.preparations.prepare import FILE, Facts, Prepared, prepare
from hwnas.runs import RunFolder
from hwnas.search.baselines.random import Random


class Mine(Random):
    name = "mine"
    preparation = "mine_preparation:learn"


class Nothing(Mine):
    name = "nothing"
    preparation = "mine_preparation:nothing"


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Facts]]:
    """Calls of the preparation of `Mine`; that of `Nothing` prepares nothing."""
    calls: list[Facts] = []

    def learn(facts: Facts) -> Prepared:
        calls.append(facts)
        facts.note("pass", {"pass": 1, "text": "one pass"}, key="pass")
        return Prepared({"edges": [0.5, 0.25]}, images=300, train_macs=9e6, seconds=1.5)

    module = ModuleType("mine_preparation")
    module.learn = learn  # type: ignore[attr-defined]  # a module made for the test
    module.nothing = lambda facts: None  # type: ignore[attr-defined]  # a module made for the test
    monkeypatch.setitem(sys.modules, "mine_preparation", module)
    for strategy in (Mine, Nothing):
        target = f"{__name__}:{strategy.__name__}"
        monkeypatch.setitem(plugins.BUILT_IN["strategies"], strategy.name, target)
    plugins.forget()
    yield calls
    monkeypatch.undo()
    plugins.forget()


def facts(path: Path, told: list[tuple[str, Mapping[str, Any]]] | None = None) -> Facts:
    missing = cast(Any, None)
    said = told if told is not None else []
    return Facts(
        space=missing,
        dataset=missing,
        estimate=missing,
        table=missing,
        budgets=(),
        images=1000,
        settings={},
        recipe=missing,
        seed=0,
        run=RunFolder(path, "search", {}),
        emit=lambda kind, fields: said.append((kind, fields)),
    )


def test_made_once_and_read_back(tmp_path: Path, made: list[Facts]) -> None:
    first = prepare(Mine, facts(tmp_path))
    again = prepare(Mine, facts(tmp_path))
    assert len(made) == 1
    assert first == again == Prepared({"edges": [0.5, 0.25]}, 300, 9e6, 1.5)
    events = RunFolder(tmp_path, "search", {}).events()
    assert [e["event"] for e in events] == ["pass", "preparation"]
    assert events[1]["images"] == 300
    assert events[1]["training_s"] == 1.5


def test_killed_before_its_event_writes_it_then(tmp_path: Path, made: list[Facts]) -> None:
    prepare(Mine, facts(tmp_path))
    lines = (tmp_path / "events.jsonl").read_text().splitlines()
    (tmp_path / "events.jsonl").write_text(lines[0] + "\n")
    told: list[tuple[str, Mapping[str, Any]]] = []
    prepare(Mine, facts(tmp_path, told))
    assert [kind for kind, _ in told] == ["preparation"]
    assert len((tmp_path / "events.jsonl").read_text().splitlines()) == 2


def test_strategies_without_a_preparation(tmp_path: Path, made: list[Facts]) -> None:
    assert prepare(Random, facts(tmp_path)) is None
    assert prepare(Nothing, facts(tmp_path)) is None
    assert not (tmp_path / FILE).exists()
    assert RunFolder(tmp_path, "search", {}).events() == []


def test_a_damaged_result_is_refused(tmp_path: Path, made: list[Facts]) -> None:
    prepare(Mine, facts(tmp_path))
    body = json.loads((tmp_path / FILE).read_text())
    del body["images"]
    (tmp_path / FILE).write_text(json.dumps(body))
    with pytest.raises(DataFormatError, match="remove it"):
        prepare(Mine, facts(tmp_path))
