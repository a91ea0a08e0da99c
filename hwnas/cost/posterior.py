"""Block costs as a Gaussian posterior: prior from blocks timed alone, evidence from whole networks.

The latency of a network is linear in the costs of its blocks::

    T(a) = beta + sum_k n_k(a) theta_k + noise,      noise ~ N(0, (sigma T)^2)

What a block costs inside a network differs from what it costs alone, and not independently for each
block: a runtime converts layouts at every edge of a separate engine, fuses across blocks, keeps more
or less in its caches. So the prior of theta has structure::

    theta = m + sum_g Z_g u_g + e,      u_g ~ N(0, lambda_g^2 I),   e_k ~ N(0, (lambda_own m_k)^2)

m is the time alone; a group g shares one correction over all blocks (a scale, a constant a block,
activation traffic) or over the blocks of a kind or a size. Everything is Gaussian and linear, hence
in closed form: mean and covariance of theta given whole networks, the predictive variance of any
network (which says what to measure next), and leave-one-out residuals. The standard deviations
lambda are those that make the evidence most probable, held near defaults where evidence is thin
(type II maximum a posteriori; MacKay 1992, Rasmussen & Williams 2006, section 5.4). The loss is
relative: residuals are weighed by the latency.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# Relative standard deviation of the measurement noise expected before any evidence.
NOISE = 0.01
# Factors on the default standard deviations that are tried, and the price in nats of a factor e.
_FACTORS = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0, 2.0, 4.0)
_NOISE_FACTORS = (1 / 2, 0.7, 1.0, 1.4, 2.0, 4.0)
_STIFFNESS = 0.125
_SWEEPS = 3


@dataclass(frozen=True)
class Group:
    """One set of shared corrections.

    Attributes:
        name: what it stands for.
        columns: (keys, corrections) Z_g, in ms; the constant beta has its own group (`prior_of`).
        scale: default lambda_g.
    """

    name: str
    columns: Array
    scale: float


@dataclass(frozen=True)
class Prior:
    """Prior of the block costs.

    Attributes:
        mean_ms: (keys,) m.
        sd_ms: (keys,) how badly m itself is known: standard error of the time alone, or of its
            extrapolation where it was not measured.
        groups: shared corrections.
        own_scale: default lambda_own.
        constant_ms: default standard deviation of beta.
    """

    mean_ms: Array
    sd_ms: Array
    groups: tuple[Group, ...]
    own_scale: float = 0.05
    constant_ms: float = 0.01


@dataclass(frozen=True)
class Evidence:
    """Whole networks that were measured.

    Attributes:
        counts: (networks, keys) how often each block occurs.
        latency_ms: (networks,) measured floor.
        se_ms: (networks,) its standard error, 0 where unknown.
    """

    counts: Array
    latency_ms: Array
    se_ms: Array


@dataclass
class Posterior:
    """Block costs given the evidence; the constant beta is the last entry.

    Attributes:
        mean_ms: (keys + 1,).
        cov: (keys + 1, keys + 1), ms^2.
        noise: relative standard deviation of a network's measurement around the model.
        scales: the standard deviations that were chosen, by name.
        loo_ms, loo_var: leave-one-out prediction and variance of each network of the evidence.
    """

    mean_ms: Array
    cov: Array
    noise: float
    scales: dict[str, float] = field(default_factory=dict)
    loo_ms: Array = field(default_factory=lambda: np.empty(0))
    loo_var: Array = field(default_factory=lambda: np.empty(0))

    def predict(self, counts: Array) -> tuple[Array, Array]:
        """Mean (networks,) in ms and variance (networks,) of the cost itself, without noise."""
        rows = np.column_stack([counts, np.ones(len(counts))])
        return rows @ self.mean_ms, np.einsum("nk,kl,nl->n", rows, self.cov, rows, optimize=True)


def fit(prior: Prior, evidence: Evidence, scales: dict[str, float] | None = None) -> Posterior:
    """Posterior of the block costs given networks.

    Args:
        prior: of the block costs.
        evidence: measured networks, possibly none.
        scales: standard deviations to use (from an earlier `Posterior.scales`); chosen by the
            evidence if None.
    """
    n = len(evidence.latency_ms)
    default = {group.name: group.scale for group in prior.groups}
    default |= {"own": prior.own_scale, "constant": prior.constant_ms, "noise": NOISE}
    if scales is None:
        scales = _choose(prior, evidence, default) if n >= 2 else default
    chosen = np.array([scales[name] for name in default])
    cov = _prior_cov(prior, chosen)
    mean = np.append(prior.mean_ms, 0.0)
    if n == 0:
        return Posterior(mean, cov, scales["noise"], scales)
    rows = np.column_stack([evidence.counts, np.ones(n)])
    y, noise = evidence.latency_ms, (scales["noise"] * evidence.latency_ms) ** 2 + evidence.se_ms**2
    half = rows @ cov
    inverse = np.linalg.inv(half @ rows.T + np.diag(noise))
    residual = y - rows @ mean
    gain = half.T @ inverse
    diagonal = np.diag(inverse)
    # Closed forms of Rasmussen & Williams 2006, eq. 5.12.
    return Posterior(
        mean_ms=mean + gain @ residual,
        cov=cov - gain @ half,
        noise=scales["noise"],
        scales=scales,
        loo_ms=y - (inverse @ residual) / diagonal,
        loo_var=1.0 / diagonal,
    )


def _prior_cov(prior: Prior, scales: Array) -> Array:
    keys = len(prior.mean_ms)
    cov = np.zeros((keys + 1, keys + 1))
    for group, scale in zip(prior.groups, scales):
        cov[:keys, :keys] += scale**2 * (group.columns @ group.columns.T)
    cov[np.arange(keys), np.arange(keys)] += (scales[-3] * prior.mean_ms) ** 2 + prior.sd_ms**2
    cov[keys, keys] = scales[-2] ** 2
    return cov


def _choose(prior: Prior, evidence: Evidence, default: dict[str, float]) -> dict[str, float]:
    """The standard deviations that make the evidence most probable: coordinate ascent."""
    y = evidence.latency_ms
    relative = evidence.counts / y[:, None]
    # One Gram matrix a standard deviation, over relative latencies; their sum is the covariance.
    designs = [relative @ group.columns for group in prior.groups]
    designs += [relative * prior.mean_ms, 1.0 / y[:, None]]
    start = np.array(list(default.values()))
    grams = [scale**2 * (x @ x.T) for x, scale in zip(designs, start)]
    grams.append(start[-1] ** 2 * np.eye(len(y)))
    spread = relative * prior.sd_ms
    known = np.diag((evidence.se_ms / y) ** 2) + spread @ spread.T
    residual = 1.0 - relative @ prior.mean_ms

    def score(factors: Array) -> float:
        total = known + sum(f**2 * gram for f, gram in zip(factors, grams))
        lower = np.linalg.cholesky(total)
        white = np.linalg.solve(lower, residual)
        wander = np.log(factors)
        return float(-0.5 * white @ white - np.log(np.diag(lower)).sum() - _STIFFNESS * wander @ wander)

    factors = np.ones(len(start))
    best = score(factors)
    for _ in range(_SWEEPS):
        before = best
        for g in range(len(factors)):
            # Noise is kept near what sessions say: few networks can always be explained without any.
            for f in _FACTORS if g < len(factors) - 1 else _NOISE_FACTORS:
                trial = factors.copy()
                trial[g] = f
                if (value := score(trial)) > best:
                    best, factors = value, trial
        if best - before < 1e-3:
            break
    return dict(zip(default, (start * factors).tolist()))


def most_uncertain(posterior: Posterior, counts: Array, n: int, taken: Sequence[int] = ()) -> list[int]:
    """Which networks to measure next: greedily the largest relative predictive variance.

    Each choice conditions the covariance as if it had been measured (its value does not matter for
    that), so that the choices do not repeat each other.

    Args:
        posterior: present knowledge; not changed.
        counts: (candidates, keys).
        n: how many to choose.
        taken: candidates that must not be chosen.
    """
    rows = np.column_stack([counts, np.ones(len(counts))])
    mean = np.maximum(rows @ posterior.mean_ms, 1e-9)
    project = rows @ posterior.cov  # (candidates, keys + 1), conditioned as choices are made
    variance = np.einsum("nk,nk->n", project, rows)
    open_ = np.ones(len(counts), dtype=bool)
    open_[list(taken)] = False
    chosen: list[int] = []
    while len(chosen) < n and open_.any():
        best = int(np.argmax(np.where(open_, variance / mean**2, -1.0)))
        chosen.append(best)
        open_[best] = False
        spread = variance[best] + (posterior.noise * mean[best]) ** 2
        towards = project @ rows[best]
        project = project - np.outer(towards, project[best]) / spread
        variance = np.maximum(variance - towards**2 / spread, 0.0)
    return chosen
