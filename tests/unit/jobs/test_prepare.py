"""The door of preparations: made once, kept in the run folder, counted."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import pytest

from hwnas import plugins
from hwnas.errors import DataFormatError
from hwnas.jobs.preparations.prepare import FILE, Facts, Prepared, prepare
from hwnas.jobs.search.spread import Preparer
from hwnas.protocols import Needs, Work
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


class Inline:
    """An executor whose machine is this process; the first task of `killed` is killed as it ends."""

    def __init__(self, killed: int = 0) -> None:
        self.killed, self.told = killed, list[str]()

    def share(self, value: Any) -> Any:
        return value

    def submit(self, name: str, needs: Needs, task: Work, *given: Any) -> Any:
        def result() -> Any:
            if self.killed:
                self.killed -= 1
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(shutil, "rmtree", self.kill)
                    task(*given, emit=lambda kind, fields: None)
            return task(*given, emit=lambda kind, fields: self.told.append(kind))

        return SimpleNamespace(result=result)

    def kill(self, *given: Any, **more: Any) -> None:
        raise KeyboardInterrupt


def events(run: Path) -> list[dict[str, Any]]:
    """Of a run, without what is of one session."""
    found = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    return [{name: value for name, value in one.items() if name not in ("at", "hash")} for one in found]


def test_on_another_machine_it_leaves_what_it_leaves_here(
    tmp_path: Path, made: list[Facts], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where its first task was killed: the second one takes over what that had written there."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    here = prepare(Mine, facts(tmp_path / "here"))
    for killed in (0, 1):
        machine: Any = Inline(killed)
        run, told = tmp_path / f"there-{killed}", list[tuple[str, Mapping[str, Any]]]()
        if killed:
            with pytest.raises(KeyboardInterrupt):
                prepare(Mine, facts(run), Preparer(machine, Needs()))
        assert prepare(Mine, facts(run, told), Preparer(machine, Needs())) == here
        assert events(run) == events(tmp_path / "here")
        assert [kind for kind, _ in told] == ["preparation"]  # the pass was told while it ran
        assert machine.told == ([] if killed else ["pass"])  # ... by the task that was killed
    assert not list(tmp_path.glob("hwnas-tasks-*/*"))
