"""Which statistic of timed sessions repeats on a machine as people have it?

    python -m benchmarks.noise --traces a.npz b.npz calm.npz [--out FILE]
    hwnas doctor --record a.npz                # a trace of your own machine

Plays recorded traces back (`hwnas.measure.trace`) and takes each measurement twice: so many sessions
spread over a span, and the same again in the span after it (or as far from it as the trace allows). A
statistic's repeat error is the mean difference of the two over engines and places in the trace; its bias
is the mean distance from the calm value, the 2 % quantile of all calls of the calmest trace.

Statistics of one engine's sessions, with the sessions of the smallest engine beside them as sentinel:

    hwnas       the table's (`hwnas.measure.aggregate.floor_of`): low quantile of the fastest session, over
                the sentinel's beside them above its best known level
    halves      10 % quantile of a session, mean of the faster half
    medians     median of session medians
    least       shortest call of all
    p0.5, p1, p2    low quantiles of all calls
    by sentinel 2 % quantile of the sessions in which the sentinel was within 1 % of its best here
    referred    each session's 10 % quantile over the sentinel's, mean of the faster half
    slope       the same with a slope of its own for each engine
    known       shortest call, over the sentinel's shortest beside its best known level
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import RESULTS, machine
from hwnas.arrays import Float64s
from hwnas.measure.aggregate import floor_of
from hwnas.measure.levels import BEST_SHARE, PRIOR_SD, SentinelLook, state_sd
from hwnas.measure.memory import MemoryStates
from hwnas.measure.sentinel import MEMORY_PRIOR_SD
from hwnas.measure.session import low
from hwnas.measure.trace import Trace
from hwnas.records import now_utc
from hwnas.store import write_json

# Sessions of so many seconds each, in such a span.
SESSION_S = 0.3
LOOK_EVERY_S = 0.5
# Weights in fp32 of the engines with more than the half megabyte that a core of that machine has to itself.
# Where they are not known (all but ResNet-20 and -56) as many a millisecond as their spaces' members have.
# The largest engine stands for the second sentinel.
CACHE_BYTES, LARGE = 0.52e6, "resnet-large"
SHARE = 0.4  # of the second sentinel's slowdown, by its weights
WEIGHT_BYTES = {"resnet20": 1.09e6, "resnet56": 3.41e6, LARGE: 4.6e6, "mbv2-b": 0.69e6, "mbv2-c": 0.58e6}
PLANS = ((6, 2.0), (6, 10.0), (6, 30.0), (6, 60.0), (12, 60.0))
Sessions = Sequence[Float64s]
Statistic = Callable[[Sessions, Sessions, float], float]


def _low(sessions: Sessions, q: float) -> Float64s:
    return np.array([float(np.quantile(calls, q)) for calls in sessions])


def _faster_half(values: Float64s) -> float:
    return float(np.sort(values)[: (len(values) + 1) // 2].mean())


def _pooled(q: float) -> Statistic:
    return lambda own, guard, best_ms: float(np.quantile(np.concatenate(own), q))


def _by_sentinel(own: Sessions, guard: Sessions, best_ms: float) -> float:
    levels = _low(guard, 0.1)
    calm = [calls for calls, level in zip(own, levels) if level <= 1.01 * levels.min()]
    return float(np.quantile(np.concatenate(calm), 0.02))


def _hwnas(own: Sessions, guard: Sessions, best_ms: float) -> float:
    """As a table has it. The best known level is a low quantile of looks, as `levels` keeps it."""
    return floor_of([low(calls) for calls in own], [low(calls) / best_ms for calls in guard])[0]


def _referred(own: Sessions, guard: Sessions, best_ms: float) -> float:
    levels = _low(guard, 0.1)
    return _faster_half(_low(own, 0.1) / levels * levels.min())


def _slope(own: Sessions, guard: Sessions, best_ms: float) -> float:
    """Ridge towards a slope of one: six sessions alone do not give a slope."""
    levels, values = _low(guard, 0.1), _low(own, 0.1)
    x = levels / levels.min() - 1.0
    y = values / values[int(np.argmin(levels))] - 1.0
    slope = float(np.clip((x @ y + 0.02**2) / (x @ x + 0.02**2), 0.0, 4.0))
    return float(np.quantile(values / (1.0 + slope * x), 0.25))


def _known(own: Sessions, guard: Sessions, best_ms: float) -> float:
    level = min(float(calls.min()) for calls in guard) / best_ms
    return min(float(calls.min()) for calls in own) / max(level, 1.0)


STATISTICS: Mapping[str, Statistic] = {
    "hwnas": _hwnas,
    "halves": lambda own, guard, best_ms: _faster_half(_low(own, 0.1)),
    "medians": lambda own, guard, best_ms: float(np.median(_low(own, 0.5))),
    "least": _pooled(0.0),
    "p0.5": _pooled(0.005),
    "p1": _pooled(0.01),
    "p2": _pooled(0.02),
    "by sentinel": _by_sentinel,
    "referred": _referred,
    "slope": _slope,
    "known": _known,
}


class Windows:
    """A trace by engine, for fast cutting."""

    def __init__(self, trace: Trace) -> None:
        self.seconds = trace.seconds
        self.calls = {name: trace.of(name)[:2] for name in trace.names}
        self.sentinel = min(self.calls, key=lambda name: float(np.median(self.calls[name][1])))

    def looks(self, name: str = "") -> list[float]:
        """Looks at the sentinel, or at another engine, all over the trace."""
        found = self.sessions(0.0, int(self.seconds / LOOK_EVERY_S), self.seconds - 0.1)
        return [low(calls) for calls in found[name or self.sentinel]]

    def best_ms(self) -> float:
        """The sentinel's best level (`measure.levels`)."""
        return float(np.quantile(self.looks(), BEST_SHARE))

    def sessions(self, begin_s: float, sessions: int, span_s: float) -> dict[str, list[Float64s]]:
        """Calls of every engine in sessions spread evenly over a span; not those in which one stood still."""
        starts = np.linspace(begin_s, begin_s + span_s - SESSION_S, sessions)
        found: dict[str, list[Float64s]] = {name: [] for name in self.calls}
        for start in starts:
            cut = {}
            for name, (at_s, wall_ms) in self.calls.items():
                first, last = np.searchsorted(at_s, [start, start + SESSION_S])
                cut[name] = wall_ms[first:last]
            if all(len(calls) for calls in cut.values()):
                for name, calls in cut.items():
                    found[name].append(calls)
        return found


def compare(
    trace: Windows, calm: Mapping[str, float], best_ms: float, plan: tuple[int, float], pairs: int, seed: int
) -> dict[str, dict[str, Any]]:
    """Repeat error and bias in percent of every statistic for one plan on one trace."""
    sessions, span_s = plan
    rng = np.random.default_rng(seed)
    room_s = trace.seconds - 0.1 - span_s
    apart_s = span_s if room_s >= span_s else room_s / 2.0
    errors: dict[str, list[list[float]]] = {name: [] for name in STATISTICS}
    biases: dict[str, list[float]] = {name: [] for name in STATISTICS}
    for begin_s in rng.uniform(0.0, room_s - apart_s, pairs):
        halves = [trace.sessions(at, sessions, span_s) for at in (begin_s, begin_s + apart_s)]
        if not all(half[trace.sentinel] for half in halves):
            continue
        for name, statistic in STATISTICS.items():
            row = []
            for engine in trace.calls:
                first, second = (statistic(half[engine], half[trace.sentinel], best_ms) for half in halves)
                row.append(100.0 * abs(first / second - 1.0))
                biases[name] += [100.0 * (value / calm[engine] - 1.0) for value in (first, second)]
            errors[name].append(row)
    return {
        name: {
            "repeat_percent": float(np.mean(errors[name])),
            "bias_percent": float(np.mean(biases[name])),
            "by_engine_percent": dict(zip(trace.calls, np.mean(errors[name], axis=0).round(3).tolist())),
        }
        for name in STATISTICS
    }


def states_of(traces: Sequence[Windows], best_ms: float, name: str = "", prior_sd: float = PRIOR_SD) -> float:
    """States of the device as the looks of all traces at the sentinel, or at another engine, tell them."""
    looks, past_s = [], 0.0
    for trace in traces:
        looks += [SentinelLook(past_s + LOOK_EVERY_S * i, ms) for i, ms in enumerate(trace.looks(name))]
        past_s += trace.seconds
    return state_sd(looks, best_ms, prior_sd)


def memory_of(traces: Sequence[Windows], calm: Mapping[str, float]) -> MemoryStates:
    """What the largest network of the traces says as the second sentinel (`measure.memory`)."""
    sd = states_of(traces, calm[LARGE], LARGE, SHARE * MEMORY_PRIOR_SD)
    return MemoryStates(sd, calm[LARGE], WEIGHT_BYTES[LARGE], CACHE_BYTES)


def coverage(traces: Mapping[str, Windows], best_ms: float, pairs: int, seed: int) -> dict[str, Any]:
    """How many measurements at another time lie in the interval of the first, and how wide that is.

    Both are twelve sessions over 60 s, of any trace at any place. The interval is that of a table: the
    standard error, and the states of the device as the looks of all traces at the two sentinels tell them.
    """
    rng, names = np.random.default_rng(seed), sorted(traces)
    calm = calm_values(list(traces.values()))
    spread, memory = states_of(list(traces.values()), best_ms), memory_of(list(traces.values()), calm)
    of_weights = {
        name: float(memory.of(np.array([WEIGHT_BYTES.get(name, 0.0)]), np.array([calm[name]]))[0])
        for name in calm
    }
    inside: dict[str, list[bool]] = {name: [] for name in next(iter(traces.values())).calls}
    halves: list[float] = []
    for _ in range(pairs):
        both = []
        for name in rng.choice(names, 2):
            trace = traces[name]
            both.append((trace, trace.sessions(rng.uniform(0.0, trace.seconds - 60.2), 12, 60.0)))
        for engine, found in inside.items():
            (first, se), (later, _) = (
                floor_of([low(c) for c in cut[engine]], [low(c) / best_ms for c in cut[trace.sentinel]])
                for trace, cut in both
            )
            half = 1.96 * float(np.linalg.norm([se / first, spread, of_weights[engine]]))
            halves.append(100.0 * half)
            found.append(abs(np.log(later / first)) <= half)
    return {
        "pairs": pairs,
        "states_percent": 100.0 * spread,
        "memory": memory.to_json(),
        "half_width_percent": float(np.mean(halves)),
        "coverage_percent": 100.0 * float(np.mean([*inside.values()])),
        "by_engine_percent": {name: 100.0 * float(np.mean(found)) for name, found in inside.items()},
    }


def calm_values(traces: Sequence[Windows]) -> dict[str, float]:
    """What each engine takes in the calmest trace: the 2 % quantile of its calls."""
    low = [{name: float(np.quantile(calls[1], 0.02)) for name, calls in t.calls.items()} for t in traces]
    return min(low, key=lambda values: sum(np.log(value) for value in values.values()))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--traces", nargs="+", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=60, help="measurements taken twice, a plan and a trace")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS / "noise.json")
    args = parser.parse_args()
    recorded = {path.stem: Trace.load(path) for path in args.traces}
    traces = {name: Windows(trace) for name, trace in recorded.items()}
    calm = calm_values(list(traces.values()))
    best_ms = min(trace.best_ms() for trace in traces.values())
    rows = []
    for plan in PLANS:
        print(f"{plan[0]} sessions of {SESSION_S} s over {plan[1]:g} s: repeat error (bias), percent")
        found = {
            name: compare(trace, calm, best_ms, plan, args.pairs, args.seed) for name, trace in traces.items()
        }
        for statistic in STATISTICS:
            cells = [found[name][statistic] for name in traces]
            text = "  ".join(f"{c['repeat_percent']:6.2f} ({c['bias_percent']:+5.1f})" for c in cells)
            print(f"  {statistic:12s} {text}", flush=True)
            for name, cell in zip(traces, cells):
                rows.append(
                    {"trace": name, "sessions": plan[0], "span_s": plan[1], "statistic": statistic, **cell}
                )
    later = coverage(traces, best_ms, args.pairs, args.seed)
    print(f"intervals that hold later: {later}")
    body = {
        "benchmark": "noise",
        "command": f"python -m benchmarks.noise --traces {' '.join(path.name for path in args.traces)}",
        "taken_at": now_utc(),
        "machine": machine(),
        "pairs": args.pairs,
        "session_s": SESSION_S,
        "conditions": {name: trace.conditions for name, trace in recorded.items()},
        "calm_ms": calm,
        "intervals": later,
        "rows": rows,
    }
    write_json(args.out, json.loads(json.dumps(body)))
    print(f"written: {args.out}")


if __name__ == "__main__":
    main()
