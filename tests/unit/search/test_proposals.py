"""Space proposals: affordable, diverse, still spaces; the baseline equals an exact count."""

import itertools

import numpy as np
import pytest

from hwnas.errors import BudgetInfeasible, InputError
from hwnas.search.hournas.proposals import ProposalOptions, propose_spaces

COSTS = [[1.0, 2.0, 4.0], [1.0, 3.0, 9.0], [0.0, 2.0, 5.0, 8.0], [1.0, 2.0, 3.0], [0.0, 4.0], [1.0, 5.0, 6.0]]


def exact_share(low: float, high: float) -> float:
    totals = np.array([sum(choice) for choice in itertools.product(*COSTS)])
    return float(((totals >= low) & (totals <= high)).mean())


def test_the_uniform_baseline_is_the_exact_share() -> None:
    found = propose_spaces(COSTS, 10.0, 20.0, 26.0, seed=0)
    assert found.uniform_hit_rate == pytest.approx(exact_share(10.0, 16.0), abs=0.012)  # 3 standard errors


@pytest.mark.parametrize(("low", "high"), [(8.0, 12.0), (0.0, 9.0), (22.0, 27.0)])
def test_hard_samples_lie_in_the_window(low: float, high: float) -> None:
    found = propose_spaces(COSTS, 0.0, low, high, seed=1)
    rng = np.random.default_rng(7)
    for n in range(len(found.probability)):
        totals = [sum(COSTS[i][k] for i, k in enumerate(found.sample(rng, n))) for _ in range(2000)]
        inside = np.mean([low <= t <= high for t in totals])
        assert inside >= 0.94, (n, inside)
        assert inside > exact_share(low, high)


def test_proposals_are_spaces_and_differ() -> None:
    found = propose_spaces(COSTS, 0.0, 0.0, 12.0, seed=2)
    assert found.probability.max(axis=-1).mean() < 0.9  # not single networks
    flat = found.probability.reshape(len(found.probability), -1)
    flat = flat / np.linalg.norm(flat, axis=1, keepdims=True)
    cosines = (flat @ flat.T)[np.triu_indices(len(flat), 1)]
    assert cosines.max() < 0.999


def test_absent_operators_are_never_sampled_and_rows_sum_to_one() -> None:
    found = propose_spaces(COSTS, 0.0, 0.0, 12.0, seed=3)
    assert found.probability.sum(axis=-1) == pytest.approx(1.0)
    assert found.probability[:, 4, 2:] == pytest.approx(0.0)


def test_the_same_seed_gives_the_same_proposals() -> None:
    one, two = (propose_spaces(COSTS, 0.0, 8.0, 12.0, seed=5) for _ in range(2))
    assert np.array_equal(one.probability, two.probability)


def test_what_cannot_be_is_said() -> None:
    with pytest.raises(BudgetInfeasible) as caught:
        propose_spaces(COSTS, 10.0, 5.0, 13.0, seed=0)
    assert caught.value.smallest_ms == pytest.approx(14.0)  # 10 + 1 + 1 + 0 + 1 + 0 + 1
    with pytest.raises(InputError, match="below the window"):
        propose_spaces(COSTS, 0.0, 100.0, 200.0, seed=0)
    with pytest.raises(InputError, match="empty"):
        propose_spaces(COSTS, 0.0, 5.0, 5.0, seed=0)
    with pytest.raises(InputError, match="at least one operator"):
        propose_spaces([[1.0], []], 0.0, 0.0, 5.0, seed=0)
    with pytest.raises(TypeError):
        ProposalOptions(hitrate=0.9)  # type: ignore[call-arg]  # what is tried here is wrong
