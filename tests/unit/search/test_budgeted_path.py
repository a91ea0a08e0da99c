"""The budgeted best path equals exhaustive search, and never exceeds the budget."""

import time

import numpy as np
import pytest

from hwnas.errors import BudgetInfeasible, InputError
from hwnas.search.solve.path import Edge, best_path


def random_edges(rng: np.random.Generator, nodes: int, *, integers: bool) -> list[Edge]:
    edges = []
    for i in range(nodes):
        for j in range(i + 1, nodes):
            for _ in range(int(rng.integers(0, 3))):
                cost, score = rng.random(2) * 10
                edges.append(Edge(i, j, *(np.round([cost, score]) if integers else (cost, score - 3))))
    return edges


def all_paths(edges: list[Edge], node: int, sink: int) -> list[tuple[int, ...]]:
    if node == sink:
        return [()]
    return [
        (k, *rest) for k, e in enumerate(edges) if e.tail == node for rest in all_paths(edges, e.head, sink)
    ]


@pytest.mark.parametrize("integers", [False, True])  # integers make ties of cost and score
def test_equals_exhaustive_search_on_random_graphs(integers: bool) -> None:
    rng = np.random.default_rng(int(integers))
    compared = 0
    while compared < 500:
        nodes = int(rng.integers(2, 7))
        edges = random_edges(rng, nodes, integers=integers)
        listed = all_paths(edges, 0, nodes - 1)
        if not listed:
            continue
        costs = [sum(edges[k].cost for k in p) for p in listed]
        scores = [sum(edges[k].score for k in p) for p in listed]
        budget = float(rng.uniform(0.5 * min(costs), 1.1 * max(costs)))
        feasible = [s for c, s in zip(costs, scores) if c <= budget]
        compared += 1
        if not feasible:
            with pytest.raises(BudgetInfeasible) as caught:
                best_path(edges, 0, nodes - 1, budget)
            assert caught.value.smallest_ms == pytest.approx(min(costs))
            continue
        found = best_path(edges, 0, nodes - 1, budget)
        assert found.score == pytest.approx(max(feasible), abs=1e-9)
        assert found.cost <= budget
        assert found.edges in listed
        assert found.cost == pytest.approx(sum(edges[k].cost for k in found.edges))


def test_a_long_chain_of_choices_is_solved_in_seconds() -> None:
    # 60 layers of 7 choices: 10^50 networks; scores grow with cost, as capacity does
    rng = np.random.default_rng(0)
    edges = []
    for layer in range(60):
        for cost in rng.random(7):
            edges.append(Edge(layer, layer + 1, float(cost), float(np.sqrt(cost) + 0.1 * rng.random())))
    start = time.process_time()
    found = best_path(edges, 0, 60, 15.0)
    assert time.process_time() - start < 20
    assert 14.5 < found.cost <= 15.0
    assert len(found.edges) == 60


@pytest.mark.parametrize(
    ("edges", "says"),
    [
        ([Edge(1, 0, 1, 1)], "higher number"),
        ([Edge(0, 1, -1, 1)], "at least zero"),
        ([Edge(0, 1, float("nan"), 1)], "at least zero"),
        ([Edge(0, 2, 1, 1)], "no path"),
    ],
)
def test_impossible_graphs_are_refused(edges: list[Edge], says: str) -> None:
    with pytest.raises(InputError, match=says):
        best_path(edges, 0, 1, 5.0)
