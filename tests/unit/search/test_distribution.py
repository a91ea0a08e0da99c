"""The exact share of affordable networks: against listing, and against HourNAS-F's published space."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from hwnas.errors import InputError
from hwnas.jobs.resolve.networks import network
from hwnas.nets.count import count, count_block
from hwnas.nets.hournas.vital import vital_blocks
from hwnas.search.hournas.proposals import propose_spaces
from hwnas.search.solve.distribution import share_within


def test_equals_listing_every_choice() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        costs = [list(map(float, rng.integers(0, 50, size=rng.integers(1, 5)))) for _ in range(6)]
        p = [list(map(float, rng.dirichlet(np.ones(len(row))))) for row in costs]
        low, high = sorted(rng.uniform(20, 250, size=2))
        exact = 0.0
        for choice in itertools.product(*(range(len(row)) for row in costs)):
            total = 7 + sum(row[k] for row, k in zip(costs, choice))
            if low <= total <= high:
                exact += np.prod([row[k] for row, k in zip(p, choice)])
        # a grid of whole numbers: costs are exact on it
        cells = int(sum(map(max, costs)))
        assert share_within(costs, 7.0, low, high, p, cells=cells) == pytest.approx(exact, abs=1e-12)


def hournas_f() -> tuple[list[list[float]], float]:
    """MACs (millions) of the choices for the 15 blocks of HourNAS-F that are not vital, and the rest.

    Candidates: kernel 3 or 5 with expansion 1, 3 or 6, and leaving the block out.
    """
    spec = network("hournas-f")
    vital = set(vital_blocks(spec))
    fixed, costs = count(spec).macs / 1e6, []
    for place, block in spec.walk():
        if place in vital or not place.startswith("stages."):
            continue
        fixed -= count_block(block, spec.convention).macs / 1e6
        forms = [block.model_copy(update={"kernel": k, "expand": e}) for k in (3, 5) for e in (1, 3, 6)]
        costs.append([*(count_block(form, spec.convention).macs / 1e6 for form in forms), 0.0])
    return costs, fixed


def test_the_affordable_share_of_hournas_f() -> None:
    """Shares of 7^15 configurations worked out beforehand by an independent convolution."""
    costs, fixed = hournas_f()
    assert [len(row) for row in costs] == [7] * 15
    mean = fixed + sum(sum(row) / len(row) for row in costs)
    assert mean == pytest.approx(362.4, abs=0.2)
    known = {250: 0.0002, 300: 0.036, 313: 0.081, 350: 0.37, 383: 0.72, 400: 0.85}
    for limit, share in known.items():
        assert share_within(costs, fixed, 0.0, limit) == pytest.approx(share, rel=0.03, abs=0.0001)


@pytest.mark.parametrize("limit", [300.0, 383.0])
def test_proposals_make_hournas_f_affordable(limit: float) -> None:
    costs, fixed = hournas_f()
    before = share_within(costs, fixed, 0.9 * limit, limit)
    found = propose_spaces(costs, fixed, 0.9 * limit, limit, seed=0)
    after = [share_within(costs, fixed, 0.9 * limit, limit, p) for p in found.probability]
    assert min(after) >= 0.95
    assert found.uniform_hit_rate == pytest.approx(before, abs=0.002)  # of two grids
    assert before < 0.6


def test_a_layer_without_operators_is_refused() -> None:
    with pytest.raises(InputError, match="at least one operator"):
        share_within([[1.0], []], 0.0, 0.0, 1.0)
