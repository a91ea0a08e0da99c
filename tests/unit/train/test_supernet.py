"""The super-network: only kept operators count, costs equal enumeration, mass is kept."""

import itertools

import pytest
import torch

from hwnas.cost.dense import Costs
from hwnas.nets.build import build
from hwnas.nets.densenas.graph import SKIP, densenas_cifar, densenas_mbv2
from hwnas.nets.densenas.layers import layer_places
from hwnas.train.densenas.supernet import Supernet

SPACE = densenas_cifar(size=8)


def net(seed: int = 0) -> Supernet:
    return Supernet(SPACE, seed=seed)


def random_costs(seed: int) -> Costs:
    g = torch.Generator().manual_seed(seed)
    rows = tuple(tuple(torch.rand(len(p.operators), generator=g).tolist()) for p in layer_places(SPACE))
    return Costs(0.7, rows, tuple(torch.rand(len(SPACE.in_edges[SPACE.sink]), generator=g).tolist()))


def randomise(model: Supernet, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.architecture_parameters():
            p.copy_(torch.randn(p.shape, generator=g))


def test_there_is_a_layer_for_every_head_and_slot() -> None:
    places = layer_places(densenas_mbv2())
    assert sum(p.edge is not None for p in places) == 54 - 3  # the sink's three heads are fixed
    assert sum(p.slot is not None for p in places) == 3 * (1 + 3 + 3 + 3 + 3)  # none in the 320-384 stage
    assert len({p.name for p in places}) == len(places)


def test_same_seed_same_network() -> None:
    one, two = net(3).state_dict(), net(3).state_dict()
    assert all(torch.equal(one[k], two[k]) for k in one)


def test_path_probabilities_sum_to_one_per_block() -> None:
    model = net()
    randomise(model, 1)
    p = model.path_probabilities()
    for i in range(SPACE.sink):
        assert sum(p[n].item() for n, (a, _) in enumerate(SPACE.edges) if a == i) == pytest.approx(1.0)


def test_expected_cost_equals_enumeration_of_all_paths() -> None:
    model, costs = net(), random_costs(0)
    randomise(model, 2)
    p = dict(zip(SPACE.edges, model.path_probabilities().tolist()))
    mean = {}
    for place, alpha, row in zip(model.places, model.alpha, costs.layers):
        mean[place.name] = sum(w * c for w, c in zip(torch.softmax(alpha, 0).tolist(), row))
    sink = dict(zip(SPACE.in_edges[SPACE.sink], costs.sink))

    def paths(i: int) -> list[tuple[int, ...]]:
        return [(i,)] if i == SPACE.sink else [(i, *rest) for j in SPACE.out_edges[i] for rest in paths(j)]

    total = 0.0
    for path in paths(0):
        probability, cost = 1.0, costs.fixed
        for i, j in itertools.pairwise(path):
            probability *= p[i, j]
            cost += sink[i] if j == SPACE.sink else mean[f"head.{i}-{j}"]
            cost += sum(mean[f"stack.{j}.{s}"] for s in range(SPACE.routing[j].stack))
        total += probability * cost
    assert model.expected_cost(costs).item() == pytest.approx(total, rel=1e-5)


def test_gradients_of_the_cost_equal_finite_differences() -> None:
    model, costs = net().double(), random_costs(1)
    randomise(model, 3)
    torch.autograd.backward(model.expected_cost(costs))
    for p in (model.alpha[0], model.alpha[7], model.beta[0], model.beta[3]):
        for k in range(len(p)):
            values = []
            for step in (1e-6, -1e-6):
                with torch.no_grad():
                    p[k] += step
                    values.append(model.expected_cost(costs).item())
                    p[k] -= step
            assert p.grad is not None
            assert p.grad[k].item() == pytest.approx((values[0] - values[1]) / 2e-6, abs=1e-7)


def test_only_kept_operators_are_computed() -> None:
    model = net()
    calls: list[str] = []
    for name, module in model.mixed.named_modules():
        if name.count(".") == 2:
            module.register_forward_hook(lambda *_, name=name: calls.append(name))
    kept = model.sample(1, torch.Generator().manual_seed(0), uniform=True)
    model(torch.randn(2, 3, 8, 8), kept)
    assert sorted(calls) == sorted(f"{k}.candidates.{rows[0]}" for k, rows in enumerate(kept))


def test_sampling_frequencies_follow_the_probabilities() -> None:
    model = net()
    with torch.no_grad():
        model.alpha[0].copy_(torch.tensor([2.0, 0.0, 0.0, 0.0, 0.0, 1.0]))
    g = torch.Generator().manual_seed(0)
    draws = [model.sample(1, g, uniform=False)[0][0] for _ in range(1000)]
    share = torch.bincount(torch.tensor(draws), minlength=6) / 1000
    # Three standard deviations of a share of one half in 1,000 draws are 0.047.
    assert torch.allclose(share, torch.softmax(model.alpha[0].detach(), 0), atol=0.05)
    uniform = [model.sample(2, g, uniform=True)[0] for _ in range(1000)]
    assert all(len(set(k)) == 2 for k in uniform)
    assert sum(0 in k for k in uniform) / 1000 == pytest.approx(2 / 6, abs=0.05)


def test_rescaling_keeps_the_mass_of_the_kept_and_the_rest_untouched() -> None:
    model = net()
    randomise(model, 4)
    before = [a.detach().clone() for a in model.alpha]
    kept = model.sample(2, torch.Generator().manual_seed(1), uniform=False)
    with torch.no_grad():
        for a, k in zip(model.alpha, kept):
            a[list(k)] += torch.randn(len(k))
    model.keep_mass(before, kept)
    for a, old, k in zip(model.alpha, before, kept):
        rows, rest = list(k), [n for n in range(len(old)) if n not in k]
        assert a[rows].exp().sum().item() == pytest.approx(old[rows].exp().sum().item(), rel=1e-6)
        assert torch.equal(a[rest], old[rest])
        new_p, old_p = torch.softmax(a, 0), torch.softmax(old, 0)
        assert torch.allclose(new_p[rest], old_p[rest], atol=1e-6)


def test_decided_supernet_computes_its_derived_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """With all probability on one path and one operator a layer, both give the same scores."""
    model = net(5)
    path, op = [0, 1, 3, 6, SPACE.sink], 1
    kept = tuple((op,) if p.edge else (op if p.slot == 0 else len(p.operators) - 1,) for p in model.places)
    # Off the path every block still goes somewhere with probability one (beta is per outgoing edge),
    # so its constant would leak in; here those edges are cut by hand.
    on_path = torch.tensor([float(edge in itertools.pairwise(path)) for edge in SPACE.edges])
    monkeypatch.setattr(model, "path_probabilities", lambda: on_path)
    g = torch.Generator().manual_seed(0)
    model.train()
    for _ in range(3):
        model(torch.randn(8, 3, 8, 8, generator=g), kept)  # gives the batch norms statistics
    model.eval()
    stacks = [(SPACE.stack_ops[op], *[SKIP] * (SPACE.routing[j].stack - 1)) for j in path[1:-1]]
    derived = build(SPACE.network(path, [SPACE.head_ops[op]] * 4, [*stacks, ()]), seed=0).eval()
    ours = model.state_dict()
    sources = {"stem": "stem.0", "head": ""}
    for s, (i, j) in enumerate(itertools.pairwise(path)):
        if j == SPACE.sink:
            sources[f"stages.{s}.0"] = f"tails.{SPACE.in_edges[j].index(i)}"
            continue
        names = [p.name for p in model.places]
        sources[f"stages.{s}.0"] = f"mixed.{names.index(f'head.{i}-{j}')}.candidates.{op}"
        sources[f"stages.{s}.1"] = f"mixed.{names.index(f'stack.{j}.0')}.candidates.{op}"
    for name, value in derived.state_dict().items():
        place, _, rest = next((s, "", name[len(s) + 1 :]) for s in sources if name.startswith(s + "."))
        source = f"{sources[place]}.{rest}" if place != "head" else name.replace("head.linear", "classifier")
        if source in ours:
            value.copy_(ours[source])
    for module in derived.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eps = 1e-3
            torch.nn.init.ones_(module.weight)
    x = torch.randn(4, 3, 8, 8, generator=g)
    with torch.no_grad():
        assert torch.allclose(model(x, kept), derived(x), atol=1e-5)
