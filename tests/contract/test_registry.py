"""What every registered name promises; blocks, backends and strategies have files of their own."""

from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
import pytest

from hwnas import executors, plugins, traced
from hwnas.backends import formats
from hwnas.cost import importers
from hwnas.errors import HwnasError, InputError
from hwnas.jobs.replay import ReplayOptions, replay
from hwnas.nets import spaces
from hwnas.protocols import Executor, Importance, SearchSpace
from hwnas.records import Setting
from hwnas.report.collect import RunData
from hwnas.report.page import Section
from hwnas.search.importance.judge import make as importance
from hwnas.train.uri import parse


def every(group: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("name", plugins.names(group))


@every("spaces")
def test_a_space_has_members(name: str) -> None:
    space = spaces.make(name)
    assert isinstance(space, SearchSpace)
    assert space.smallest() in space
    member = space.sample(np.random.default_rng(0))
    assert member in space
    assert set(member.blocks) <= set(space.blocks())


@every("formats")
def test_a_format_says_what_it_is(name: str) -> None:
    found = formats.get(name)
    assert found.text
    assert found.suffix.startswith(".")
    assert found.backend is None or found.backend in plugins.names("backends")
    assert set(found.bound_to) <= set(Setting.model_fields)
    assert not found.usual or found.backend is not None


def test_the_usual_format_is_registered_for_every_backend() -> None:
    assert {formats.usual(name) for name in plugins.names("backends")} <= set(plugins.names("formats"))


def test_what_builds_traced_networks_is_called_as_the_rest_calls_it() -> None:
    found, wanted = traced.builder(), traced.TracedBuilder
    for method in ("build", "inherit", "network_onnx", "chain_onnx"):
        called = list(inspect.signature(getattr(found, method)).parameters)
        assert called == list(inspect.signature(getattr(wanted, method)).parameters)[1:]


@every("removals")
def test_what_judges_removals_is_called_as_an_importance_is(name: str) -> None:
    called = inspect.signature(importance(name, images=32, group="removals").__call__)
    assert list(called.parameters) == list(inspect.signature(Importance.__call__).parameters)[1:]


@every("importances")
def test_an_importance_is_made_and_called_alike(name: str) -> None:
    called = inspect.signature(importance(name, images=32).__call__)
    wanted = list(inspect.signature(Importance.__call__).parameters)[1:]
    assert list(called.parameters) == wanted


@every("datasets")
def test_a_data_source_takes_a_place_and_a_shape(name: str) -> None:
    assert len(inspect.signature(plugins.load("datasets", name)).parameters) == 2
    with_place = name if name == "digits" else f"{name}:somewhere"
    assert parse(with_place) == (name, "" if name == "digits" else "somewhere")


@every("importers")
def test_an_importer_refuses_what_is_no_table(name: str, tmp_path: Path) -> None:
    (tmp_path / "rubbish").write_text("no table\n")
    with pytest.raises(HwnasError, match="rubbish"):
        importers.read(tmp_path / "rubbish", name)
    with pytest.raises(InputError):
        importers.read(tmp_path / "missing", name)


@every("replays")
def test_a_replay_refuses_what_is_no_log(name: str, tmp_path: Path) -> None:
    (tmp_path / "rubbish").write_text("no log\n")
    for file in ("rubbish", "missing"):
        with pytest.raises(HwnasError, match=file):
            replay(ReplayOptions(tmp_path / file, name))


@every("executors")
def test_an_executor_has_the_door(name: str) -> None:
    found = plugins.load("executors", name)
    assert found.unavailable() is None or "pip install" in found.unavailable()
    for method in ("apart", "share", "submit", "wait", "close"):
        wanted = list(inspect.signature(getattr(Executor, method)).parameters)
        assert list(inspect.signature(getattr(found, method)).parameters) == wanted
    assert executors.parse(name) == (name, "")
    assert executors.parse(f"{name}://somewhere:1") == (name, "somewhere:1")


@every("sections")
def test_a_section_of_an_empty_run_does_not_fail(name: str, tmp_path: Path) -> None:
    made = plugins.load("sections", name)(RunData(tmp_path))
    found = made if isinstance(made, list) else [made]
    assert all(one is None or isinstance(one, Section) for one in found)


def test_every_group_has_a_contract() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py"))
    for group in plugins.BUILT_IN:
        assert f'every("{group}")' in text or f'plugins.names("{group}")' in text, group
