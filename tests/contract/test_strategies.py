"""The promises of the strategy door, over every registered strategy."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, get_args

import numpy as np
import pytest
from killing import has_event, killed, needs_sigkill
from strategy_fakes import FakeCost, FakeTrainer, context, folder, price_ms, walked

from hwnas import plugins
from hwnas.errors import BudgetInfeasible, InputError
from hwnas.estimates import Budget
from hwnas.jobs import inspect
from hwnas.options import described
from hwnas.records import Evaluation, Proposal, SearchResult, Trial
from hwnas.search.ranking import candidates
from hwnas.search.state import Limits
from hwnas.search.strategy import Decision, DecisionKind, NoOptions, Strategy, find

IMAGES = 100_000
SPACES = {"resnet-cifar": 0.5, "resnet-cifar-wide": 0.4, "mbv2-cifar": 0.2}
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "stagewise": [{"importance": "probe"}, {"importance": "vip"}, {"fidelity": "paper", "start": 1}],
    "uniform": [{}, {"largest": True}],
    "random": [{"draws": 300, "samples": 5}],
    "tpe": [{"asks": 40, "samples": 5}],
    "hournas": [{}],
    "auto": [{}, {"score": "gains"}],  # few images, and many
    "macromicro": [{"max_depth": 24}, {"fidelity": "paper", "max_depth": 12}],
    "fit": [{}],
    "families": [{}],
    "densenas": [{}, {"spares": 0}],  # without learned scores: what learns them is not the strategy's
}
# Spaces, and a budget in each, of strategies that cannot search those above.
OWN_SPACES: dict[str, dict[str, float]] = {
    "macromicro": {"macromicro": 0.2},
    "densenas": {"densenas-cifar": 0.25},
    "fit": {"own-model": 0.07},
    "families": {"auto": 0.2},
}


def spaces(strategy: str) -> dict[str, float]:
    return OWN_SPACES.get(strategy, SPACES)


def one_space(strategy: str) -> str:
    """A small space; for `auto` one in which operators grow, too."""
    return "mbv2-cifar" if strategy == "auto" else next(iter(spaces(strategy)))


def strategies() -> list[tuple[str, dict[str, Any]]]:
    """Every registered strategy that takes a context, with the options that change its course."""
    found = []
    for name in plugins.names("strategies"):
        if find(name).unavailable() is None:
            found += [(name, options) for options in OPTIONS.get(name, [{}])]
    return found


CASES = [
    pytest.param(
        name, options, space, id=f"{name}-{'-'.join(map(str, options.values())) or 'default'}-{space}"
    )
    for name, options in strategies()
    for space in spaces(name)
]
every = pytest.mark.parametrize(("name", "options", "space"), CASES)


class Killed(BaseException):
    """Stands for SIGKILL: nothing may catch it."""


def run(
    path: Path,
    name: str,
    options: dict[str, Any],
    space: str,
    budget_ms: float | None = None,
    *,
    die_after: int | None = None,
    trainer: FakeTrainer | None = None,
    cost: FakeCost | None = None,
    strategy: Strategy[Any] | None = None,
    seed: int = 0,
) -> SearchResult:
    cost = cost or FakeCost(error=0.02)
    ctx = context(space, budget_ms or spaces(name)[space], cost, images=IMAGES, **options)
    trainer = trainer or FakeTrainer(path, ctx.space, seed)
    strategy = strategy or find(name)(ctx)
    asked = strategy.asks_importance()
    if asked is not None and asked.importance != "vip":
        trainer.growths = strategy.growths
    calls = 0

    def evaluate(proposal: Any, index: int) -> Any:
        nonlocal calls
        calls += 1
        if die_after is not None and calls > die_after:
            raise Killed
        return trainer(proposal, index)

    limits = Limits(images=IMAGES, trials=60)
    return walked(strategy, ctx, evaluate, cost, path, limits, seed, run=folder(path, seed))


@every
def test_members_only_within_the_budget_and_bounded(
    name: str, options: dict[str, Any], space: str, tmp_path: Path
) -> None:
    cost = FakeCost()
    ctx = context(space, spaces(name)[space], cost, images=IMAGES, **options)
    trainer = FakeTrainer(tmp_path, ctx.space)
    result = run(tmp_path, name, options, space, trainer=trainer, cost=cost)

    assert trainer.trained
    assert len(result.trials) <= 60
    assert all(proposal.spec in ctx.space for proposal in trainer.trained)
    candidates = [proposal for proposal in trainer.trained if proposal.role != "probe"]
    assert all(price_ms(proposal.spec) * 1.04 <= spaces(name)[space] for proposal in candidates)
    assert sum(proposal.images or 0 for proposal in trainer.trained) <= IMAGES
    best = result.trials[result.best]
    assert best.role != "probe"
    assert result.promise.verdict == "kept"
    assert result.measured.median_ms <= spaces(name)[space]


@every
def test_the_same_history_gives_the_same_proposal(
    name: str, options: dict[str, Any], space: str, whole_search: Callable[..., Whole]
) -> None:
    result = whole_search(name, options, space).result
    history = [trial for trial in result.trials if trial.role != "final"]
    cost = FakeCost()
    ctx = context(space, spaces(name)[space], cost, images=IMAGES, **options)
    one, other = (find(name)(ctx) for _ in range(2))
    for length in range(len(history) + 1):
        part = history[:length]
        first = one.propose(part, 1, np.random.default_rng([0, length]))
        assert first == one.propose(part, 1, np.random.default_rng([0, length]))
        assert first == other.propose(part, 1, np.random.default_rng([0, length]))


@dataclasses.dataclass(frozen=True)
class Whole:
    """A search that nothing interrupted, made once for all tests that compare with it."""

    result: SearchResult
    path: Path


@pytest.fixture(scope="module")
def whole_search(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Whole]:
    made: dict[str, Whole] = {}

    def of(name: str, options: dict[str, Any], space: str) -> Whole:
        key = json.dumps([name, options, space])
        if key not in made:
            path = tmp_path_factory.mktemp("whole")
            made[key] = Whole(run(path, name, options, space), path)
        return made[key]

    return of


def summary(result: SearchResult) -> dict[str, Any]:
    body = result.model_dump(mode="json")
    return {key: value for key, value in body.items() if key != "seconds"}


@every
def test_a_search_killed_anywhere_ends_as_if_unbroken(
    name: str, options: dict[str, Any], space: str, tmp_path: Path, whole_search: Callable[..., Whole]
) -> None:
    whole = whole_search(name, options, space)
    trained = sum(trial.evaluation is not None for trial in whole.result.trials)
    for cut in sorted({0, trained // 2, trained - 1}):
        path = tmp_path / f"cut-{cut}"
        with pytest.raises(Killed):
            run(path, name, options, space, die_after=cut)
        again = run(path, name, options, space)
        assert summary(again) == summary(whole.result)
        assert texts(path) == texts(whole.path)
        weights = [(folder / "weights.safetensors").read_bytes() for folder in (path, whole.path)]
        assert weights[0] == weights[1]


def texts(path: Path) -> list[str]:
    lines = (path / "events.jsonl").read_text().splitlines()
    return [f"{event['event']}: {event['text']}" for event in map(json.loads, lines)]


@every
def test_an_infeasible_budget_names_the_smallest_latency(
    name: str, options: dict[str, Any], space: str, tmp_path: Path
) -> None:
    trainer = FakeTrainer(tmp_path, context(space, 1.0, FakeCost()).space)
    smallest_ms = price_ms(trainer.space.smallest()) * 1.04
    for budget_ms in (smallest_ms * 0.99, 0.001):
        with pytest.raises(BudgetInfeasible, match="smallest") as failure:
            run(tmp_path, name, options, space, budget_ms, trainer=trainer)
        assert failure.value.exit_status == 3
        assert failure.value.smallest_ms == pytest.approx(smallest_ms)
    assert trainer.trained == []


@every
def test_a_budget_for_the_smallest_alone_is_answered(
    name: str, options: dict[str, Any], space: str, tmp_path: Path
) -> None:
    least = context(space, 1.0, FakeCost()).space.smallest()
    budget_ms = price_ms(least) * 1.05
    result = run(tmp_path, name, options, space, budget_ms, cost=FakeCost())
    assert result.measured.median_ms <= budget_ms
    if space == "resnet-cifar":  # elsewhere a step can be smaller than the 5 %
        assert result.trials[result.best].spec.key == least.key


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options"), strategies())
def test_no_budget_is_ever_exceeded(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    """Random budgets, and a cost model that is wrong by up to 10 %: the result keeps the budget.

    HWNAS_BUDGETS=100 makes it a hundred for each strategy, over a thousand in all (a quarter of an hour).
    """
    rng = np.random.default_rng(3)
    space, usual_ms = next(iter(spaces(name).items()))
    for at in range(int(os.environ.get("HWNAS_BUDGETS", "8"))):
        cost = FakeCost(error=float(rng.uniform(-0.1, 0.1)))
        budget_ms = float(rng.uniform(0.36, 1.8)) * usual_ms
        result = run(tmp_path / str(at), name, options, space, budget_ms, cost=cost, seed=at)
        assert cost.truth_ms(result.trials[result.best].spec) <= budget_ms


names = pytest.mark.parametrize("name", plugins.names("strategies"))


@names
def test_it_is_a_strategy_under_its_own_name(name: str) -> None:
    assert find(name).name == name
    assert (find(name).__doc__ or "").strip().splitlines()[0].endswith((".", ":"))


@names
def test_options_are_frozen_described_and_checked(name: str) -> None:
    kind = find(name).Options
    assert dataclasses.is_dataclass(kind)
    defaults = kind()
    assert find(name).read_options({}) == defaults
    for one in described(kind):
        assert one.help.endswith("."), f"{name}: option {one.name} has no description"
        assert one.expected
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(defaults, one.name, one.default)
    with pytest.raises(InputError, match=f"option of strategy {name}: .*'nonesuch'"):
        find(name).read_options({"nonesuch": 1})


@names
def test_what_is_missing_is_said_with_its_cure(name: str) -> None:
    reason = find(name).unavailable()
    assert reason is None or "pip install" in reason
    row = next(row for row in inspect.strategies() if row["name"] == name)
    assert (row["available"], row["reason"]) == (reason is None, reason)


@names
def test_a_preparation_exists_and_has_an_option_for_what_it_learned(name: str) -> None:
    target = find(name).preparation
    if target is not None:
        assert callable(resolve_name(target))
        assert "scores" in {one.name for one in described(find(name).Options)}


@pytest.mark.parametrize(("name", "options"), strategies())
def test_every_question_is_answered_of_every_history(
    name: str, options: dict[str, Any], whole_search: Callable[..., Whole]
) -> None:
    """Over all beginnings of a search: decisions in words, an order of all candidates, growths of members."""
    space = one_space(name)
    result = whole_search(name, options, space).result
    history = [trial for trial in result.trials if trial.role != "final"]
    ctx = context(space, spaces(name)[space], FakeCost(), images=IMAGES, **options)
    strategy = find(name)(ctx)
    asked = strategy.asks_importance()
    assert asked is None or (asked.importance in plugins.names(asked.group) and asked.images > 0)
    for length in range(len(history) + 1):
        part = history[:length]
        proposals = strategy.propose(part, 1, np.random.default_rng([0, length]))
        assert len(proposals) <= 1
        check_decisions(strategy.explain(part), ended=not proposals)
        assert strategy.explain(part) == strategy.explain(part)
        ranked = strategy.rank(part)
        assert sorted(trial.index for trial in ranked) == [trial.index for trial in candidates(part)]
        assert ranked == strategy.rank(part)
        for proposal in proposals:
            moves = strategy.growths(proposal)
            assert asked is not None or not moves
            assert all(move.spec in ctx.space and move.spec.key != proposal.spec.key for move in moves)
            assert len({(move.stage, move.kind) for move in moves}) == len(moves)


def check_decisions(decisions: Sequence[Decision], *, ended: bool) -> None:
    for one in decisions:
        assert one.kind in get_args(DecisionKind)
        assert one.text
        assert one.text.isprintable()  # one line, and no control characters
        assert json.loads(json.dumps(dict(one.fields))) is not None
    stops = [one for one in decisions if one.kind == "stop"]
    assert len(stops) <= 1
    assert ended or not stops


@pytest.mark.parametrize(("name", "options"), strategies())
def test_a_whole_search_leaves_the_strategy_as_it_was(
    name: str, options: dict[str, Any], tmp_path: Path
) -> None:
    space, cost = one_space(name), FakeCost(error=0.02)
    ctx = context(space, spaces(name)[space], cost, images=IMAGES, **options)
    strategy = find(name)(ctx)
    before = state(strategy)
    run(tmp_path, name, options, space, cost=cost, strategy=strategy)
    assert state(strategy) == before


def state(thing: object) -> object:
    """All that a strategy holds, with what it is composed of; memories of pure functions left out."""
    if dataclasses.is_dataclass(thing) and not isinstance(thing, type):
        return {one.name: state(getattr(thing, one.name)) for one in dataclasses.fields(thing)}
    if type(thing).__module__.startswith("hwnas.search."):
        return {name: state(value) for name, value in vars(thing).items()}
    if isinstance(thing, (list, tuple)):
        return [state(one) for one in thing]
    if isinstance(thing, Mapping):
        return {name: state(one) for name, one in thing.items()}
    return thing if isinstance(thing, (int, float, str, type(None))) else id(thing)


class Smallest(Strategy[NoOptions]):
    """Proposes the smallest network: all that a strategy must have."""

    name = "smallest"

    def propose(self, history: Sequence[Trial], n: int, rng: np.random.Generator) -> list[Proposal]:
        """The smallest network, once."""
        return [] if history else [Proposal(spec=self._context.space.smallest())]


def test_a_plain_strategy_needs_only_propose(tmp_path: Path) -> None:
    ctx = context("resnet-cifar", 0.5, FakeCost(), images=3)
    with pytest.raises(InputError, match="option of strategy smallest"):
        Smallest(ctx)
    ctx = context("resnet-cifar", 0.5, FakeCost())
    result = run(tmp_path, "smallest", {}, "resnet-cifar", strategy=Smallest(ctx))
    assert [trial.role for trial in result.trials] == ["candidate", "final"]
    assert Smallest(ctx).asks_importance() is None
    with pytest.raises(TypeError, match="abstract"):
        Strategy(ctx)  # type: ignore[abstract]  # what is tried here


def test_what_is_no_strategy_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(plugins.BUILT_IN["strategies"], "wrong", "hwnas.units:format_ms")
    plugins.forget()
    try:
        with pytest.raises(InputError, match="'wrong' is not a subclass of "):
            find("wrong")
    finally:
        monkeypatch.undo()
        plugins.forget()


def test_trials_survive_json() -> None:
    cost = FakeCost()
    spec = context("resnet-cifar", 1.0, cost).space.smallest()
    trial = Trial(index=0, spec=spec, estimate=cost.estimate(spec), state="done", notes={"stage": 1})
    assert Trial.model_validate_json(trial.model_dump_json()) == trial
    assert Budget(latency_ms=1.0).fits(trial.estimate)


class Slow(FakeTrainer):
    def __call__(self, proposal: Proposal, index: int) -> Evaluation:
        time.sleep(0.05)
        return super().__call__(proposal, index)


def run_slowly(path: Path) -> None:
    trainer = Slow(path, context("resnet-cifar", 1.0, FakeCost()).space)
    run(path, "stagewise", {}, "resnet-cifar", trainer=trainer)


@needs_sigkill
def test_a_real_kill_loses_nothing(tmp_path: Path) -> None:
    """A process killed by the system in mid-search, twice, and repeated."""
    whole = run(tmp_path / "whole", "stagewise", {}, "resnet-cifar")
    path = tmp_path / "killed"
    for lines in (2, 9):
        killed(run_slowly, path, when=partial(has_event, path, "", lines))
    assert len(texts(path)) < len(texts(tmp_path / "whole"))
    again = run(path, "stagewise", {}, "resnet-cifar")
    assert summary(again) == summary(whole)
    assert texts(path) == texts(tmp_path / "whole")
