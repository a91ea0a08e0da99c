"""Places, scores and derivation: exact where that can be listed, never over the budget."""

from __future__ import annotations

import itertools
import math
import os

import numpy as np
import pytest
from strategy_fakes import FakeCost, context

from hwnas.errors import InputError
from hwnas.estimates import Budget, Estimate
from hwnas.nets.hournas.slots import Fill, chain_of, network, paths, slots
from hwnas.nets.spaces import make
from hwnas.search.hournas.choice import SlotChooser, SlotScores, choose_vital, proxy_scores, proxy_vital
from hwnas.search.hournas.fit import fit
from hwnas.search.hournas.strategy import HourNas
from hwnas.spec import NetworkSpec


def budget(ms: float) -> Budget:
    return Budget(latency_ms=ms)


def test_vital_places_are_those_that_every_member_has() -> None:
    for name in ("mbv2-cifar", "resnet-cifar-wide", "resnet-imagenet"):
        space = chain_of(make(name))
        rng = np.random.default_rng(0)
        least = [10**9] * 8
        for _ in range(300):
            for stage, depth in enumerate(space.sample(rng).depths):
                least[stage] = min(least[stage], depth)
        for path in paths(space)[:20]:
            vital = [(slot.stage, slot.index) for slot in slots(space, path) if slot.vital]
            assert vital == [(s, i) for s in range(len(path)) for i in range(space.levels[path[s]].depth[0])]
            assert all(least[s] == space.levels[path[s]].depth[0] for s in range(len(path)))


def test_paths_are_all_paths() -> None:
    space = chain_of(make("resnet-cifar-wide"))
    found = paths(space)
    widths = [[space.levels[i].width for i in path] for path in found]
    assert len(set(map(tuple, widths))) == len(found)
    # not narrower from stage to stage, over the widths of docs/spaces.md
    stages = ((8, 12, 16, 20, 24, 32, 40), (12, 16, 20, 24, 32, 40, 48, 64), (16, 24, 32, 40, 48, 64, 80, 96))
    listed = [list(w) for w in itertools.product(*stages) if w[0] <= w[1] <= w[2]]
    assert sorted(widths) == sorted(listed)


@pytest.mark.parametrize("name", ["macromicro", "nasnet-cifar", "densenas-cifar"])
def test_spaces_without_places_are_refused_with_a_way_on(name: str) -> None:
    with pytest.raises(InputError, match="mbv2-cifar"):
        HourNas(context(name, 1.0, FakeCost()))


def listed(space_name: str, scores: SlotScores, cost: FakeCost, limit_ms: float) -> float:
    """Highest sum of scores of a network within the budget, by listing depths (one operator a level)."""
    space = scores.space
    best = -math.inf
    ranges = [range(1, space.levels[i].depth[1] + 1) for i in scores.path]
    for depths in itertools.product(*ranges):
        fills: list[Fill] = []
        total = 0.0
        by_stage = [
            sorted(
                (
                    c[0]
                    for slot, c in zip(scores.slots, scores.choices)
                    if slot.stage == s and isinstance(c, tuple)
                ),
                reverse=True,
            )
            for s in range(len(scores.path))
        ]
        for s, depth in enumerate(depths):
            total += sum(by_stage[s][: depth - 1])
        fills = [0 if slot.index < depths[slot.stage] else None for slot in scores.slots]
        if budget(limit_ms).fits(cost.estimate(network(space, scores.path, fills))):
            best = max(best, total)
    return best


def test_the_derived_network_is_the_best_of_all() -> None:
    space = chain_of(make("resnet-cifar-wide"))
    rng = np.random.default_rng(1)
    cost = FakeCost()
    for _ in range(6):
        path = paths(space)[int(rng.integers(len(paths(space))))]
        choices = tuple(0 if slot.vital else (float(rng.normal()),) for slot in slots(space, path))
        scores = SlotScores(space, path, choices)
        chooser = SlotChooser(space, scores, cost.estimate)
        limit_ms = chooser.fixed_ms * float(rng.uniform(1.1, 4.0))
        fills = chooser.best(budget(limit_ms))
        assert fills is not None
        assert chooser.score(fills) == pytest.approx(listed(space.name, scores, cost, limit_ms))


def test_random_budgets_are_kept_without_training() -> None:
    """Untrained scores; the price of a network is not the sum of its blocks' prices.

    HWNAS_BUDGETS=1000 makes it a thousand budgets (minutes).
    """

    class Bent(FakeCost):
        def estimate(self, spec: NetworkSpec) -> Estimate:
            found = super().estimate(spec)
            bent = 1 + 0.15 * math.sin(300 * found.latency_ms)
            return found.model_copy(
                update={n: getattr(found, n) * bent for n in ("latency_ms", "low_ms", "high_ms")}
            )

    rng = np.random.default_rng(2)
    kept, total = 0, int(os.environ.get("HWNAS_BUDGETS", "30"))
    for name, most in (("resnet-cifar", 1.5), ("resnet-cifar-wide", 1.0), ("mbv2-cifar", 0.4)):
        space, cost = chain_of(make(name)), Bent()
        vital = proxy_vital(space, cost.estimate, budget(most), 0.5)
        chooser = SlotChooser(space, proxy_scores(space, vital), cost.estimate)
        for _ in range(-(-total // 3)):
            limit = budget(float(rng.uniform(0.02, most)))
            assert limit.latency_ms is not None
            fills = chooser.best(limit)
            if fills is None:
                assert cost.estimate(network(space, vital.path, chooser.cheapest)).high_ms > limit.latency_ms
                continue
            assert cost.estimate(network(space, vital.path, fills)).high_ms <= limit.latency_ms
            kept += 1
    assert kept > 0.4 * total


def test_vital_blocks_stay_within_their_share_and_are_the_best_there() -> None:
    space, cost = chain_of(make("resnet-cifar-wide")), FakeCost()
    rng = np.random.default_rng(3)
    worth = {i: float(rng.normal()) for i in range(len(space.levels))}
    found = choose_vital(
        space, cost.estimate, budget(0.4), 0.5, lambda path: [(worth[level],) for level in path]
    )

    def bare_ms(path: tuple[int, ...]) -> float:
        fills = [0 if slot.vital else None for slot in slots(space, path)]
        return cost.estimate(network(space, path, fills)).high_ms

    fitting = [path for path in paths(space) if bare_ms(path) <= 0.2]
    assert found.path == max(fitting, key=lambda path: sum(worth[level] for level in path))


def test_a_budget_is_used_even_if_every_block_seems_to_harm() -> None:
    space, cost = chain_of(make("mbv2-cifar")), FakeCost()
    vital = proxy_vital(space, cost.estimate, budget(0.2), 0.5)
    blank = proxy_scores(space, vital)
    rng = np.random.default_rng(5)
    harmful = SlotScores(
        space,
        blank.path,
        tuple(
            tuple(-float(rng.uniform(0.01, 0.05)) for _ in choice) if isinstance(choice, tuple) else choice
            for choice in blank.choices
        ),
    )
    fills = SlotChooser(space, harmful, cost.estimate).best(budget(0.2))
    assert fills == SlotChooser(space, harmful, cost.estimate).cheapest
    strategy = HourNas(context("mbv2-cifar", 0.2, cost, scores=harmful.to_json()))
    (proposal,) = strategy.propose([], 1, rng)
    assert 0.85 * 0.2 <= cost.estimate(proposal.spec).high_ms <= 0.2


def test_scores_survive_json_and_foreign_ones_are_refused() -> None:
    space = chain_of(make("mbv2-cifar"))
    cost = FakeCost()
    scores = proxy_scores(space, proxy_vital(space, cost.estimate, budget(0.2), 0.5))
    assert SlotScores.read(space, scores.to_json()) == scores
    with pytest.raises(InputError, match="do not match resnet-cifar"):
        SlotScores.read(chain_of(make("resnet-cifar")), scores.to_json())
    with pytest.raises(InputError, match="learned scores cannot be read"):
        SlotScores.read(space, {"path": [0]})


def test_a_fit_finds_what_made_the_losses() -> None:
    """Losses made by a rule: gates in stage 2 and kernels in stage 1 help, the rest does not matter."""
    space = chain_of(make("mbv2-cifar"))
    path = space.reference
    places = slots(space, path)
    rng = np.random.default_rng(4)
    networks, losses = [], []
    for _ in range(64):
        fills: list[Fill] = []
        loss = 2.0
        for slot in places:
            operators = space.levels[path[slot.stage]].operators
            fill = int(rng.integers(len(operators)))
            if not slot.vital and rng.random() < 0.4:
                fills.append(None)
                continue
            fills.append(fill)
            loss -= 0.05 * (slot.stage == 1) * (operators[fill].se > 0)
            loss -= 0.03 * (slot.stage == 0) * math.log2(operators[fill].kernel / 3)
        networks.append((path, tuple(fills)))
        losses.append(loss + 0.01 * float(rng.normal()))
    found = fit(space, networks, losses)
    assert found.left_out_r > 0.8
    scores = found.scores(path)
    operators = space.levels[path[0]].operators
    gate = {op: k for k, op in enumerate(operators)}
    plain = next(op for op in operators if (op.kernel, op.expand, op.se) == (3, 3, 0.0))
    gated = next(op for op in operators if (op.kernel, op.expand, op.se) == (3, 3, 0.25))
    large = next(op for op in operators if (op.kernel, op.expand, op.se) == (7, 3, 0.0))
    for slot, mine in zip(places, scores):
        if slot.stage == 1:
            assert mine[gate[gated]] - mine[gate[plain]] > 0.02
        if slot.stage == 0:
            assert mine[gate[large]] - mine[gate[plain]] > 0.015
    with pytest.raises(InputError, match="at least 8"):
        fit(space, networks[:7], losses[:7])
