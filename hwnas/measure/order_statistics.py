"""Order statistics behind the promise: how many hits decide, and what single calls add."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from math import comb, exp, lgamma, log
from typing import Literal

Verdict = Literal["kept", "broken", "ambiguous"]


def confidence(sessions: int, misses: int) -> float:
    """Confidence of a plan fixed in advance: accept when at most `misses` of `sessions` miss.

    >>> confidence(5, 0), round(confidence(8, 1), 4)
    (0.96875, 0.9648)
    """
    return 1.0 - float(sum(comb(sessions, i) for i in range(misses + 1))) * 0.5**sessions


@cache
def stages(alpha: float, misses: int) -> tuple[tuple[int, float], ...]:
    """Sessions needed with 0, 1, ... misses so that the error of all stages together is <= alpha.

    Returns:
        For each number of misses: (sessions, probability to have accepted by then if a session
        hits with probability 1/2).
    """
    rows: list[tuple[int, float]] = []
    ways = {0: 1}  # misses so far -> sequences of the sessions so far that were not accepted
    spent, sessions = 0.0, 0
    while len(rows) <= misses:
        sessions += 1
        ways = {m: ways.get(m, 0) + ways.get(m - 1, 0) for m in range(max(ways) + 2)}
        gain = ways.get(len(rows), 0) * 0.5**sessions
        if sessions > len(rows) and spent + gain <= alpha:
            ways[len(rows)] = 0
            spent += gain
            rows.append((sessions, spent))
    return tuple(rows)


def decide(hits: Sequence[bool], plan: Sequence[tuple[int, float]]) -> Verdict | None:
    """Verdict after these sessions in time order; None while more could still decide it."""
    n, missed = len(hits), len(hits) - sum(hits)
    for allowed, (needed, _) in enumerate(plan):
        if n >= needed and hits[:needed].count(False) <= allowed:
            return "kept"
        if n >= needed and hits[:needed].count(True) <= allowed:
            return "broken"
    last = len(plan) - 1
    return "ambiguous" if min(missed, n - missed) > last or n >= plan[last][0] else None


def tail(over: int, calls: int, share: float) -> tuple[float, float]:
    """Binomial evidence of single calls about a percentile.

    Args:
        over: calls beyond the budget.
        calls: all calls.
        share: the percentile as a fraction, 0.95 for p95.

    Returns:
        (probability of so few excesses or fewer, of so many or more) if exactly ``1 - share`` of
        all calls were beyond the budget: small values refute "more than that" and "less".
    """
    below = sum(_binomial(i, calls, 1.0 - share) for i in range(over + 1))
    above = 1.0 - below + _binomial(over, calls, 1.0 - share)
    return min(1.0, below), max(0.0, min(1.0, above))


def _binomial(k: int, n: int, p: float) -> float:
    ways = lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)
    return exp(ways + k * log(p) + (n - k) * log(1.0 - p))
