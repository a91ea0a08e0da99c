"""What a strategy of another package gives is checked, and its errors name the package."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from hwnas import plugins
from hwnas.errors import InputError
from hwnas.estimates import Budget
from hwnas.jobs.plan import PlanOptions, planners
from hwnas.jobs.preparations import prepare
from hwnas.nets import spaces
from hwnas.protocols import SearchContext
from hwnas.records import Proposal, Trial
from hwnas.search.strategy import Decision, NoOptions, Strategy, made, proposed, ranked
from hwnas.spec import NetworkSpec

RNG = np.random.default_rng(0)
CONTEXT = SearchContext(spaces.make("resnet-cifar"), cast(Any, None), Budget(latency_ms=1.0))


class Wrong(Strategy[NoOptions]):
    """Answers every question with what it is told to."""

    name = "wrong"
    answer: Any = None
    preparation = f"{__name__}:prepared"

    def propose(self, history: Sequence[Trial], n: int, rng: np.random.Generator) -> list[Proposal]:
        return cast(list[Proposal], self._say())

    def explain(self, history: Sequence[Trial]) -> list[Decision]:
        return cast(list[Decision], self._say())

    def rank(self, trials: Sequence[Trial]) -> list[Trial]:
        return cast(list[Trial], self._say())

    def _say(self) -> object:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class Quiet(Wrong):
    """Proposes as told and explains nothing."""

    def explain(self, history: Sequence[Trial]) -> list[Decision]:
        return []


def prepared(facts: object) -> object:
    """A preparation that fails, or gives what is none."""
    if isinstance(Wrong.answer, Exception):
        raise Wrong.answer
    return Wrong.answer


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """`Wrong` as the strategy of a package."""
    entry = plugins._Entry(f"{__name__}:Wrong", ("odd",))
    monkeypatch.setitem(plugins._table("strategies"), "wrong", entry)
    monkeypatch.setattr(Wrong, "answer", None)


def strategy(answer: object) -> Wrong:
    found = Wrong(CONTEXT)
    found.answer = answer
    return found


NAMED = rf"the strategy 'wrong' of package odd \({__name__}:Wrong\) failed in "


def test_an_error_in_any_hook_names_the_package() -> None:
    with pytest.raises(InputError, match=NAMED + "propose: KeyError: 'a'; repair or uninstall"):
        proposed(strategy(KeyError("a")), [], 1, RNG)
    with pytest.raises(InputError, match=NAMED + "rank: ZeroDivisionError: by zero; repair"):
        ranked(strategy(ZeroDivisionError("by zero")), [])
    quiet = Quiet(CONTEXT)
    quiet.answer = []
    assert proposed(quiet, [], 1, RNG) == ([], [])


def test_what_is_given_must_be_of_the_kind_that_is_asked_for() -> None:
    with pytest.raises(InputError, match="strategy wrong: propose gave NoneType; expected a list of "):
        proposed(strategy(None), [], 1, RNG)
    spec = CONTEXT.space.smallest()
    with pytest.raises(InputError, match=r"propose gave a list of NetworkSpec; .*hwnas.records.Proposal"):
        proposed(strategy([spec]), [], 1, RNG)
    with pytest.raises(InputError, match="continues from trial 4, which was not trained"):
        proposed(strategy([Proposal(spec=spec, parent=4)]), [], 1, RNG)
    with pytest.raises(InputError, match=r"explain gave a list of Proposal; expected a list of .*Decision"):
        proposed(strategy([Proposal(spec=spec)]), [], 1, RNG)
    with pytest.raises(InputError, match="rank gave tuple"):
        ranked(strategy(()), [])
    with pytest.raises(InputError, match="a decision of kind 'trial'; kinds are choice, "):
        Decision(cast(Any, "trial"), "an event that would be read as another one")


def test_a_preparation_that_fails_or_gives_something_else_names_the_package(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def make() -> object:
        return prepare.make("wrong", Wrong.preparation, cast(Any, None))

    assert make() is None
    monkeypatch.setattr(Wrong, "answer", RuntimeError("no images"))
    with pytest.raises(InputError, match=NAMED + "its preparation, .*: RuntimeError: no images"):
        make()
    monkeypatch.setattr(Wrong, "answer", {"scores": 1})
    with pytest.raises(InputError, match=r"its preparation, .*, gave dict; expected Prepared"):
        make()


def test_a_class_that_is_not_registered_keeps_its_own_error() -> None:
    class Own(Wrong):
        """Not registered."""

        name = "own"

    found = Own(CONTEXT)
    found.answer = KeyError("mine")
    with pytest.raises(KeyError, match="mine"):
        proposed(found, [], 1, RNG)


def test_a_strategy_that_cannot_be_made_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: Wrong, context: SearchContext) -> None:
        raise TypeError("no")

    plugins._loaded.cache_clear()
    monkeypatch.setattr(Wrong, "__init__", fails)
    with pytest.raises(InputError, match=NAMED + "being made: TypeError: no"):
        made("wrong", CONTEXT)


def test_who_plans_is_said_by_the_strategies(monkeypatch: pytest.MonkeyPatch) -> None:
    assert planners() == ["auto", "densenas", "hournas"]
    with pytest.raises(InputError, match=r"'random' cannot choose .*; use one of auto, densenas, hournas,"):
        PlanOptions("1ms", strategy="random")

    def plan(cls: type[Wrong], context: SearchContext) -> NetworkSpec:
        return context.space.smallest()

    monkeypatch.setattr(Wrong, "plan", classmethod(plan), raising=False)
    assert planners() == ["auto", "densenas", "hournas", "wrong"]
    assert PlanOptions("1ms", strategy="wrong").strategy == "wrong"


def test_an_error_that_passed_through_a_package_is_its_own(tmp_path: Path) -> None:
    def caught(run: Any) -> Exception:
        try:
            run()
        except Exception as exc:
            return exc
        raise AssertionError

    def ours() -> None:
        raise ValueError("of hwnas")

    module = {"__name__": f"{__name__}.inner"}
    exec("def theirs():\n    return {}['deep']", module)
    told = plugins.culprit(caught(module["theirs"]))
    where = f"{__name__}.inner.theirs, line 2"
    assert told == f"package odd failed ({where}): KeyError: 'deep'; repair or uninstall the package"
    elsewhere = {"__name__": "another.package"}
    exec("def theirs():\n    return {}['deep']", elsewhere)
    plugins._table("strategies")["wrong"] = plugins._Entry("odd_package:Wrong", ("odd",))
    assert plugins.culprit(caught(elsewhere["theirs"])) is None
    assert plugins.culprit(caught(ours)) is None
