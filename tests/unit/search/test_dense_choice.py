"""Choices of a dense space: prices of choices add up to networks', budgets are used and never exceeded."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from strategy_fakes import TINY

from hwnas.errors import BudgetInfeasible, InputError
from hwnas.estimates import Budget, Estimate
from hwnas.nets import spaces
from hwnas.nets.count import count_block
from hwnas.nets.densenas.chains import DenseChain
from hwnas.nets.densenas.graph import DenseSpace
from hwnas.nets.densenas.layers import layer_places
from hwnas.protocols import SearchContext
from hwnas.records import Evaluation, Trial
from hwnas.search.densenas import costs as dense_costs
from hwnas.search.densenas.choice import Chooser
from hwnas.search.densenas.derive import Scores, Trust, within
from hwnas.search.densenas.options import DenseNasOptions
from hwnas.search.densenas.strategy import DenseNas
from hwnas.search.options import LEARNABLE
from hwnas.search.solve.entropy import entropy
from hwnas.spec import BlockSpec, NetworkSpec

KNOWN: dict[BlockSpec, tuple[float, int]] = {}


def of(block: BlockSpec) -> tuple[float, int]:
    """Time of a block, irregular but fixed, and its MACs."""
    if block not in KNOWN:
        macs = count_block(block).macs
        KNOWN[block] = (macs / 1e8 * (1 + 0.3 * np.sin(macs)) + 0.004, macs)
    return KNOWN[block]


def price(spec: NetworkSpec) -> float:
    """A time of a network that is a sum over layers, with a price on every layer left out."""
    return sum(of(b)[0] for b in spec.blocks) + 0.05 - 1e-4 * sum(len(stage) for stage in spec.stages)


def estimator(spread: float = 0.0) -> Callable[[NetworkSpec], Estimate]:
    def estimate(spec: NetworkSpec) -> Estimate:
        ms = price(spec)
        return Estimate(
            latency_ms=ms,
            low_ms=ms * (1 - spread),
            high_ms=ms * (1 + spread),
            coverage=0.95,
            macs=sum(of(b)[1] for b in spec.blocks),
            params=1000,
            activation_bytes=0,
            weight_bytes=0,
        )

    return estimate


def dense(name: str) -> DenseChain:
    space = spaces.make(name)
    assert isinstance(space, DenseChain)
    return space


def learned(space: DenseSpace, seed: int, sharp: float = 1.0) -> Scores:
    """Random log-probabilities."""
    rng = np.random.default_rng(seed)
    rows = [np.log(rng.dirichlet(np.full(len(out), sharp))) for out in space.out_edges[:-1]]
    edges = [float(v) for row in rows for v in row]
    layers = [np.log(rng.dirichlet(np.full(len(p.operators), sharp))) for p in layer_places(space)]
    return Scores(tuple(edges), tuple(tuple(map(float, row)) for row in layers))


@pytest.mark.parametrize("name", ["densenas-cifar", "densenas-mbv2", "densenas-resnet"])
def test_prices_of_choices_add_up_to_the_price_of_the_network(name: str) -> None:
    space = dense(name)
    found = dense_costs.costs(space.dense, price)
    assert min(min(row) for row in found.layers) >= 0
    assert min(found.sink) >= 0
    for seed in range(4):
        for budget in np.quantile(
            [price(space.sample(np.random.default_rng(s))) for s in range(9)], [0.3, 0.9]
        ):
            choice = within(space.dense, learned(space.dense, seed), found, float(budget))
            spec = choice.network(space.dense)
            assert spec in space
            assert choice.cost == pytest.approx(price(spec), rel=1e-9)


def test_the_prior_is_the_networks_own_score() -> None:
    space = dense("densenas-mbv2")
    chooser = Chooser(space.dense, None, estimator())
    small, large = (chooser.optimum(Budget(latency_ms=ms)) for ms in (3.0, 6.0))
    constant = [entropy(c.spec) - c.derived.score for c in (small, large)]
    assert constant[0] == pytest.approx(constant[1])
    assert large.derived.score > small.derived.score


def flat(space: DenseSpace) -> Scores:
    """Log-probabilities of choices that are all as probable as by chance."""
    return Scores(
        edges=tuple(-math.log(len(space.out_edges[i])) for i, _ in space.edges),
        layers=tuple((-math.log(len(p.operators)),) * len(p.operators) for p in layer_places(space)),
    )


@pytest.mark.parametrize("name", ["densenas-cifar", "densenas-mbv2"])
def test_an_uninformed_super_network_derives_what_the_prior_derives(name: str) -> None:
    """All probabilities uniform, or none of what was learned believed."""
    space = dense(name).dense
    cases = [Chooser(space, flat(space), estimator(0.03))]
    cases.append(Chooser(space, learned(space, 1), estimator(0.03), trust=Trust(0.0, 0.0)))
    alone = Chooser(space, None, estimator(0.03))
    for budget_ms in (1.5 * alone.cheapest.estimate.high_ms, 3 * alone.cheapest.estimate.high_ms):
        budget = Budget(latency_ms=budget_ms)
        wanted = alone.optimum(budget)
        for chooser in cases:
            assert chooser.optimum(budget).spec.key == wanted.spec.key
    published = Chooser(space, flat(space), estimator(0.03), prior=0.0, trust=None)
    assert published.optimum(budget).spec.key != wanted.spec.key


def test_gains_are_over_chance_and_as_far_as_they_are_believed() -> None:
    given = learned(TINY, 4)
    found = dense_costs.gains(TINY, given, Trust(edges=0.5, operators=0.25))
    assert found.edges[0] == pytest.approx(0.5 * (given.edges[0] + math.log(len(TINY.out_edges[0]))))
    assert found.layers[0][1] == pytest.approx(0.25 * (given.layers[0][1] + math.log(2)))
    assert len(found.edges) == len(given.edges)
    assert [len(row) for row in found.layers] == [len(row) for row in given.layers]


def test_the_published_derivation_takes_log_probabilities_as_they_are() -> None:
    given = learned(TINY, 4)
    assert Chooser(TINY, given, estimator(), trust=None).believed is given


def check_never_exceeded(space: DenseSpace, scores: Scores, spread: float, budgets: int) -> None:
    estimate = estimator(spread)
    rng = np.random.default_rng(0)
    choosers = [Chooser(space, None, estimate), Chooser(space, scores, estimate)]
    least_ms = choosers[0].cheapest.estimate.bound_ms
    fitted = 0
    for n, budget_ms in enumerate(rng.uniform(0.9 * least_ms, 3 * least_ms, size=budgets)):
        budget = Budget(latency_ms=float(budget_ms))
        if budget_ms < least_ms:
            with pytest.raises(BudgetInfeasible) as failure:
                choosers[n % 2].optimum(budget)
            assert failure.value.smallest_ms == pytest.approx(least_ms)
            continue
        found = choosers[n % 2].optimum(budget)
        assert estimate(found.spec).bound_ms <= budget_ms
        fitted += 1
    assert fitted > 0.8 * budgets


def test_a_thousand_random_budgets_are_never_exceeded() -> None:
    check_never_exceeded(TINY, learned(TINY, 1), 0.0, 1000)


def test_bounds_are_never_exceeded() -> None:
    space = dense("densenas-cifar").dense
    check_never_exceeded(space, learned(space, 1), 0.05, 40)


def test_random_budgets_are_used_to_nine_tenths() -> None:
    """Scores as flat as those of a short training: their own optimum would leave much unused."""
    space = dense("densenas-cifar")
    nearly = learned(space.dense, 2, sharp=200.0)
    rng = np.random.default_rng(1)
    drawn = [price(space.sample(rng)) for _ in range(200)]
    for scores in (None, nearly):
        chooser = Chooser(space.dense, scores, estimator(0.03))
        used = []
        for ms in rng.uniform(min(drawn), max(drawn), size=20):
            used.append(chooser.optimum(Budget(latency_ms=float(ms))).estimate.bound_ms / ms)
        assert sum(0.9 <= share <= 1.0 for share in used) >= 18
    own = within(space.dense, nearly, chooser.costs, float(np.quantile(drawn, 0.9)))
    assert own.cost < 0.9 * np.quantile(drawn, 0.9)  # what the prior is for


def test_further_limits_hold_too() -> None:
    space = dense("densenas-cifar")
    chooser = Chooser(space.dense, None, estimator())
    found = chooser.optimum(Budget(latency_ms=1.0, macs=20e6))
    assert 15e6 < found.estimate.macs <= 20e6


def strategy(space: DenseChain, budget_ms: float, **options: object) -> DenseNas:
    scores = learned(space.dense, 3)
    given = {"edges": list(scores.edges), "layers": [list(row) for row in scores.layers]}
    budget = Budget(latency_ms=budget_ms)
    return DenseNas(
        SearchContext(space, estimator(0.03), budget, {"scores": given, "images": 1000, **options})
    )


def done(strategy: DenseNas, history: list[Trial], accuracy: float) -> Trial:
    """The next proposal, trained."""
    (proposal,) = strategy.propose(history, 1, np.random.default_rng(0))
    return Trial(
        index=len(history),
        spec=proposal.spec,
        estimate=estimator(0.03)(proposal.spec),
        state="done",
        evaluation=Evaluation(accuracy=accuracy, accuracy_se=0.01, loss=1.0),
        notes=proposal.notes,
        reason=proposal.reason,
    )


def test_both_derivations_are_told_and_each_budget_gets_its_network() -> None:
    space = dense("densenas-cifar")
    one = strategy(space, 0.4, targets_ms=(0.2,))
    texts = [decision.text for decision in one.explain([])]
    assert len(texts) == 5
    assert "most probable network" in texts[0]
    assert "0.4ms@p50" in texts[1]
    assert "0.2ms@p50" in texts[2]
    chances = [decision.fields["probability_within"] for decision in one.explain([])[3:]]
    assert 0 <= chances[1] < chances[0] <= 1  # fewer networks keep 0.2 ms than 0.4 ms
    assert texts[3].endswith(f"{chances[0]:.1%} are predicted within 0.4 ms")
    history: list[Trial] = []
    while one.propose(history, 1, np.random.default_rng(0)):
        history.append(done(one, history, 0.5))
    assert {(t.notes["for_ms"], t.notes["kind"]) for t in history} >= {
        (0.4, "optimum"),
        (0.4, "spare"),
        (0.2, "optimum"),
        (0.2, "spare"),
    }
    for trial in history:
        assert trial.estimate.bound_ms <= trial.notes["for_ms"]  # type: ignore[operator]  # this note is a number
    assert [t.notes["for_ms"] for t in one.rank(history)] == sorted(
        (t.notes["for_ms"] for t in history), key=float, reverse=True
    )


def test_the_most_probable_network_wins_only_when_it_is_clearly_better() -> None:
    space = dense("densenas-cifar")
    alone = strategy(space, 100.0)
    likely_ms = alone._chooser().most_probable().estimate.high_ms  # type: ignore[union-attr]  # there are scores
    one = strategy(space, likely_ms * 1.02)
    first = done(one, [], 0.50)
    second = done(one, [first], 0.51)
    assert second.notes["kind"] == "most probable"
    assert one.rank([first, second])[0] is first
    clearly = second.model_copy(update={"evaluation": Evaluation(accuracy=0.6, accuracy_se=0.01, loss=1.0)})
    assert one.rank([first, clearly])[0] is clearly


def test_what_is_not_believed_is_said_and_its_network_not_trained() -> None:
    space = dense("densenas-cifar")
    one = strategy(space, 100.0)
    likely_ms = one._chooser().most_probable().estimate.high_ms  # type: ignore[union-attr]  # there are scores
    scores = learned(space.dense, 3)
    given = {"edges": list(scores.edges), "layers": [list(row) for row in scores.layers], "trust": [0.0, 0.0]}
    two = strategy(space, likely_ms * 1.02, scores=given)
    texts = [decision.text for decision in two.explain([])]
    assert "its scores are not reliable" in texts[0]
    assert "proxy score alone decides" in texts[1]
    history: list[Trial] = []
    while two.propose(history, 1, np.random.default_rng(0)):
        history.append(done(two, history, 0.5))
    assert {t.notes["kind"] for t in history} == {"optimum", "spare"}
    assert "under the proxy score" in history[0].reason


def test_auto_learns_where_its_share_of_the_images_is_large_enough() -> None:
    enough = math.ceil(LEARNABLE / 0.25)
    auto = DenseNasOptions()
    assert auto.learns(enough)
    assert not auto.learns(enough - 4)
    assert not DenseNasOptions(share=0.1).learns(enough)
    assert DenseNasOptions(score="learned").learns(100)
    assert not DenseNasOptions(score="proxy").learns(10**9)
    assert DenseNasOptions(fidelity="paper").learns(100)
    assert not DenseNasOptions(fidelity="paper", score="proxy").learns(100)


def test_other_spaces_and_other_scores_are_refused() -> None:
    with pytest.raises(InputError, match="densely connected"):
        DenseNas(SearchContext(spaces.make("resnet-cifar"), estimator(), Budget(latency_ms=1.0)))
    given = {"edges": [0.0], "layers": [[0.0]]}
    with pytest.raises(InputError, match="do not match densenas-cifar"):
        DenseNas(
            SearchContext(dense("densenas-cifar"), estimator(), Budget(latency_ms=1.0), {"scores": given})
        )
    whole = learned(dense("densenas-cifar").dense, 3)
    given = {"edges": list(whole.edges), "layers": [list(row) for row in whole.layers], "trust": [2.0, 0.0]}
    with pytest.raises(InputError, match="between 0 and 1"):
        DenseNas(
            SearchContext(dense("densenas-cifar"), estimator(), Budget(latency_ms=1.0), {"scores": given})
        )
    with pytest.raises(InputError, match="halves"):
        _ = spaces.make("densenas-mbv2", input_shape=(3, 8, 8)).dense  # type: ignore[attr-defined]  # the class of this name has it
