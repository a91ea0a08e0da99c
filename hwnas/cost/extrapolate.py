"""Times of blocks that were not measured: a first guess with an honest, wide interval.

A Gaussian process on log time: its mean is linear in log work (MACs) and log traffic (bytes moved),
its covariance says that blocks alike in kind, shape and kernel lie alike above or below that line.
Measuring is better: with only half of the keys measured, networks were 3.9 % off, with a quarter
5 to 7 % (docs/evidence/latency.md). Guesses are marked `extrapolated` wherever they are used.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hwnas import sizes
from hwnas.arrays import Float64s, Int64s
from hwnas.errors import MissingMeasurement
from hwnas.nets.count import BYTES, count_block
from hwnas.spec import BlockSpec, NetworkSpec

# Prior of the straight line: log time grows like a power of work between 0 (all overhead) and 1.
_SLOPE_SD = 0.5
_OFFSET_SD = 5.0
# Deviation from the line: blocks of a kind that was never seen may be twice as fast or slow.
_SHAPE_SD, _KIND_SD, _OWN_SD = 0.3, 0.4, 0.04


# Measured blocks that guesses rest on: with more of them, solving takes long and adds little.
MOST_KNOWN = 1_500
_CHUNK = 2_000


class Guesser:
    """Guesses blocks without a row from those with one; made once for a table.

    Raises:
        MissingMeasurement: nothing was measured at all.
    """

    def __init__(self, known: Sequence[BlockSpec], times_ms: Float64s) -> None:
        if not len(known):
            raise MissingMeasurement("the table has no block to extrapolate from; run hwnas profile")
        at = _thinned(known, MOST_KNOWN)
        self._known = [known[i] for i in at]
        line, log_times = _line(self._known), np.log(times_ms[at])
        self._centre = line.mean(axis=0)
        self._line = line - self._centre
        self._offset = float(log_times.mean())
        # Expected slope: half of the way from all overhead to all work, shared between work and traffic.
        self._slope = np.array([0.4, 0.4])
        cov = _cov(self._known, self._known, self._line, self._line)
        self._lower = np.linalg.cholesky(cov + _OWN_SD**2 * np.eye(len(at)))
        self._residual = np.linalg.solve(self._lower, log_times - self._offset - self._line @ self._slope)

    def guess(self, wanted: Sequence[BlockSpec]) -> tuple[Float64s, Float64s]:
        """(wanted,) times in ms and relative standard deviations."""
        parts = [self._guess(wanted[at : at + _CHUNK]) for at in range(0, len(wanted), _CHUNK)]
        return np.concatenate([times for times, _ in parts]), np.concatenate([sd for _, sd in parts])

    def _guess(self, wanted: Sequence[BlockSpec]) -> tuple[Float64s, Float64s]:
        line = _line(wanted) - self._centre
        seen = np.linalg.solve(self._lower, _cov(self._known, wanted, self._line, line))
        mean = self._offset + line @ self._slope + self._residual @ seen
        own = _OFFSET_SD**2 + _SLOPE_SD**2 * (line**2).sum(axis=1) + _KIND_SD**2 + _SHAPE_SD**2 + _OWN_SD**2
        return np.exp(mean), np.sqrt(np.maximum(own - (seen**2).sum(axis=0), _OWN_SD**2))


def _thinned(blocks: Sequence[BlockSpec], most: int) -> Int64s:
    """Places of about `most` blocks at most, evenly over the sizes of each kind."""
    if len(blocks) <= most:
        return np.arange(len(blocks))
    by_kind: dict[str, list[int]] = {}
    order = [(sizes.pixels(b.size_in), b.c_in, b.c_out, at) for at, b in enumerate(blocks)]
    for *_, at in sorted(order):
        by_kind.setdefault(blocks[at].kind, []).append(at)
    share = [max(most * len(places) // len(blocks), min(len(places), 32)) for places in by_kind.values()]
    kept = [
        places[i * len(places) // n]
        for places, n in zip(by_kind.values(), share, strict=True)
        for i in range(n)
    ]
    return np.array(sorted(kept), dtype=np.int64)


def _line(blocks: Sequence[BlockSpec]) -> Float64s:
    """(blocks, 2): log MACs and log bytes."""
    rows = []
    for block in blocks:
        counts = count_block(block)
        elements = block.elements_in + block.elements_out
        # A pool that was cut out of a model has no multiply-accumulates.
        rows.append([np.log(max(counts.macs, 1)), np.log(counts.weight_bytes + BYTES * elements)])
    return np.array(rows)


def choose(blocks: Sequence[BlockSpec], networks: Sequence[NetworkSpec], n: int) -> list[BlockSpec]:
    """Which blocks of a large space to measure, when not all of them can be.

    Greedily the block whose guess adds most to the error of the networks that the space draws,
    given the blocks chosen before it: weight (mean share of a network's cost) times the standard
    deviation of its guess.

    Args:
        blocks: of the space.
        networks: random members, a few hundred.
        n: how many to choose; all where there are no more.
    """
    if n >= len(blocks):
        return list(blocks)
    line = _line(blocks)
    # Work and traffic say well enough how a network's cost is shared out among its blocks.
    size = np.exp((line - line.mean(axis=0)) @ np.array([0.4, 0.4]))
    place = {block: i for i, block in enumerate(blocks)}
    weight = np.full(len(blocks), 1e-6)  # a block that was never drawn may still be asked for
    for spec in networks:
        at = [place[block] for block in spec.blocks if block in place]
        np.add.at(weight, at, size[at] / size[at].sum() / len(networks))
    cov = _cov(blocks, blocks, line - line.mean(axis=0), line - line.mean(axis=0))
    variance = np.diag(cov).copy()
    free = np.ones(len(blocks), dtype=bool)
    chosen: list[int] = []
    solved = np.zeros((0, len(blocks)))  # rows of the Cholesky factor of the chosen ones
    for _ in range(n):
        best = int(np.argmax(np.where(free, weight**2 * variance, -1.0)))
        row = (cov[best] - solved[:, best] @ solved) / np.sqrt(max(variance[best], 0.0) + _OWN_SD**2)
        solved = np.vstack([solved, row])
        variance = np.maximum(variance - row**2, 0.0)
        free[best] = False
        chosen.append(best)
    return [blocks[i] for i in sorted(chosen)]


def _cov(a: Sequence[BlockSpec], b: Sequence[BlockSpec], line_a: Float64s, line_b: Float64s) -> Float64s:
    shape_a, shape_b = _shape(a), _shape(b)
    apart = (shape_a**2).sum(1)[:, None] + (shape_b**2).sum(1)[None, :] - 2.0 * shape_a @ shape_b.T
    near = np.exp(-0.5 * np.maximum(apart, 0.0))
    kinds = {kind: n for n, kind in enumerate(dict.fromkeys(x.kind for x in (*a, *b)))}
    same = np.equal.outer([kinds[x.kind] for x in a], [kinds[y.kind] for y in b])
    cov: Float64s = _OFFSET_SD**2 + _SLOPE_SD**2 * (line_a @ line_b.T)
    cov += same * (_KIND_SD**2 + _SHAPE_SD**2 * near)
    return cov


def _shape(blocks: Sequence[BlockSpec]) -> Float64s:
    """(blocks, 7): shape in units of a correlation length."""
    return (
        np.array(
            [
                [
                    np.log2(b.c_in),
                    np.log2(b.c_out),
                    np.log2(sizes.mean_side(b.size_in)),
                    b.kernel / 2.0,
                    np.log2(b.expand),
                    2.0 * (b.se > 0),
                    2.0 * b.stride,
                ]
                for b in blocks
            ]
        )
        / 1.5
    )
