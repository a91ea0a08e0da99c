"""Block costs as a Gaussian posterior: prior from blocks timed alone, evidence from whole networks.

The latency of a network is linear in the costs of its blocks::

    T(a) = beta + sum_k n_k(a) theta_k + T (c + noise),    noise ~ N(0, sigma^2),  c ~ N(0, gamma^2)

with one c for all networks that were measured in the same campaign: a machine is never twice in
exactly the same state.

What a block costs inside a network differs from what it costs alone, and not independently for each
block: a runtime converts layouts at every edge of a separate engine, fuses across blocks, keeps more
or less in its caches. So the prior of theta has structure::

    theta = m + sum_g Z_g u_g + e,      u_g ~ N(0, lambda_g^2 I),   e_k ~ N(0, (lambda_own m_k)^2)

m is the time alone; a group g shares one correction over all blocks (a scale, a constant per block,
activation traffic) or over the blocks of a kind or a size. Everything is Gaussian and linear, hence
in closed form: mean and covariance of theta given whole networks, the predictive variance of any
network (which says what to measure next), and leave-one-out residuals. The standard deviations
lambda are those that make the evidence most probable, held near defaults where evidence is thin
(type II maximum a posteriori; MacKay 1992, Rasmussen & Williams 2006, section 5.4). The loss is
relative: residuals are weighed by the latency.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from hwnas.arrays import Bools, Float64s, Int64s

Matrix = Any  # Float64s, or scipy's csr_array, which has no types

# Relative standard deviations of a measurement around the model that are expected before any
# evidence: of each network, and of a campaign as a whole.
NOISE, CAMPAIGN = 0.008, 0.004
# Networks in a campaign that is over within one state of the machine.
SHORT = 10.0
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
        columns: (keys, corrections) Z_g, in ms, an array or sparse; the constant beta has its own group.
        scale: default lambda_g.
    """

    name: str
    columns: Matrix
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

    mean_ms: Float64s
    sd_ms: Float64s
    groups: tuple[Group, ...]
    own_scale: float = 0.05
    constant_ms: float = 0.01


@dataclass(frozen=True)
class Evidence:
    """Whole networks that were measured.

    Attributes:
        counts: (networks, keys) how often each block occurs, an array or sparse.
        latency_ms: (networks,) measured floor.
        se_ms: (networks,) its standard error, 0 where unknown.
        campaign: (networks,) number of the campaign that it was measured in.
    """

    counts: Matrix
    latency_ms: Float64s
    se_ms: Float64s
    campaign: Int64s

    def only(self, which: Bools) -> Evidence:
        """Part of the evidence."""
        return Evidence(self.counts[which], self.latency_ms[which], self.se_ms[which], self.campaign[which])

    @property
    def together(self) -> Float64s:
        """(networks, networks) variance that two networks of one campaign share, 0 for others.

        In units of that of a campaign of `SHORT` networks or fewer: a longer one sees several states of
        the machine, which average out.
        """
        same = np.equal.outer(self.campaign, self.campaign).astype(np.float64)
        shared: Float64s = same * np.minimum(1.0, SHORT / same.sum(axis=1))[:, None]
        return shared


class Posterior:
    """Block costs given the evidence; the constant beta is the last entry.

    Only the networks' covariance is ever inverted and no matrix of keys by keys exists, so that costs
    grow with the keys of a table, not with their square: the prior covariance is a few sparse columns
    and a diagonal.

    Attributes:
        mean_ms: (keys + 1,).
        scales: the standard deviations that were chosen, by name.
    """

    def __init__(self, prior: Prior, evidence: Evidence, scales: dict[str, float]) -> None:
        self.scales = scales
        columns = [scales[group.name] * sparse.csr_array(group.columns) for group in prior.groups]
        self._shared = sparse.csr_array(sparse.hstack(columns))  # (keys, corrections)
        self._own = (scales["own"] * prior.mean_ms) ** 2 + prior.sd_ms**2
        self._constant = scales["constant"] ** 2
        self._counts = sparse.csr_array(evidence.counts)
        self._learned = (self._counts @ self._shared).toarray()  # (networks, corrections)
        y = evidence.latency_ms
        noise = np.diag((scales["noise"] * y) ** 2 + evidence.se_ms**2)
        noise += scales["campaign"] ** 2 * evidence.together * np.outer(y, y)
        spread = (self._counts * self._own) @ self._counts.T
        total = self._learned @ self._learned.T + spread.toarray() + self._constant + noise
        self._whiten = np.linalg.inv(np.linalg.cholesky(total))
        self._by_key = sparse.csr_array(self._counts.T)
        pull = np.linalg.solve(total, y - self._counts @ prior.mean_ms) if len(y) else np.zeros(0)
        moved = self._shared @ (self._learned.T @ pull) + self._own * (self._counts.T @ pull)
        self.mean_ms: Float64s = np.append(prior.mean_ms + moved, self._constant * pull.sum())

    @property
    def noise(self) -> float:
        """Relative standard deviation of a fresh measurement: of its campaign, and its own."""
        return float(np.hypot(self.scales["noise"], self.scales["campaign"]))

    def predict(self, counts: Matrix) -> tuple[Float64s, Float64s]:
        """Mean (networks,) in ms and variance (networks,) of the cost itself, without noise."""
        rows = sparse.csr_array(counts)
        shared, seen = self._parts(rows)
        variance = (shared**2).sum(axis=1) + (rows * rows) @ self._own + self._constant
        mean: Float64s = rows @ self.mean_ms[:-1] + self.mean_ms[-1]
        return mean, np.maximum(variance - (seen**2).sum(axis=0), 0.0)

    def predict_one(self, keys: Int64s, times: Float64s) -> tuple[float, float]:
        """Mean and variance as by `predict`, of one network that holds different keys so many times."""
        shared = _row(self._shared, keys, times)
        own = times * self._own[keys]
        seen = self._whiten @ (self._learned @ shared + _row(self._by_key, keys, own) + self._constant)
        variance = shared @ shared + own @ times + self._constant - seen @ seen
        mean = times @ self.mean_ms[keys] + self.mean_ms[-1]
        return float(mean), max(float(variance), 0.0)

    def covariance(self, counts: Matrix) -> Callable[[int], Float64s]:
        """Covariance of the costs of all networks with that of one, ms^2, as a function of its place."""
        rows = sparse.csr_array(counts)
        shared, seen = self._parts(rows)

        def with_one(at: int) -> Float64s:
            own = rows @ (rows[[at]].toarray()[0] * self._own)
            found: Float64s = shared @ shared[at] + own + self._constant - seen.T @ seen[:, at]
            return found

        return with_one

    def _parts(self, rows: Any) -> tuple[Float64s, Float64s]:
        """(networks, corrections) of shared corrections, and (evidence, networks) of what is learned."""
        shared = (rows @ self._shared).toarray()
        with_evidence = shared @ self._learned.T + ((rows * self._own) @ self._counts.T).toarray()
        return shared, self._whiten @ (with_evidence + self._constant).T


def _row(matrix: Any, at: Int64s, weights: Float64s) -> Float64s:
    """Weighted sum of some rows of a sparse matrix, dense; much faster than scipy for so few."""
    begin, end = matrix.indptr[at], matrix.indptr[at + 1]
    places = np.concatenate([np.arange(a, b) for a, b in zip(begin, end)])
    values = matrix.data[places] * np.repeat(weights, end - begin)
    sums = np.bincount(matrix.indices[places], weights=values, minlength=matrix.shape[1])
    return np.asarray(sums, dtype=np.float64)


def fit(prior: Prior, evidence: Evidence, scales: dict[str, float] | None = None) -> Posterior:
    """Posterior of the block costs given networks.

    Args:
        prior: of the block costs.
        evidence: measured networks, possibly none.
        scales: standard deviations to use (from an earlier `Posterior.scales`); chosen by the
            evidence if None.
    """
    default = {group.name: group.scale for group in prior.groups}
    default |= {"own": prior.own_scale, "constant": prior.constant_ms, "campaign": CAMPAIGN, "noise": NOISE}
    if scales is None:
        scales = _choose(prior, evidence, default) if len(evidence.latency_ms) >= 2 else default
    return Posterior(prior, evidence, scales)


def _choose(prior: Prior, evidence: Evidence, default: dict[str, float]) -> dict[str, float]:
    """The standard deviations that make the evidence most probable: coordinate ascent."""
    y = evidence.latency_ms
    relative = sparse.csr_array(sparse.csr_array(evidence.counts) / y[:, None])
    # One Gram matrix a standard deviation, over relative latencies; their sum is the covariance.
    designs = [relative @ sparse.csr_array(group.columns) for group in prior.groups]
    designs += [relative * prior.mean_ms, sparse.csr_array(1.0 / y[:, None])]
    start = np.array(list(default.values()))
    grams = [scale**2 * (x @ x.T).toarray() for x, scale in zip(designs, start)]
    grams += [start[-2] ** 2 * evidence.together, start[-1] ** 2 * np.eye(len(y))]
    spread = relative * prior.sd_ms
    known = np.diag((evidence.se_ms / y) ** 2) + (spread @ spread.T).toarray()
    residual = 1.0 - relative @ prior.mean_ms

    def score(factors: Float64s) -> float:
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


def most_uncertain(posterior: Posterior, counts: Matrix, n: int, taken: Sequence[int] = ()) -> list[int]:
    """Which networks to measure next: greedily the largest relative predictive variance.

    Each choice conditions the covariance as if it had been measured (its value does not matter for
    that), so that the choices do not repeat each other.

    Args:
        posterior: present knowledge; not changed.
        counts: (candidates, keys), an array or sparse.
        n: how many to choose.
        taken: candidates that must not be chosen.
    """
    mean, variance = posterior.predict(counts)
    mean, covariance = np.maximum(mean, 1e-9), posterior.covariance(counts)
    open_ = np.ones(len(mean), dtype=bool)
    open_[list(taken)] = False
    chosen: list[int] = []
    learned = np.zeros((0, len(mean)))  # what each choice takes from the covariance
    while len(chosen) < n and open_.any():
        best = int(np.argmax(np.where(open_, variance / mean**2, -1.0)))
        chosen.append(best)
        open_[best] = False
        spread = variance[best] + (posterior.noise * mean[best]) ** 2
        towards = (covariance(best) - learned.T @ learned[:, best]) / np.sqrt(spread)
        learned = np.vstack([learned, towards])
        variance = np.maximum(variance - towards**2, 0.0)
    return chosen
