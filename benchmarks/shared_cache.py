"""How much slower are networks beside a process that streams memory, by their weights?

    python -m benchmarks.shared_cache                 # three minutes on two idle cores
    python -m benchmarks.shared_cache --turns 1 --seconds 5 --out NAME
    python -m benchmarks.shared_cache --watch 600 --out NAME    # what others do here, without a neighbour

Engines stay loaded and are called in turns of twenty (`benchmarks.clock`: 2 % quantile of calls), alternately
on the machine as found, beside a process on another core that adds one to an array of 64 MiB over and over,
and beside one that computes without memory. What neighbours do to a network in percent stands beside what
`hwnas.measure.memory` derives from how much slower the second sentinel is. With ``--watch`` the engines are
called in turns for so many seconds, and the shortest call of each in ten seconds stands over its best.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from benchmarks.clock import WARM_UP, loaded, low_ms
from benchmarks.common import machine, save
from hwnas.measure.device import conditions
from hwnas.measure.memory import MemoryStates
from hwnas.measure.sentinel import BLOCK, DEPTH, IN_MEMORY, IN_MEMORY_DEPTH
from hwnas.nets import onnx
from hwnas.nets.count import count, count_block
from hwnas.nets.spaces import make
from hwnas.protocols import Engine

SECOND = "second sentinel"
WINDOW_S, CALLS = 10.0, 4
CODE = {
    "streams": "import numpy as np; m = np.zeros(1 << 23)\nwhile True: m += 1.0",
    "computes": "while True: sum(i * i for i in range(20_000))",
}
MEMBERS = {"resnet-cifar": (0, 2, 8, -1), "resnet-cifar-wide": (4, 8), "mbv2-cifar": (0, 2, 4, 6)}


@contextmanager
def neighbour(kind: str | None, core: int) -> Iterator[None]:
    """A busy process on a core for the time of the block; none of no kind."""
    if kind is None:
        yield
        return
    code = f"import os; os.sched_setaffinity(0, {{{core}}})\n{CODE[kind]}"
    process = subprocess.Popen([sys.executable, "-c", code])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def main() -> None:
    """Time, compare, write."""
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    parser.add_argument("--turns", type=int, default=3, help="of the three conditions")
    parser.add_argument("--seconds", type=float, default=15.0, help="of all engines in one condition")
    parser.add_argument("--watch", type=float, default=None, metavar="SECONDS", help="no neighbour")
    parser.add_argument("--out", default="shared-cache", help="name of the result file")
    args = parser.parse_args()
    backend, setting = conditions("cpu", "ort")
    models = {
        "sentinel": onnx.chain([BLOCK] * DEPTH, seed=0),
        SECOND: onnx.chain([IN_MEMORY] * IN_MEMORY_DEPTH, seed=0),
    }
    weights = {
        "sentinel": DEPTH * count_block(BLOCK).weight_bytes,
        SECOND: IN_MEMORY_DEPTH * count_block(IN_MEMORY).weight_bytes,
    }
    for space, places in MEMBERS.items():
        uniform = make(space).uniform()
        for spec in (uniform[place] for place in places if -1 <= place < len(uniform)):
            name = f"{space} {spec.depths_text}"
            models[name] = onnx.network(spec, seed=0)
            weights[name] = count(spec).weight_bytes
    if args.watch is not None:
        with loaded(backend, setting, models) as engines:
            rows = watched(engines, weights, args.watch)
        body = {"conditions": setting.describe(), "seconds": args.watch, "window_s": WINDOW_S, "rows": rows}
        print("written to", save(args.out, body))
        return
    mine, other = sorted(os.sched_getaffinity(0))[:2]
    os.sched_setaffinity(0, {mine})
    found: dict[str, dict[str, list[float]]] = {name: {} for name in models}
    with loaded(backend, setting, models) as engines:
        for turn in range(args.turns):
            for kind in (None, *CODE):
                with neighbour(kind, other):
                    times = low_ms(engines, args.seconds, seed=turn)
                for name, ms in times.items():
                    found[name].setdefault(kind or "as found", []).append(ms)
    rows = [_row(name, weights[name], found[name]) for name in models]
    own = float(machine()["caches_bytes"].get("L2", 0))
    known = MemoryStates(rows[1]["streams_percent"] / 100, rows[1]["ms"], weights[SECOND], own)
    for row in rows:
        share = known.of(np.array([row["weight_bytes"]], float), np.array([row["ms"]]))
        row["derived_percent"] = 100 * float(share[0])
        print(
            f"{row['network']:32s} {row['weight_bytes'] / 1e6:6.2f} MB {row['ms']:7.3f} ms  beside streaming "
            f"{row['streams_percent']:5.1f} % (derived {row['derived_percent']:5.1f} %), beside computing "
            f"{row['computes_percent']:4.1f} %"
        )
    body = {"conditions": setting.describe(), "turns": args.turns, "seconds": args.seconds, "rows": rows}
    print("written to", save(args.out, body))


def watched(
    engines: Mapping[str, Engine], weights: Mapping[str, int], seconds: float
) -> list[dict[str, Any]]:
    """The shortest call of each engine in every window, over its best of all, in percent."""
    rng, names = np.random.default_rng(0), list(engines)
    for engine in engines.values():
        engine.time(WARM_UP)
    windows = max(int(seconds // WINDOW_S), 1)
    least = {name: np.full(windows, np.inf) for name in names}
    begun = time.monotonic()
    while (at := int((time.monotonic() - begun) // WINDOW_S)) < windows:
        for place in rng.permutation(len(names)):
            found = float(engines[names[place]].time(CALLS).wall_ms.min())
            least[names[place]][at] = min(least[names[place]][at], found)
    rows = []
    for name in names:
        over = 100 * np.log(least[name] / least[name].min())
        rows.append(
            {
                "network": name,
                "weight_bytes": weights[name],
                "ms": float(least[name].min()),
                "rms_percent": float(np.sqrt(np.mean(over**2))),
                "over_best_percent": over.round(2).tolist(),
            }
        )
        print(f"{name:32s} {weights[name] / 1e6:6.2f} MB  {rows[-1]['rms_percent']:5.2f} %  {over.round(1)}")
    return rows


def _row(name: str, weight_bytes: int, mine: dict[str, list[float]]) -> dict[str, Any]:
    ms = min(mine["as found"])
    return {
        "network": name,
        "weight_bytes": weight_bytes,
        "ms": ms,
        **{f"{kind}_percent": 100 * float(np.log(np.mean(mine[kind]) / ms)) for kind in CODE},
        "times_ms": mine,
    }


if __name__ == "__main__":
    main()
