"""The Gaussian posterior against an independent way of computing it."""

from typing import Any

import numpy as np
import pytest

from hwnas.cost.posterior import Evidence, Group, Prior, fit, most_uncertain

RNG = np.random.default_rng(7)


def problem(
    keys: int = 6, networks: int = 25, noise: float = 0.01, seed: int = 0
) -> tuple[Prior, Evidence, Any]:
    """Block costs that differ from their times alone by shared and own deviations."""
    rng = np.random.default_rng(seed)
    alone = rng.uniform(0.02, 0.1, keys)
    true = 0.9 * alone + 0.002 + 0.03 * alone * rng.normal(size=keys)
    counts = rng.integers(0, 5, (networks, keys)).astype(float)
    counts[:, 0] += 1.0
    latency = (counts @ true + 0.004) * (1 + noise * rng.normal(size=networks))
    prior = Prior(
        alone,
        np.zeros(keys),
        (Group("scale", alone[:, None], 0.1), Group("block", np.full((keys, 1), 0.05), 0.1)),
    )
    return prior, Evidence(counts, latency, np.zeros(networks), np.arange(networks)), true


def test_without_evidence_the_prior_is_the_answer() -> None:
    prior, evidence, _ = problem()
    found = fit(prior, evidence.only(np.zeros(25, dtype=bool)))
    mean, variance = found.predict(evidence.counts)
    assert mean == pytest.approx(evidence.counts @ prior.mean_ms)
    # By hand for one network: variance of its shared and own deviations.
    n, m = evidence.counts[0], prior.mean_ms
    by_hand = (0.1 * n @ m) ** 2 + (0.1 * 0.05 * n.sum()) ** 2 + ((0.05 * m * n) ** 2).sum() + 0.01**2
    assert variance[0] == pytest.approx(by_hand)


def test_posterior_equals_weighted_least_squares_on_augmented_rows() -> None:
    """The same posterior as ridge regression over explicit corrections, solved by lstsq."""
    prior, evidence, _ = problem()
    scales = {"scale": 0.1, "block": 0.1, "own": 0.05, "constant": 0.01, "campaign": 0.0, "noise": 0.01}
    found = fit(prior, evidence, scales)
    m, y, n = prior.mean_ms, evidence.latency_ms, evidence.counts
    # Unknowns: u_scale, u_block, e_1..e_K, beta, each of unit prior variance.
    to_theta = np.column_stack([0.1 * m, np.full(6, 0.1 * 0.05), np.diag(0.05 * m)])
    design = np.column_stack([n @ to_theta, np.full(len(y), 0.01)])
    sigma = 0.01 * y
    rows = np.vstack([design / sigma[:, None], np.eye(design.shape[1])])
    right = np.concatenate([(y - n @ m) / sigma, np.zeros(design.shape[1])])
    solved = np.linalg.lstsq(rows, right, rcond=None)[0]
    assert found.mean_ms[:-1] == pytest.approx(m + to_theta @ solved[:-1], rel=1e-8)
    assert found.mean_ms[-1] == pytest.approx(0.01 * solved[-1], rel=1e-6)


def test_evidence_corrects_times_alone() -> None:
    prior, evidence, true = problem()
    found = fit(prior, evidence)
    fresh = np.random.default_rng(1).integers(1, 5, (200, 6)).astype(float)
    want = fresh @ true + 0.004
    before = np.abs(fresh @ prior.mean_ms / want - 1).mean()
    after = np.abs(found.predict(fresh)[0] / want - 1).mean()
    assert before > 0.04
    assert after < 0.01


def test_a_slow_campaign_is_not_blamed_on_the_block_that_it_is_rich_in() -> None:
    prior, evidence, _ = problem(noise=0.0)
    campaign = np.repeat(np.arange(5), 5)
    counts = evidence.counts.copy()
    counts[campaign == 3, 5] += 6.0
    quiet = evidence.latency_ms + (counts - evidence.counts) @ problem()[2]
    slow = quiet * np.where(campaign == 3, 1.02, 1.0)

    def cost(latency: Any, campaigns: Any) -> float:
        return float(fit(prior, Evidence(counts, latency, evidence.se_ms, campaigns)).mean_ms[5])

    alone = np.arange(25)
    moved_untold = cost(slow, alone) / cost(quiet, alone) - 1.0
    moved_told = cost(slow, campaign) / cost(quiet, campaign) - 1.0
    assert moved_untold > 0.01
    assert abs(moved_told) < 0.5 * moved_untold


def test_a_vague_measurement_counts_for_little() -> None:
    prior, evidence, _ = problem(networks=2)
    sure = fit(prior, evidence)
    se = np.array([0.0, 10.0])
    vague = fit(prior, Evidence(evidence.counts, evidence.latency_ms, se, evidence.campaign))
    one = fit(prior, evidence.only(np.array([True, False])), vague.scales)
    assert vague.mean_ms == pytest.approx(one.mean_ms, abs=1e-5)
    assert not np.allclose(sure.mean_ms, one.mean_ms, atol=1e-5)


def test_most_uncertain_does_not_repeat_itself() -> None:
    """Of three copies of one odd network and one other, a copy and the other are chosen."""
    prior, evidence, _ = problem()
    counts = np.array([[1, 0, 0, 0, 0, 30], [1, 0, 0, 0, 0, 30], [1, 30, 0, 0, 0, 0], [1, 0, 0, 0, 0, 30.0]])
    found = fit(prior, evidence.only(np.zeros(25, dtype=bool)))
    chosen = most_uncertain(found, counts, 2)
    assert sorted(chosen) in ([0, 2], [1, 2], [2, 3])
    assert most_uncertain(found, counts, 9, taken=[2]) == [*most_uncertain(found, counts, 3, taken=[2])]
    assert len(most_uncertain(found, counts, 9)) == 4


def test_choosing_lowers_the_variance_more_than_chance() -> None:
    prior, evidence, _ = problem(keys=12, networks=0)
    rng = np.random.default_rng(3)
    counts = rng.integers(0, 4, (300, 12)) * (rng.random((300, 12)) < 0.3).astype(float)
    counts[:, 0] = 1.0
    start = fit(prior, evidence)

    def left(chosen: Any) -> float:
        y = counts[chosen] @ prior.mean_ms
        told = Evidence(counts[chosen], y, np.zeros(len(chosen)), np.arange(len(chosen)))
        after = fit(prior, told, start.scales)
        mean, variance = after.predict(counts)
        return float(np.sqrt(variance).sum() / mean.sum())

    chance = np.mean([left(rng.permutation(300)[:8]) for _ in range(10)])
    assert left(most_uncertain(start, counts, 8)) < 0.9 * chance
