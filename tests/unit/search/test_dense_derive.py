"""Deriving networks from scores: Viterbi and the budgeted optimum equal exhaustive search."""

import itertools
import time

import numpy as np
import pytest
from strategy_fakes import TINY

from hwnas.cost.dense import Costs, price_choices
from hwnas.errors import BudgetInfeasible
from hwnas.nets.count import count, count_block
from hwnas.nets.densenas.graph import (
    DenseSpace,
    densenas_cifar,
    densenas_mbv2,
)
from hwnas.nets.densenas.layers import layer_places
from hwnas.search.densenas.derive import Derived, Scores, drawn_within, most_probable, within


def randoms(space: DenseSpace, seed: int) -> tuple[Scores, Costs]:
    rng = np.random.default_rng(seed)
    places = layer_places(space)
    layers = tuple(tuple(rng.normal(size=len(p.operators))) for p in places)
    scores = Scores(tuple(np.log(rng.random(len(space.edges)))), layers)
    costs = tuple(tuple(rng.random(len(p.operators))) for p in places)
    return scores, Costs(0.3, costs, tuple(rng.random(len(space.in_edges[space.sink]))))


def every_choice(
    space: DenseSpace, scores: Scores, costs: Costs
) -> list[tuple[tuple[int, ...], float, float]]:
    """(path, cost, score) of every network, by listing them."""
    names = {p.name: n for n, p in enumerate(layer_places(space))}
    by_edge = dict(zip(space.edges, scores.edges))
    sink = dict(zip(space.in_edges[space.sink], costs.sink))

    def paths(i: int) -> list[tuple[int, ...]]:
        return [(i,)] if i == space.sink else [(i, *rest) for j in space.out_edges[i] for rest in paths(j)]

    found = []
    for path in paths(0):
        layers = []
        for i, j in itertools.pairwise(path):
            layers += [names[f"head.{i}-{j}"]] if j != space.sink else []
            layers += [names[f"stack.{j}.{s}"] for s in range(space.routing[j].stack)]
        base_cost = costs.fixed + sink[path[-2]]
        base_score = sum(by_edge[e] for e in itertools.pairwise(path))
        for ops in itertools.product(*(range(len(costs.layers[n])) for n in layers)):
            cost = base_cost + sum(costs.layers[n][k] for n, k in zip(layers, ops))
            score = base_score + sum(scores.layers[n][k] for n, k in zip(layers, ops))
            found.append((path, cost, score))
    return found


@pytest.mark.parametrize("seed", range(8))
def test_the_budgeted_optimum_equals_exhaustive_search(seed: int) -> None:
    scores, costs = randoms(TINY, seed)
    listed = every_choice(TINY, scores, costs)
    for share in (0.1, 0.4, 0.8):
        budget = float(np.quantile([c for _, c, _ in listed], share))
        found = within(TINY, scores, costs, budget)
        assert found.cost <= budget
        assert found.score == pytest.approx(max(s for _, c, s in listed if c <= budget - 1e-12), abs=1e-9)


def test_the_part_of_drawn_networks_within_a_budget_equals_listing_them() -> None:
    scores, costs = randoms(TINY, 3)

    def normed(row: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(np.array(row) - np.log(np.exp(row).sum()))

    by_edge = dict(zip(TINY.edges, scores.edges))
    outs = [[(i, j) for j in TINY.out_edges[i]] for i in range(TINY.sink)]
    log_p = {e: v for out in outs for e, v in zip(out, normed(tuple(by_edge[e] for e in out)))}
    learned = Scores(tuple(log_p[e] for e in TINY.edges), tuple(map(normed, scores.layers)))
    # Costs of whole hundredths lie on the grid, whose step is a 2000th of a whole number.
    rounded = Costs(
        0.3,
        tuple(tuple(round(float(c), 2) for c in row) for row in costs.layers),
        tuple(round(float(c), 2) for c in costs.sink),
    )
    listed = every_choice(TINY, learned, rounded)
    assert sum(np.exp(score) for _, _, score in listed) == pytest.approx(1.0)
    for budget in (2.3, 4.3):  # less the fixed 0.3: a step of 0.001 or 0.002
        want = sum(np.exp(score) for _, cost, score in listed if cost <= budget + 1e-9)
        assert 0 < want < 1
        assert drawn_within(TINY, learned, rounded, budget) == pytest.approx(want, rel=1e-9)
    assert drawn_within(TINY, learned, rounded, 0.3) == 0.0


def test_never_above_the_budget_on_a_thousand_random_ones() -> None:
    rng = np.random.default_rng(0)
    scores, costs = randoms(TINY, 1)
    least = min(c for _, c, _ in every_choice(TINY, scores, costs))
    for budget in rng.uniform(0.8 * least, 4 * least, size=1000):
        if budget < least:
            with pytest.raises(BudgetInfeasible):
                within(TINY, scores, costs, float(budget))
        else:
            assert within(TINY, scores, costs, float(budget)).cost <= budget


@pytest.mark.parametrize("seed", range(8))
def test_viterbi_equals_the_best_of_all_paths(seed: int) -> None:
    scores, costs = randoms(densenas_cifar(), seed)
    found = most_probable(densenas_cifar(), scores, costs)
    space, by_edge = densenas_cifar(), dict(zip(densenas_cifar().edges, scores.edges))

    def best(i: int) -> float:
        return 0.0 if i == space.sink else max(by_edge[i, j] + best(j) for j in space.out_edges[i])

    assert sum(by_edge[e] for e in itertools.pairwise(found.path)) == pytest.approx(best(0))
    names = {p.name: n for n, p in enumerate(layer_places(space))}
    first = names[f"head.0-{found.path[1]}"]
    assert found.heads[0] == space.head_ops[int(np.argmax(scores.layers[first]))]


def macs_of(space: DenseSpace) -> Costs:
    return price_choices(space, lambda b: float(count_block(b).macs))


def check_cost_is_the_networks(space: DenseSpace, costs: Costs, found: Derived) -> None:
    assert found.cost == pytest.approx(count(found.network(space)).macs, rel=1e-12)


def test_the_cost_is_the_derived_networks_own() -> None:
    space, costs = densenas_cifar(), macs_of(densenas_cifar())
    for seed in range(5):
        scores, _ = randoms(space, seed)
        check_cost_is_the_networks(space, costs, most_probable(space, scores, costs))
        check_cost_is_the_networks(space, costs, within(space, scores, costs, 30e6))


def test_the_published_space_is_solved_in_seconds() -> None:
    space, costs = densenas_mbv2(), macs_of(densenas_mbv2())
    scores, _ = randoms(space, 0)
    start = time.process_time()
    found = within(space, scores, costs, 360e6)
    assert time.process_time() - start < 20
    assert found.cost <= 360e6
    check_cost_is_the_networks(space, costs, found)
