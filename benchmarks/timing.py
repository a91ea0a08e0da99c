"""Which statistic of timed calls can be repeated on a busy machine?

    python -m benchmarks.timing            # about 3 minutes on 2 cores

Times the same engines while other processes load the machine and while they do not, in random
order, and asks of each statistic how far a measurement of 3 or 5 sessions is from its own value on
the machine as found. The rivals are what common tools report: the mean (Polygraphy), the median
(benchmark_app, trtexec), the minimum (timeit) of wall time, the floor of CPU time per call.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from hwnas.backends.base import cores
from hwnas.jobs.resolve.networks import examples
from hwnas.measure import device
from hwnas.measure.aggregate import floor_of
from hwnas.measure.host import others_load
from hwnas.measure.session import Gates, SessionOptions, run_session
from hwnas.nets import onnx
from hwnas.spec import BlockSpec
from hwnas.store import read_network, write_json

RESULT = Path(__file__).parent / "results" / "timing.json"
NETWORKS = ("resnet20", "resnet56", "stagewise-it1", "stagewise-it3", "stagewise-it5")
CHAINS = ((16, 32, 1), (32, 16, 2), (64, 8, 2), (64, 32, 3), (64, 56, 6))  # width, size, depth


def _spin(stop: Any) -> None:
    while not stop.is_set():
        sum(range(100_000))


def _stream(stop: Any) -> None:
    buffer = np.zeros(8 << 20)
    while not stop.is_set():
        buffer += 1.0


LOADS: dict[str, tuple[Callable[[Any], None], ...]] = {
    "as found": (),
    "one busy process per core": (_spin,),
    "two per core, half of them streaming memory": (_spin, _stream),
}


@contextmanager
def load(kinds: Sequence[Callable[[Any], None]]) -> Iterator[None]:
    """Keep every core busy with processes of these kinds."""
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    workers = [context.Process(target=kind, args=(stop,)) for kind in kinds for _ in cores()]
    for worker in workers:
        worker.start()
    try:
        time.sleep(1.5 if workers else 0.0)  # until they are up
        yield
    finally:
        stop.set()
        for worker in workers:
            worker.join()


def graphs() -> dict[str, bytes]:
    """ONNX models of 0.05 to 20 ms on one present-day core."""
    models = {name: onnx.network(read_network(examples()[name])) for name in NETWORKS}
    for width, size, depth in CHAINS:
        block = BlockSpec(kind="basic", c_in=width, c_out=width, size_in=size)
        models[f"{depth} x {block.key}"] = onnx.chain([block] * depth)
    return models


class Raw:
    """What one session gave, before any statistic."""

    def __init__(self, wall_ms: Any, cpu_ms: float, floor_ms: float, gates: tuple[str, ...]) -> None:
        self.wall_ms, self.cpu_ms, self.floor_ms, self.gates = wall_ms, cpu_ms, floor_ms, gates


def collect(rounds: int, session_ms: float) -> tuple[dict[str, dict[str, list[Raw]]], dict[str, float]]:
    """Sessions by load and graph, loads taken in turn; and how many cores were in use besides ours."""
    rng = np.random.default_rng(0)
    backend, setting = device.conditions("cpu")
    models = graphs()
    found: dict[str, dict[str, list[Raw]]] = {name: {g: [] for g in models} for name in LOADS}
    busy: dict[str, list[float]] = {name: [] for name in LOADS}
    for _ in range(rounds):
        for at in rng.permutation(len(LOADS)):
            name = list(LOADS)[at]
            with load(LOADS[name]):
                others = others_load()
                for graph in rng.permutation(list(models)):
                    engine = backend.build(models[graph], setting)
                    s = run_session(engine, SessionOptions(session_ms), Gates())
                    engine.close()
                    cpu_ms = float(s.wall_ms.mean()) / (s.wall_cpu_ratio or 1.0)
                    found[name][graph].append(Raw(s.wall_ms, cpu_ms, s.floor_ms, s.gates))
                busy[name].append(others() or 0.0)
    return found, {name: float(np.mean(values)) for name, values in busy.items()}


STATISTICS: dict[str, Callable[[Sequence[Raw]], float]] = {
    "mean of calls": lambda raw: float(np.concatenate([r.wall_ms for r in raw]).mean()),
    "median of calls": lambda raw: float(np.median(np.concatenate([r.wall_ms for r in raw]))),
    "median of session medians": lambda raw: float(np.median([np.median(r.wall_ms) for r in raw])),
    "minimum of calls": lambda raw: float(min(r.wall_ms.min() for r in raw)),
    "minimum of session medians": lambda raw: float(min(np.median(r.wall_ms) for r in raw)),
    "floor of CPU time": lambda raw: min(r.cpu_ms for r in raw),
    "hwnas floor": lambda raw: floor_of([r.floor_ms for r in raw])[0],
}


def errors(found: dict[str, dict[str, list[Raw]]], sessions: int) -> list[dict[str, Any]]:
    """Each statistic of `sessions` sessions against its own value over all sessions as found."""
    rng = np.random.default_rng(1)
    rows = []
    for statistic, value in STATISTICS.items():
        for name, by_graph in found.items():
            off: list[float] = []
            for graph, raw in by_graph.items():
                own = [value(_draw(rng, found["as found"][graph], sessions)) for _ in range(100)]
                drawn = [value(_draw(rng, raw, sessions)) for _ in range(100)]
                off += [d / float(np.median(own)) - 1.0 for d in drawn]
            rows.append(
                {
                    "statistic": statistic,
                    "load": name,
                    "sessions": sessions,
                    "shift_percent": 100.0 * float(np.median(off)),
                    "mean_error_percent": 100.0 * float(np.mean(np.abs(off))),
                    "p95_error_percent": 100.0 * float(np.percentile(np.abs(off), 95)),
                }
            )
    return rows


def _draw(rng: np.random.Generator, raw: list[Raw], n: int) -> list[Raw]:
    return [raw[i] for i in rng.choice(len(raw), n, replace=False)]


def main() -> None:
    """Measure, print a table, write the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--session-ms", type=float, default=40.0)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    begun = time.perf_counter()
    found, busy = collect(options.rounds, options.session_ms)
    rows = [row for n in (3, 5) for row in errors(found, n)]
    contended = {
        name: float(np.mean(["contention" in r.gates for raw in by_graph.values() for r in raw]))
        for name, by_graph in found.items()
    }
    body = {
        "schema": "hwnas.benchmark.timing/1",
        "command": f"python -m benchmarks.timing --rounds {options.rounds} "
        f"--session-ms {options.session_ms:g}",
        "machine": json.loads(device.detect().model_dump_json()),
        "setting": json.loads(device.conditions("cpu")[1].model_dump_json()),
        "seconds": round(time.perf_counter() - begun, 1),
        "cores_used_by_others": busy,
        "share_of_sessions_contended": contended,
        "rows": rows,
    }
    write_json(options.out, body)
    for n in (3, 5):
        print(f"\n{n} sessions: mean (95th percentile) of the error in percent")
        for statistic in STATISTICS:
            line = [r for r in rows if r["statistic"] == statistic and r["sessions"] == n]
            cells = (f"{r['mean_error_percent']:7.2f} ({r['p95_error_percent']:.2f})" for r in line)
            print(f"{statistic:28s}", *cells)
    print(f"\ncores used by others: {busy}\nsessions contended: {contended}\nwritten to {options.out}")


if __name__ == "__main__":
    main()
