"""The recursion equals the enumeration of all paths; gradients equal finite differences."""

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwnas.cost import chained
from hwnas.errors import InputError

SEEDS = st.integers(0, 2**32 - 1)


def random_graph(rng: np.random.Generator) -> chained.RoutingGraph:
    n = int(rng.integers(2, 7))
    edges = {(i, int(rng.integers(i + 1, n))) for i in range(n - 1)}
    edges |= {(i, j) for i in range(n) for j in range(i + 1, n) if rng.random() < 0.5}
    order = [sorted(edges)[k] for k in rng.permutation(len(edges))]
    return chained.RoutingGraph(n, tuple(order))


def random_costs(rng: np.random.Generator, graph: chained.RoutingGraph, ops: int = 2) -> tuple[Any, Any, Any]:
    def layer() -> tuple[np.ndarray, np.ndarray]:
        w = rng.random(ops)
        return w / w.sum(), rng.uniform(0.01, 5.0, ops)

    p = np.zeros(len(graph.edges))
    for edges in graph.leaving:  # probabilities over the edges out of each block
        at = [e for e, _ in edges]
        p[at] = rng.dirichlet(np.ones(len(at))) if at else 0.0
    heads = [layer() for _ in graph.edges]
    blocks = [[layer() for _ in range(int(rng.integers(0, 3)))] for _ in range(graph.blocks)]
    return p, heads, blocks


def paths(graph: chained.RoutingGraph, i: int) -> list[tuple[int, ...]]:
    """Every path from a block to the sink, as edge numbers."""
    if i == graph.blocks - 1:
        return [()]
    return [(e, *rest) for e, j in graph.leaving[i] for rest in paths(graph, j)]


def enumerate_all(
    graph: chained.RoutingGraph, p: Any, heads: Any, blocks: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Every path with every choice of operators: (values, probabilities)."""
    values, probs = [], []
    for path in paths(graph, 0):
        visited = [0, *(graph.edges[e][1] for e in path)]
        layers = [heads[e] for e in path] + [layer for b in visited for layer in blocks[b]]
        q = np.prod([p[e] for e in path])
        for pick in itertools.product(*(range(len(w)) for w, _ in layers)):
            values.append(sum(c[o] for (_, c), o in zip(layers, pick)))
            probs.append(q * np.prod([w[o] for (w, _), o in zip(layers, pick)]))
    return np.array(values), np.array(probs)


def means(heads: Any, blocks: Any) -> tuple[np.ndarray, np.ndarray]:
    """Expected cost of each edge's head and of each block's layers."""
    return np.array([w @ c for w, c in heads]), np.array([sum(w @ c for w, c in ls) for ls in blocks])


def random_case(seed: int, layers: int) -> tuple[chained.RoutingGraph, Any, Any, Any]:
    """A graph, its probabilities and costs; at most so many layers a block, so that all can be listed."""
    rng = np.random.default_rng(seed)
    graph = random_graph(rng)
    p, heads, blocks = random_costs(rng, graph)
    return graph, p, heads, [one[:layers] for one in blocks]


@settings(max_examples=60, deadline=None)
@given(SEEDS)
def test_expectation_and_probability_equal_enumeration(seed: int) -> None:
    graph, p, heads, blocks = random_case(seed, layers=2)
    if sum(map(len, blocks)) + graph.blocks > 13:  # 2^13 operator choices are enough to walk
        blocks = [layers[:1] for layers in blocks]
    values, probs = enumerate_all(graph, p, heads, blocks)
    assert probs.sum() == pytest.approx(1.0, rel=1e-12)
    assert chained.expected(graph, p, *means(heads, blocks)) == pytest.approx(probs @ values, rel=1e-9)

    # Costs in whole steps of a twentieth of a millisecond: the grid of the probability holds them all.
    def on_grid(layer: Any) -> tuple[Any, Any]:
        return layer[0], np.ceil(layer[1] / 0.05) * 0.05

    heads, blocks = [on_grid(x) for x in heads], [[on_grid(x) for x in layers] for layers in blocks]
    values, probs = enumerate_all(graph, p, heads, blocks)
    for steps in {max(1, round(v / 0.05)) for v in np.quantile(values, [0.1, 0.5, 0.9])}:
        found = chained.probability_within(graph, p, heads, blocks, steps * 0.05, points=steps)
        want = probs[values <= (steps + 0.5) * 0.05].sum()
        assert found == pytest.approx(want, rel=1e-9, abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(SEEDS)
def test_off_the_grid_only_networks_near_the_budget_are_misjudged(seed: int) -> None:
    graph, p, heads, blocks = random_case(seed, layers=1)
    values, probs = enumerate_all(graph, p, heads, blocks)
    budget = float(np.quantile(values, 0.5))
    # Each of at most 2 layers a block moves a network by less than a step of budget / 500.
    room = 2 * graph.blocks * budget / 500
    found = chained.probability_within(graph, p, heads, blocks, budget, points=500)
    assert probs[values <= budget - room].sum() - 1e-9 <= found <= probs[values <= budget + room].sum() + 1e-9


def test_probability_of_three_networks_by_hand() -> None:
    """0-2 takes 2 ms with 0.75; 0-1-2 takes 1 + 4 ms or 1 + 0.5 ms, each with half of 0.25."""
    graph = chained.RoutingGraph(3, ((0, 1), (0, 2), (1, 2)))
    one = ((1.0,), (1.0,)), ((1.0,), (2.0,)), ((0.5, 0.5), (4.0, 0.5))
    within = [
        chained.probability_within(graph, (0.25, 0.75, 1.0), one, [[], [], []], budget)
        for budget in (0.0, 1.0, 1.6, 2.1, 4.9, 5.1)
    ]
    assert within == pytest.approx([0.0, 0.0, 0.125, 0.875, 0.875, 1.0])


def test_batched_costs_go_through_the_same_recursion() -> None:
    graph = chained.RoutingGraph(3, ((0, 1), (0, 2), (1, 2)))
    p = np.array([[0.25, 1.0], [0.75, 0.0], [1.0, 1.0]])
    heads = np.array([[1.0, 1.0], [2.0, 2.0], [4.0, 4.0]])
    blocks = np.array([[0.5, 0.5], [0.1, 0.1], [0.0, 0.0]])
    # By hand: 0.5 + 0.25 (1 + 0.1 + 4) + 0.75 * 2 = 3.275; with the path 0-1-2 certain 5.6.
    assert chained.expected(graph, p, heads, blocks) == pytest.approx([3.275, 5.6])


@pytest.mark.parametrize("edges", [((1, 0),), ((0, 0),), ((0, 1), (0, 1)), ((0, 2),)])
def test_graphs_that_are_not_acyclic_and_connected_are_refused(edges: tuple[tuple[int, int], ...]) -> None:
    with pytest.raises(InputError):
        chained.RoutingGraph(3, edges)


def test_gradients_equal_finite_differences() -> None:
    torch = pytest.importorskip("torch")
    graph, p, heads, blocks = random_case(5, layers=2)
    tensors = [torch.tensor(x, requires_grad=True) for x in (p, *means(heads, blocks))]
    assert torch.autograd.gradcheck(lambda *a: chained.expected(graph, *a), tensors)
