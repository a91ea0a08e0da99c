"""How the time of large jobs grows: proposals of TPE, rows of chains, many networks, a large table.

    python -m benchmarks.scale                    # about three minutes
    python -m benchmarks.scale --tree PATH        # the same figures of another checkout, for comparison
    python -m benchmarks.scale --join             # both into benchmarks/results/scale.json
    python -m benchmarks.scale --jobs 1 2 4 8     # trainings at once, into benchmarks/results/scale-jobs.json

CPU seconds of one process on one thread, which other programs do not change much. Where a part is linear,
its time grows as its sizes do. A process that takes longer than `--most` seconds, preparations included,
or more than 8 GiB of memory is ended and said to have been.

`--jobs`: wall time of a search whose trainings only wait, on 1 to 8 workers of each executor. Efficiency
is the time of one worker over so many times that of several. Besides the processor's time that the driver
needs for a trial, and how that of a whole search, of its resume and of its report grows with its trials.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent.parent
MEMORY_BYTES = 8 << 30
SIZES = {
    "tpe": (40, 80, 160),
    "chains": (1_000, 2_000, 4_000),
    "networks": (250, 500, 1_000),
    "rows": (10_000, 100_000),
}
WHAT = {
    "tpe": "one proposal of strategy tpe after so many trials",
    "chains": "so many chain rows taken into a table",
    "networks": "hwnas predict of so many networks, most blocks of which were never measured",
    "rows": "hwnas predict of one network from a table of so many blocks",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tree", type=Path, default=HERE, help="checkout to run")
    parser.add_argument("--most", type=int, default=300, help="CPU seconds for one part and size")
    parser.add_argument("--most-before", type=int, default=60, help="the same for another checkout")
    parser.add_argument("--join", action="store_true", help="run --tree as `before` and this one as `after`")
    parser.add_argument("--jobs", nargs="+", type=int, help="numbers of trainings at the same time, instead")
    parser.add_argument("--one", nargs=2, metavar=("PART", "SIZE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        part, size = options.one
        print(json.dumps(PARTS[part](int(size))))
        return
    if options.jobs:
        from benchmarks.common import save

        print(save("scale-jobs", at_once(options.jobs)))
        return
    found = {"after": figures(HERE, options.most)}
    if options.tree.resolve() != HERE.resolve():
        found = {"before": figures(options.tree, options.most_before), **found}
    show(found)
    if options.join:
        from benchmarks.common import save

        print(save("scale", {"unit": "s of CPU", "sizes": SIZES, "what": WHAT, **found}))


def figures(tree: Path, most_s: int) -> dict[str, dict[str, float | str]]:
    """Seconds by part and size, or why there are none; after one that failed, larger ones are not tried."""
    out: dict[str, dict[str, float | str]] = {}
    for part, sizes in SIZES.items():
        out[part] = {}
        for size in sizes:
            out[part][str(size)] = found = alone(tree, part, size, most_s)
            print(f"{tree.name} {part} {size}: {found}", file=sys.stderr, flush=True)
            if isinstance(found, str):
                break
    return out


def alone(tree: Path, part: str, size: int, most_s: int) -> float | str:
    """Seconds of a part in a process of its own, that imports from `tree`."""
    with tempfile.TemporaryDirectory() as home:
        environment = {**os.environ, "PYTHONPATH": str(tree), "HWNAS_HOME": home, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(Path(__file__).resolve()), "--one", part, str(size)]

        def limit() -> None:
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
            resource.setrlimit(resource.RLIMIT_CPU, (most_s, most_s + 1))

        done = subprocess.run(
            command, cwd=home, env=environment, capture_output=True, text=True, preexec_fn=limit
        )
    if done.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        return f"more than {most_s} s"
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["ended by the system"]
        return last[0][:120]
    seconds: float = json.loads(done.stdout.splitlines()[-1])
    return seconds


def timed(job: Callable[[], object]) -> float:
    start = time.process_time()
    job()
    return round(time.process_time() - start, 4)


def tpe(trials: int) -> float:
    """One proposal with so many finished trials behind it; mean of three."""
    import numpy as np

    from hwnas import plugins
    from hwnas.estimates import Budget, Estimate
    from hwnas.nets import spaces
    from hwnas.protocols import SearchContext
    from hwnas.records import Evaluation, Notes, Trial

    space = spaces.make("mbv2-cifar")

    def estimate(spec: Any) -> Estimate:
        ms = 0.01 * len(spec.blocks)
        counts: dict[str, Any] = {"macs": 1, "params": 1, "activation_bytes": 1, "weight_bytes": 1}
        return Estimate(latency_ms=ms, low_ms=ms, high_ms=ms, coverage=0.9, **counts)

    context = SearchContext(space, estimate, Budget(latency_ms=0.15), {"samples": 10_000, "startup": 4})
    strategy = plugins.load("strategies", "tpe")(context)
    history: list[Trial] = []
    rng = np.random.default_rng(0)
    first = strategy.propose([], 1, rng)[0]
    names = list(first.notes)
    for index in range(trials):
        spec = space.sample(rng)
        notes: Notes = {name: int(rng.integers(0, 2)) for name in names}
        evaluation = Evaluation(accuracy=float(rng.random()), loss=1.0)
        history.append(
            Trial(
                index=index,
                spec=spec,
                estimate=estimate(spec),
                state="done",
                evaluation=evaluation,
                notes=notes,
            )
        )
    strategy.propose(history[:1], 1, rng)
    return round(timed(lambda: [strategy.propose(history, 1, rng) for _ in range(3)]) / 3, 4)


def chains(number: int) -> float:
    """So many chain rows added."""
    from hwnas.measure.rows import ChainRow
    from hwnas.measure.table import LatencyTable
    from hwnas.records import Measurement

    ms = 0.1
    measured = Measurement(floor_ms=ms, median_ms=ms, p10_ms=ms, p90_ms=ms, p95_ms=ms, p99_ms=ms, samples=10)
    blocks = _blocks(number + 1)
    rows = [ChainRow(blocks=(a, b), measurement=measured) for a, b in itertools.pairwise(blocks)]
    table = LatencyTable(_header())

    def add() -> None:
        for row in rows:
            table.add(row)

    return timed(add)


def many_networks(number: int) -> float:
    """Predict so many random networks of a space of which a tenth of the blocks was measured."""
    import numpy as np

    from hwnas.nets import spaces

    space = spaces.make("mbv2-imagenet", input_shape=(3, 224, 224), classes=1000)
    known = set(space.blocks()[::10]) | set(space.smallest().blocks)
    path = _table(sorted(known))
    rng = np.random.default_rng(0)
    names = []
    for at in range(number):
        file = Path(f"network-{at}.json")
        file.write_text(space.sample(rng).to_json())
        names.append(str(file))
    return _predict(path, names)


def large_table(rows: int) -> float:
    """Predict one network from a table of so many rows."""
    from hwnas.nets import spaces

    smallest = spaces.make("resnet-cifar").smallest()
    path = _table([*smallest.blocks, *_blocks(rows)][:rows])
    Path("network.json").write_text(smallest.to_json())
    return _predict(path, ["network.json"])


PARTS: dict[str, Callable[[int], float]] = {
    "tpe": tpe,
    "chains": chains,
    "networks": many_networks,
    "rows": large_table,
}


def _predict(table: Path, names: list[str]) -> float:
    from hwnas.jobs.predict import PredictOptions, predict

    return timed(lambda: predict(PredictOptions(tuple(names), table=table)))


def _blocks(number: int) -> list[Any]:
    """Different convolutions."""
    from hwnas.spec import BlockSpec

    return [
        BlockSpec(kind="conv", c_in=8 + at % 1_000, c_out=8 + at // 1_000, kernel=3, act="relu", size_in=16)
        for at in range(number)
    ]


def _header() -> Any:
    from hwnas.measure.rows import Header
    from hwnas.records import Setting

    setting = Setting(
        device="somewhere", device_arch="x", backend="ort", backend_version="1", provenance="imported"
    )
    return Header(setting=setting)


def _table(blocks: list[Any]) -> Path:
    """A table of these blocks, with times by their work."""
    from hwnas.measure.rows import BlockRow
    from hwnas.measure.table import LatencyTable
    from hwnas.measure.writer import write

    table = LatencyTable(_header())
    for block in blocks:
        ms = 1e-3 + 1e-7 * block.c_in * block.c_out * block.kernel**2
        table.add(BlockRow(block=block, value_ms=ms, se_ms=0.01 * ms))
    path = Path("table.hwlat.jsonl")
    write(path, table)
    return path.resolve()


def show(found: dict[str, dict[str, dict[str, float | str]]]) -> None:
    for part, sizes in SIZES.items():
        print(WHAT[part])
        for when, parts in found.items():
            line = [f"{size}: {parts[part].get(str(size), 'not tried')}" for size in sizes]
            print(f"  {when:7} " + ", ".join(line))


# Trainings that wait so long, and so many of them; so many that take no time; and one that warms a worker.
WAIT_S, WAITS, EMPTY, WARM_S = 5.0, 16, 100, 1.0
EXECUTORS = ("local", "ray")
TRIALS, REPEATS = (500, 1_000, 2_000), 4  # the least of so many, as other programs lengthen CPU time, too


class Waiting:
    """In the place of an `Evaluator`: a training waits, and writes two small files."""

    def __init__(self, folder: Path, seconds: float) -> None:
        self.folder, self.seconds = folder, seconds

    def portable(self) -> Waiting:
        return self

    def elsewhere(self, folder: Path, moves: object, emit: object) -> Waiting:
        return Waiting(folder, self.seconds)

    def files(self, index: int) -> tuple[Path, Path]:
        weights = self.folder / "weights" / f"trial-{index:04d}.safetensors"
        return weights, weights.with_suffix(".json")

    def finished(self, proposal: Any, index: int) -> Any:
        return self.evaluation(index) if self.files(index)[1].is_file() else None

    def evaluation(self, index: int) -> Any:
        from hwnas.records import Evaluation

        accuracy = 0.5 + (index * 7919 % 1000) / 4000
        weights = str(self.files(index)[0].relative_to(self.folder))
        return Evaluation(accuracy=accuracy, loss=1.0, images=10, wall_s=self.seconds, weights=weights)

    def __call__(self, proposal: Any, index: int) -> Any:
        time.sleep(self.seconds)
        for path in self.files(index):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{index}")
        return self.evaluation(index)


def search_of(folder: Path, trainer: Any, trials: int) -> float:
    """Seconds of a search by blind draws, from the first proposal to the written result."""
    from contextlib import closing

    from hwnas.estimates import Budget, Estimate
    from hwnas.nets import spaces
    from hwnas.protocols import SearchContext
    from hwnas.records import Measurement, Promise, Setting
    from hwnas.runs import RunFolder
    from hwnas.search.driver import search
    from hwnas.search.state import Limits
    from hwnas.search.strategy import made

    space = spaces.make("mbv2-cifar")

    def estimate(spec: Any) -> Estimate:
        ms = 0.01 * len(spec.blocks)
        counts: dict[str, Any] = {"macs": 1, "params": 1, "activation_bytes": 1, "weight_bytes": 1}
        return Estimate(latency_ms=ms, low_ms=ms, high_ms=ms, coverage=0.9, **counts)

    def confirm(spec: Any, weights: Path | None, budget: Budget) -> tuple[Promise, Measurement]:
        ms = estimate(spec).latency_ms
        times: dict[str, Any] = dict.fromkeys(
            ("floor_ms", "median_ms", "p10_ms", "p90_ms", "p95_ms", "p99_ms"), ms
        )
        promise = Promise(
            verdict="kept", budget_ms=1.0, percentile="p50", session_ms=(ms,) * 5, misses=0, confidence=1.0
        )
        return promise, Measurement(**times, samples=10)

    context = SearchContext(space, estimate, Budget(latency_ms=1.0), {"samples": trials})
    setting = Setting(device="fake", backend="fake")
    start = time.perf_counter()
    with closing(RunFolder(folder, "search", {"seed": 0})) as run:
        search(
            made("random", context),
            context,
            evaluate=trainer,
            confirm=confirm,
            run=run,
            setting=setting,
            table_id="t",
            seed=0,
            limits=Limits(trials=trials),
        )
    return time.perf_counter() - start


def at_once(workers: Sequence[int]) -> dict[str, Any]:
    """Efficiency by the number of workers, and the driver's own time by that of trials."""
    body: dict[str, Any] = {
        "wait_s": WAIT_S,
        "trainings": WAITS,
        "executors": {},
    }
    with tempfile.TemporaryDirectory() as name:
        for executor in EXECUTORS:
            rows = {
                str(jobs): spread_over(executor, jobs, Path(name, f"{executor}-{jobs}")) for jobs in workers
            }
            first = rows[str(workers[0])]["wall_s"] * workers[0]
            for jobs, row in rows.items():
                row["efficiency"] = round(first / (int(jobs) * row["wall_s"]), 3)
                print(f"{executor}, {jobs} workers: {row}", file=sys.stderr, flush=True)
            body["executors"][executor] = rows
        body["trials"] = {str(trials): long_search(trials, Path(name, f"long-{trials}")) for trials in TRIALS}
    return body


def spread_over(executor: str, jobs: int, folder: Path) -> dict[str, float]:
    """A search whose trainings wait, after one that warms the workers; and one whose trainings take none."""
    from hwnas import executors
    from hwnas.jobs.search.spread import Spread
    from hwnas.protocols import Needs

    made = executors.made(executor, jobs=jobs, device="fake", emit=lambda kind, fields: None)

    def trained(name: str, seconds: float, trials: int) -> float:
        trainer: Any = Waiting(folder / name, seconds)
        workers = Spread(made, trainer, folder / name, lambda one: (), Needs(), False, lambda kind, _: None)
        return search_of(folder / name, workers, trials)

    try:
        trained("warm", WARM_S, 2 * jobs)  # a worker's first task imports what trains
        wall_s = trained("waits", WAIT_S, WAITS)
        begun = time.process_time()
        trained("empty", 0.0, EMPTY)
        driver_s = time.process_time() - begun
    finally:
        made.close()
    return {"wall_s": round(wall_s, 3), "driver_ms_a_trial": round(1e3 * driver_s / EMPTY, 2)}


def long_search(trials: int, folder: Path) -> dict[str, float]:
    """Processor's seconds of a whole search of so many trials, of its resume, of its report."""
    from hwnas.jobs.report import ReportOptions, report

    def resume() -> None:
        (folder / "result.json").unlink()
        search_of(folder, Waiting(folder, 0.0), trials)

    whole_s = timed(lambda: search_of(folder, Waiting(folder, 0.0), trials))
    row = {
        "ms_a_trial": round(1e3 * whole_s / trials, 3),
        "resume_s": min(timed(resume) for _ in range(REPEATS)),
        "report_s": min(timed(lambda: report(ReportOptions((str(folder),)))) for _ in range(REPEATS)),
        "events_bytes": (folder / "events.jsonl").stat().st_size,
    }
    print(f"{trials} trials: {row}", file=sys.stderr, flush=True)
    return row


if __name__ == "__main__":
    main()
