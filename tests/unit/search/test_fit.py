"""The strategy `fit`: its exact choice, and what it proposes in turn."""

from __future__ import annotations

from functools import cache
from itertools import product

import numpy as np
import pytest

from hwnas.errors import BudgetInfeasible, InputError
from hwnas.estimates import Budget, Estimate
from hwnas.nets.build import build
from hwnas.nets.model.bases import OwnModel
from hwnas.nets.model.space import ModelSpace
from hwnas.nets.spaces import make
from hwnas.protocols import SearchContext
from hwnas.records import Evaluation, StageImportance, Trial
from hwnas.search.fit.choice import choose, told
from hwnas.search.fit.strategy import Fit
from hwnas.search.winner import refuse_infeasible
from hwnas.spec import NetworkSpec


@cache
def space() -> ModelSpace:
    """Two blocks a stage; 3 x 2 x 2 forms of three pieces vary below, the others are as they are."""
    module = build(make("resnet-cifar", input_shape=(1, 8, 8)).uniform()[1], seed=0)
    return ModelSpace(OwnModel(module.eval(), "own", "module", (1, 8, 8), classes=10), repeats=2)


def estimate(spec: NetworkSpec) -> Estimate:
    """A millisecond for a million multiply-accumulates and 0.01 a piece, 5 % of interval."""
    ms = sum(block.macs for block in spec.blocks) / 1e6 + 0.01 * len(spec.blocks)  # type: ignore[attr-defined]
    return Estimate(
        latency_ms=ms,
        low_ms=ms / 1.05,
        high_ms=ms * 1.05,
        coverage=0.95,
        macs=1,
        params=1,
        activation_bytes=1,
        weight_bytes=1,
    )


def scores(seed: int) -> dict[tuple[str, str], float]:
    rng = np.random.default_rng(seed)
    some = list(space().places)[1:4]
    return {
        (name, form.edit): float(-rng.random() if form.edit != "repeat:2" else 0.1 * rng.random())
        for name in some
        for form in space().places[name]
        if form.edit != "keep"
    }


@pytest.mark.parametrize("seed", range(4))
def test_the_choice_is_the_best_of_all(seed: int) -> None:
    """Every combination of the forms of three pieces is tried."""
    found = scores(seed)
    names = list(space().places)[1:4]
    others = {name: edit for name, edit in space().smallest().edits if name not in names}
    whole_ms = estimate(space().variant()).high_ms
    for share in (0.55, 0.7, 0.85, 1.0, 1.1):
        budget = Budget(latency_ms=share * whole_ms)
        best = -np.inf
        for edits in product(*([form.edit for form in space().places[name]] for name in names)):
            chosen = dict(zip(names, edits))
            spec = space().variant({n: e for n, e in chosen.items() if e != "keep"})
            if budget.fits(estimate(spec)):
                best = max(best, sum(found.get(item, 0.0) for item in chosen.items()))
        made = choose(space(), found, estimate, budget)
        assert made is not None
        assert others  # of which the choice, without a score, leaves every one as it is
        if np.isfinite(best):
            assert budget.fits(made.estimate)
            assert made.score == pytest.approx(best)


def test_no_choice_below_the_smallest_and_the_message_names_its_latency() -> None:
    least = estimate(space().smallest())
    budget = Budget(latency_ms=0.99 * least.bound_ms)
    assert choose(space(), {}, estimate, budget) is None
    context = SearchContext(space(), estimate, budget)
    with pytest.raises(BudgetInfeasible) as refused:
        refuse_infeasible(context, [budget])
    assert refused.value.smallest_ms == least.bound_ms
    assert refused.value.exit_status == 3


def trial(index: int, spec: NetworkSpec, missed: tuple[StageImportance, ...] = ()) -> Trial:
    done = Evaluation(accuracy=0.9, loss=0.3, importance=missed)
    return Trial(index=index, spec=spec, estimate=estimate(spec), state="done", evaluation=done)


def test_the_model_first_then_a_variant_that_it_teaches() -> None:
    budget = Budget(latency_ms=0.7 * estimate(space().variant()).latency_ms)
    strategy = Fit(SearchContext(space(), estimate, budget, {"images": 1000}))
    rng = np.random.default_rng(0)
    (first,) = strategy.propose([], 1, rng)
    assert (first.spec, first.images, first.role) == (space().variant(), 0, "probe")
    moves = strategy.growths(first)
    assert all(len(move.spec.edits) == 1 for move in moves)  # type: ignore[attr-defined]
    # The first piece that can be dropped is worth nothing, any other one a lot.
    worth = tuple(StageImportance(stage=m.stage, kind=m.kind, value=float(m.stage > 1)) for m in moves)
    (second,) = strategy.propose([trial(0, first.spec, worth)], 1, rng)
    assert (second.parent, second.teacher, second.images) == (0, 0, 0)
    name = list(space().places)[1]
    assert dict(second.spec.edits)[name] != "keep"  # type: ignore[attr-defined]
    assert budget.fits(estimate(second.spec))
    history = [trial(0, first.spec, worth), trial(1, second.spec).model_copy(update={"notes": second.notes})]
    once = Fit(SearchContext(space(), estimate, budget, {"images": 1000, "looks": 1}))
    assert once.propose(history, 1, rng) == []


def test_several_variants_are_looked_at_whole() -> None:
    """After the best by scores the evenly thinned model, then others within the budget, none twice."""
    budget = Budget(latency_ms=0.8 * estimate(space().variant()).latency_ms)
    strategy = Fit(SearchContext(space(), estimate, budget, {"images": 1000, "looks": 5}))
    first = strategy.propose([], 1, np.random.default_rng(0))[0]
    worth = tuple(StageImportance(stage=m.stage, kind=m.kind, value=0.1) for m in strategy.growths(first))
    history, reasons = [trial(0, first.spec, worth)], []
    while proposals := strategy.propose(history, 1, np.random.default_rng([0, len(history)])):
        reasons.append(proposals[0].reason)
        found = trial(len(history), proposals[0].spec)
        history.append(found.model_copy(update={"notes": proposals[0].notes}))
    assert len({one.spec.key for one in history}) == len(history) == 6
    assert all(budget.fits(estimate(one.spec)) for one in history[1:])
    even = [spec for spec in space().uniform() if budget.fits(estimate(spec))][-1]
    assert history[2].spec == even
    assert reasons[1].startswith("evenly thinned")


def test_the_best_variant_is_chosen_again_where_it_was_measured_over_the_budget() -> None:
    """At most three times, each for 2 % less; then the others have their turn."""
    budget = Budget(latency_ms=0.8 * estimate(space().variant()).latency_ms)
    strategy = Fit(SearchContext(space(), estimate, budget, {"images": 1000}))
    first = strategy.propose([], 1, np.random.default_rng(0))[0]
    worth = tuple(StageImportance(stage=m.stage, kind=m.kind, value=0.1) for m in strategy.growths(first))

    def reasons(*over: bool) -> list[str]:
        history, said = [trial(0, first.spec, worth)], []
        for is_over in (*over, False):
            (proposal,) = strategy.propose(history, 1, np.random.default_rng([0, len(history)]))
            said.append(proposal.reason.partition(" for ")[0])
            spent = 0.98 ** sum(over[: len(said) - 1])
            assert estimate(proposal.spec).bound_ms <= spent * 0.8 * estimate(space().variant()).latency_ms
            state = {"state": "over_budget", "evaluation": None} if is_over else {}
            made = trial(len(history), proposal.spec).model_copy(update={"notes": proposal.notes, **state})
            history.append(made)
        return said

    assert reasons(False, False) == ["best variant", "evenly thinned", "best by shaken scores"]
    assert reasons(True, False, False)[:3] == ["best variant", "best variant", "evenly thinned"]
    assert reasons(True, True, True) == ["best variant"] * 3 + ["evenly thinned"]


@pytest.mark.parametrize("share", [0.8, 1.5])
def test_a_best_variant_that_failed_is_followed_by_others(share: float) -> None:
    budget = Budget(latency_ms=share * estimate(space().variant()).latency_ms)
    strategy = Fit(SearchContext(space(), estimate, budget, {"images": 1000}))
    first = strategy.propose([], 1, np.random.default_rng(0))[0]
    worth = tuple(StageImportance(stage=m.stage, kind=m.kind, value=0.1) for m in strategy.growths(first))
    history = [trial(0, first.spec, worth)]
    (best,) = strategy.propose(history, 1, np.random.default_rng(1))
    failed = {"state": "failed", "evaluation": None, "notes": best.notes}
    history.append(trial(1, best.spec).model_copy(update=failed))
    (other,) = strategy.propose(history, 1, np.random.default_rng(2))
    assert other.spec.key != best.spec.key


def test_each_of_two_budgets_looks_at_its_evenly_thinned_variant() -> None:
    """Also where both have the same best variant."""
    whole_ms = estimate(space().variant()).latency_ms
    targets = {"targets_ms": (0.7999 * whole_ms, 0.8 * whole_ms)}
    budget = Budget(latency_ms=targets["targets_ms"][1])
    strategy = Fit(SearchContext(space(), estimate, budget, {"images": 1000, "looks": 3, **targets}))
    first = strategy.propose([], 1, np.random.default_rng(0))[0]
    worth = tuple(StageImportance(stage=m.stage, kind=m.kind, value=0.1) for m in strategy.growths(first))
    history, looks = [trial(0, first.spec, worth)], []
    while proposals := strategy.propose(history, 1, np.random.default_rng([0, len(history)])):
        looks.append((proposals[0].notes["budget_ms"], proposals[0].notes["look"]))
        found = trial(len(history), proposals[0].spec)
        history.append(found.model_copy(update={"notes": proposals[0].notes}))
    for ms in targets["targets_ms"]:
        assert [look for at, look in looks if at == ms][:2] == ["best variant", "evenly thinned"]


def test_the_smallest_loss_before_fine_tuning_wins() -> None:
    strategy = Fit(SearchContext(space(), estimate, Budget(latency_ms=1e3)))
    worse, better = (
        trial(index, spec).model_copy(update={"evaluation": Evaluation(accuracy=0.5, loss=loss)})
        for index, spec, loss in ((1, space().smallest(), 3.0), (2, space().variant(), 2.0))
    )
    assert strategy.rank([worse, better]) == [better, worse]


def test_a_model_that_guesses_is_refused() -> None:
    budget = Budget(latency_ms=1e3)
    strategy = Fit(SearchContext(space(), estimate, budget))
    with pytest.raises(InputError, match="no better than guessing"):
        strategy.propose([trial(0, space().variant())], 1, np.random.default_rng(0))


def test_only_models_of_ones_own_are_fitted() -> None:
    with pytest.raises(InputError, match="--model"):
        Fit(SearchContext(make("resnet-cifar"), estimate, Budget(latency_ms=1.0)))


def test_what_was_done_in_words() -> None:
    name = list(space().places)[1]
    assert told(space().variant()) == "nothing changed"
    assert told(space().variant({name: "drop"})) == "1 dropped"
