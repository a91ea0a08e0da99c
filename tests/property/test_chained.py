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

    p = chained.softmax_over_edges(graph, rng.normal(size=len(graph.edges)))
    heads = [layer() for _ in graph.edges]
    blocks = [[layer() for _ in range(int(rng.integers(0, 3)))] for _ in range(graph.blocks)]
    return p, heads, blocks


def enumerate_all(
    graph: chained.RoutingGraph, p: Any, heads: Any, blocks: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Every path with every choice of operators: (values, probabilities)."""
    values, probs = [], []
    for path in graph.paths():
        visited = [0, *(graph.edges[e][1] for e in path)]
        layers = [heads[e] for e in path] + [layer for b in visited for layer in blocks[b]]
        q = np.prod([p[e] for e in path])
        for pick in itertools.product(*(range(len(w)) for w, _ in layers)):
            values.append(sum(c[o] for (_, c), o in zip(layers, pick)))
            probs.append(q * np.prod([w[o] for (w, _), o in zip(layers, pick)]))
    return np.array(values), np.array(probs)


def local_moments(
    graph: chained.RoutingGraph, heads: Any, blocks: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    h = np.array([chained.mixture(*map(np.asarray, layer)) for layer in heads])
    b = np.array([np.sum([chained.mixture(*x) for x in layers] or [(0.0, 0.0)], axis=0) for layers in blocks])
    return h[:, 0], b[:, 0], h[:, 1], b[:, 1]


@settings(max_examples=60, deadline=None)
@given(SEEDS)
def test_moments_and_law_equal_enumeration(seed: int) -> None:
    rng = np.random.default_rng(seed)
    graph = random_graph(rng)
    p, heads, blocks = random_costs(rng, graph)
    if sum(map(len, blocks)) + graph.blocks > 13:  # 2^13 operator choices are enough to walk
        blocks = [layers[:1] for layers in blocks]
    values, probs = enumerate_all(graph, p, heads, blocks)
    h, b, hv, bv = local_moments(graph, heads, blocks)
    mean = probs @ values
    var = probs @ (values - mean) ** 2

    assert probs.sum() == pytest.approx(1.0, rel=1e-12)
    assert chained.expected(graph, p, h, b) == pytest.approx(mean, rel=1e-9)
    got_mean, got_var = chained.moments(graph, p, h, b, hv, bv)
    assert got_mean == pytest.approx(mean, rel=1e-9)
    assert got_var == pytest.approx(var, rel=1e-9, abs=1e-12)
    law = chained.law(graph, p, heads, blocks)
    assert law.exact
    # Between two neighbouring atoms, so that rounding in the sums cannot move one across.
    ordered = np.unique(values.round(9))
    for budget in (
        rng.choice((ordered[1:] + ordered[:-1]) / 2, size=5) if ordered.size > 1 else [values[0] + 1]
    ):
        assert law.within(budget) == pytest.approx(probs[values <= budget].sum(), rel=1e-9, abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(SEEDS)
def test_rounded_law_never_promises_too_much(seed: int) -> None:
    rng = np.random.default_rng(seed)
    graph = random_graph(rng)
    p, heads, blocks = random_costs(rng, graph)
    exact = chained.law(graph, p, heads, blocks)
    rough = chained.law(graph, p, heads, blocks, limit=20)
    for budget in np.quantile(exact.values_ms, [0.1, 0.5, 0.9]):
        assert rough.within(budget) <= exact.within(budget) + 1e-12


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
    rng = np.random.default_rng(5)
    graph = random_graph(rng)
    p, heads, blocks = random_costs(rng, graph)
    inputs = [p, *local_moments(graph, heads, blocks)]
    tensors = [torch.tensor(np.asarray(x), requires_grad=True) for x in inputs]
    assert torch.autograd.gradcheck(lambda *a: chained.moments(graph, *a), tensors)
    assert torch.autograd.gradcheck(lambda *a: chained.expected(graph, *a), tensors[:3])


def test_smooth_probability_equals_the_law_on_the_grid_and_has_gradients() -> None:
    torch = pytest.importorskip("torch")
    from hwnas.cost.chained_torch import probability_within

    rng = np.random.default_rng(11)
    graph = chained.RoutingGraph(4, ((0, 1), (0, 2), (1, 2), (1, 3), (2, 3)))
    p, heads, blocks = random_costs(rng, graph)

    def on_grid(layer: Any) -> tuple[np.ndarray, np.ndarray]:
        return layer[0], np.ceil(layer[1]) * 0.05

    heads = [on_grid(x) for x in heads]
    blocks = [[on_grid(x) for x in layers] for layers in blocks]
    budget = float(np.median(enumerate_all(graph, p, heads, blocks)[0]).round(2))
    budget = max(round(budget / 0.05), 1) * 0.05

    def as_torch(layer: Any) -> tuple[Any, ...]:
        return tuple(torch.tensor(x, requires_grad=True) for x in layer)

    t_heads, t_blocks = [as_torch(x) for x in heads], [[as_torch(x) for x in ls] for ls in blocks]
    t_p = torch.tensor(p, requires_grad=True)
    got = probability_within(graph, t_p, t_heads, t_blocks, budget, points=round(budget / 0.05))
    want = chained.law(graph, p, heads, blocks).within(budget + 1e-9)
    assert float(got.detach()) == pytest.approx(want, rel=1e-9)

    # Off the grid: costs moved by a third of a step, where the spread is differentiable.
    moved = [(w.detach(), (c.detach() + 0.0171).requires_grad_()) for w, c in t_heads]
    assert torch.autograd.gradcheck(
        lambda p, *costs: probability_within(
            graph, p, [(w, c) for (w, _), c in zip(moved, costs)], t_blocks, 1.0, points=20
        ),
        [t_p, *(c for _, c in moved)],
    )


def test_fixed_networks_are_the_special_case() -> None:
    rng = np.random.default_rng(0)
    costs = np.append(rng.uniform(0.1, 1.0, 30), 0.0)
    index = rng.integers(0, 31, (20_000, 12))
    want = [sum(costs[k] for k in row) for row in index[:50]]
    assert chained.price(index, costs)[:50] == pytest.approx(want, rel=1e-12)
    # The same network as a chain whose every edge is certain.
    graph = chained.RoutingGraph(13, tuple((i, i + 1) for i in range(12)))
    chain = chained.expected(graph, np.ones(12), costs[index[0]], np.zeros(13))
    assert chain == pytest.approx(want[0], rel=1e-12)
