"""Space proposals: sampling matrices under which nearly every network is affordable (HourNAS).

HourNAS (arXiv 2005.14446) searches the non-vital blocks in a space that is first cut down to
affordable candidates. Its search code is not public; this is a design consistent with its abstract,
not the authors' equations. A proposal is a matrix of logits (layers x operators). Samples
are drawn by Gumbel-softmax with a straight-through forward pass, and the logits descend on

    E[ relu(cost/high - 1)^2 + relu(low/high - cost/high)^2 ] + mu * mean_{n != m} cos^2(P_n, P_m) - nu * H

so that samples fall between `low` and `high`, the proposals stay different from each other, and
their entropy H keeps them spaces rather than single networks. A narrow window costs entropy: the
layers are sampled independently, so the spread of their sum can only shrink if each is surer. What
gradient descent does not reach is corrected exactly (`_polished`): the least sharpening and tilt of
a proposal that brings its hit rate, known from the convolution of its layers, to what was asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hwnas.arrays import Bools, Float64s
from hwnas.errors import BudgetInfeasible, InputError
from hwnas.lazy import lazy_import
from hwnas.search.solve.distribution import share_within

if TYPE_CHECKING:
    import torch
else:
    torch = lazy_import("torch")

CELLS = 4000  # of the grid on which hit rates are exact
POLISHES = 30


@dataclass(frozen=True)
class ProposalOptions:
    """How proposals are found.

    `hit_rate` is the share of hard samples that must lie within the window for every proposal;
    `mu` weighs diversity, `nu` the mean entropy of a layer (nats); the temperature of the samples
    falls from `tau_start` to `tau_end`.
    """

    count: int = 4
    hit_rate: float = 0.95
    mu: float = 0.002
    nu: float = 0.0003
    samples: int = 64
    steps: int = 1500
    learning_rate: float = 0.1
    tau_start: float = 1.0
    tau_end: float = 0.1
    check_every: int = 100


@dataclass(frozen=True)
class Proposals:
    """Found proposals.

    Attributes:
        probability: (proposals, layers, operators); entries of operators that a layer lacks are 0.
        hit_rate: share of hard samples within the window, for each proposal; exact.
        uniform_hit_rate: the same for uniform sampling, the baseline.
        steps: gradient steps taken.
    """

    probability: Float64s
    hit_rate: tuple[float, ...]
    uniform_hit_rate: float
    steps: int

    def sample(self, rng: np.random.Generator, proposal: int | None = None) -> tuple[int, ...]:
        """Operator of each layer, from one proposal (a random one if none is named)."""
        n = int(rng.integers(len(self.probability))) if proposal is None else proposal
        return tuple(int(rng.choice(len(row), p=row)) for row in self.probability[n])


def propose_spaces(
    costs: Sequence[Sequence[float]],
    fixed: float,
    low: float,
    high: float,
    *,
    seed: int,
    options: ProposalOptions | None = None,
) -> Proposals:
    """Optimise proposals until their samples cost between `low` and `high`.

    Args:
        costs: for each layer the cost of each of its operators, in any one unit (ms, MACs).
        fixed: cost of everything that is not sampled, same unit.
        low, high: the window, same unit.
        seed: of the samples.
        options: see `ProposalOptions`.

    Raises:
        BudgetInfeasible: even the cheapest choice everywhere costs more than `high`.
        InputError: the window is empty, or no choice reaches `low`.
    """
    o = options or ProposalOptions()
    table, mask = _padded(costs)
    _check_window(table, mask, fixed, low, high)
    scaled = _Scaled(table / high, mask, fixed / high, low / high)
    uniform = mask / mask.sum(axis=1, keepdims=True)
    window = _Window(costs, fixed, low, high)
    # Gradient descent on the logits, then an exact correction of each hit rate (`_polished`).
    probability, steps = _descend(scaled, o, seed, window)
    hits = tuple(window.share(p) for p in probability)
    return Proposals(probability, hits, window.share(uniform), steps)


def _padded(costs: Sequence[Sequence[float]]) -> tuple[Float64s, Bools]:
    if not costs or not all(costs):
        raise InputError("every layer needs at least one operator")
    width = max(len(row) for row in costs)
    mask = np.array([[k < len(row) for k in range(width)] for row in costs])
    table = np.array([[*row, *[0.0] * (width - len(row))] for row in costs], dtype=np.float64)
    if not (np.isfinite(table).all() and (table >= 0).all()):
        raise InputError("costs must be numbers of at least zero")
    return table, mask


def _check_window(table: Float64s, mask: Bools, fixed: float, low: float, high: float) -> None:
    if not 0 <= low < high:
        raise InputError(f"the window [{low:g}, {high:g}] is empty")
    least = fixed + float(np.where(mask, table, np.inf).min(axis=1).sum())
    most = fixed + float(np.where(mask, table, -np.inf).max(axis=1).sum())
    if least > high:
        raise BudgetInfeasible(f"the cheapest network costs {least:.6g}, over {high:.6g}", smallest_ms=least)
    if most < low:
        raise InputError(
            f"the most expensive network costs {most:.6g}, below the window's lower end {low:.6g}"
        )


@dataclass(frozen=True)
class _Window:
    """Costs and the window that samples are to lie in."""

    costs: Sequence[Sequence[float]]
    fixed: float
    low: float
    high: float

    def share(self, probability: Float64s) -> float:
        """Share of hard samples within the window, exactly."""
        return share_within(self.costs, self.fixed, self.low, self.high, probability, cells=CELLS)


def _polished(probability: Float64s, scaled: _Scaled, window: _Window, hit_rate: float) -> Float64s:
    """The proposal, sharpened as little as brings its hit rate to what is asked.

    p' is proportional to p^sharp * exp(-tilt * cost); the tilt brings the mean cost to the middle of
    the window (or leaves it, below a window that is open downwards). Sharpness ends in a single
    network; the best found is given where even that misses.
    """
    logits = np.where(scaled.mask, np.log(probability.clip(1e-12)), -np.inf)
    best, best_share = probability, window.share(probability)
    sharp = 1.0
    for _ in range(POLISHES):
        if best_share >= hit_rate:
            break
        tilted = _tilted(sharp * logits, scaled.table, window)
        share = window.share(tilted)
        if share > best_share:
            best, best_share = tilted, share
        sharp *= 1.15
    return best


def _tilted(logits: Float64s, table: Float64s, window: _Window) -> Float64s:
    """Probabilities tilted by cost until the mean cost is in the middle of the window."""
    middle = 0.5 * (window.low + window.high) / window.high - window.fixed / window.high

    def at(tilt: float) -> Float64s:
        scores = logits - tilt * table
        p: Float64s = np.exp(scores - scores.max(axis=1, keepdims=True))
        total: Float64s = p.sum(axis=1, keepdims=True)
        return p / total

    def mean(tilt: float) -> float:
        return float((at(tilt) * table).sum())

    low, high = -1e3, 1e3
    if window.low <= 0 and mean(0.0) <= middle:
        return at(0.0)
    for _ in range(60):
        tilt = 0.5 * (low + high)
        low, high = (tilt, high) if mean(tilt) > middle else (low, tilt)
    return at(0.5 * (low + high))


@dataclass(frozen=True)
class _Scaled:
    """Costs in units of the window's upper end."""

    table: Float64s
    mask: Bools
    fixed: float
    low: float


def _descend(scaled: _Scaled, o: ProposalOptions, seed: int, window: _Window) -> tuple[Float64s, int]:
    """Gradient descent on the logits; stops when every proposal, polished, reaches the hit rate."""
    generator = torch.Generator().manual_seed(seed)
    table, mask = torch.from_numpy(scaled.table), torch.from_numpy(scaled.mask)
    # A little noise lets the proposals part ways; without it diversity has no gradient.
    logits = torch.randn(o.count, *table.shape, dtype=torch.float64, generator=generator)
    logits = logits.mul_(0.1).requires_grad_()
    optimiser = torch.optim.Adam([logits], lr=o.learning_rate)

    def probability() -> torch.Tensor:
        return torch.softmax(logits.masked_fill(~mask, -torch.inf), dim=-1)

    polished: list[Float64s] = []
    for step in range(1, o.steps + 1):
        tau = o.tau_start * (o.tau_end / o.tau_start) ** (step / o.steps)
        uniform = torch.rand(o.samples, *logits.shape, dtype=torch.float64, generator=generator)
        noisy = logits - torch.log(-torch.log(uniform.clamp(1e-12, 1 - 1e-12)))
        soft = torch.softmax(noisy.masked_fill(~mask, -torch.inf) / tau, dim=-1)
        hard = torch.nn.functional.one_hot(soft.argmax(-1), table.shape[1]).to(soft.dtype)
        cost = scaled.fixed + ((hard + soft - soft.detach()) * table).sum((-1, -2))
        loss = (torch.relu(cost - 1.0) ** 2 + torch.relu(scaled.low - cost) ** 2).mean()
        p = probability()
        entropy = -(p * p.clamp_min(1e-12).log()).sum(-1).mean()
        loss = loss + o.mu * _likeness(p) - o.nu * entropy
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        if step % o.check_every == 0 or step == o.steps:
            found: Float64s = probability().detach().numpy()
            polished = [_polished(p, scaled, window, o.hit_rate) for p in found]
            if all(window.share(p) >= o.hit_rate for p in polished):
                return np.stack(polished), step
    return np.stack(polished), o.steps


def _likeness(probability: torch.Tensor) -> torch.Tensor:
    """Mean squared cosine between different proposals; 0 for a single one."""
    flat = probability.flatten(1)
    flat = flat / flat.norm(dim=1, keepdim=True)
    n = len(flat)
    cosines = (flat @ flat.T) ** 2
    likeness: torch.Tensor = (cosines.sum() - cosines.diagonal().sum()) / max(1, n * (n - 1))
    return likeness
