"""How far off are latency predictors on networks that nobody measured before?

    python -m benchmarks.predictors                 # all cases, about 20 minutes on 2 idle cores
    python -m benchmarks.predictors --busy          # beside planted spells
    python -m benchmarks.predictors --cases ort:resnet-cifar --networks 20 --clock 60 --out FILE
    python -m benchmarks.predictors --cases ort/int8:mbv2-cifar openvino/bf16:resnet-cifar

Each case is one profile (its time is part of the result). Then fresh random networks are timed by a clock
of the benchmark's own (`benchmarks.clock`: 2 % quantile of calls over a minute, sessions in turn), twice,
with engines that are built anew: the truth is the mean of the two minutes, and what they differ by is printed
as ``repeat``. With ``--busy`` a neighbour comes and goes while the profile runs (`benchmarks.busy`), and the
clock runs when it has ended. A table holds floors and the clock takes a low quantile; the factor that all
networks have in common is printed apart (``factor``), with hwnas's error once it is removed. Contestants:

* ``isolated sum``: blocks timed alone and added up (DenseNAS, Once-for-All, ProxylessNAS);
* ``FLOPs, 3 anchors``: linear in MACs between the smallest, a middle and the largest network
  (what NVIDIA Model Optimizer's latency constraint does);
* ``affine table``: the isolated sum, scale and offset fitted on the same three networks;
* ``in-context chains`` (with ``--chains``): differences of chains, one scale fitted on ten networks;
* ``hwnas``: the posterior of this project (it learns from the three anchors too).

A run that was interrupted continues where it was:
`--work` keeps tables and times. A repeated run scores them anew.
"""

from __future__ import annotations

import argparse
import time
from contextlib import nullcontext
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.busy import neighbour
from benchmarks.chains import in_context
from benchmarks.clock import loaded, low_ms
from benchmarks.common import bars, save
from hwnas.cost.model import cost_model
from hwnas.cost.score import figures
from hwnas.documents import read_json
from hwnas.jobs.profile import ProfileOptions, profile
from hwnas.jobs.profile.plan import anchors
from hwnas.measure import device as devices
from hwnas.measure import table as tables
from hwnas.measure.candidates import precision_of
from hwnas.measure.rows import SUFFIX
from hwnas.measure.sweep import Sweep, SweepOptions
from hwnas.measure.table import LatencyTable
from hwnas.measure.timing import TimingOptions
from hwnas.measure.writer import TableWriter
from hwnas.nets import onnx, spaces
from hwnas.nets.count import count
from hwnas.protocols import SearchSpace
from hwnas.records import Precision
from hwnas.spec import NetworkSpec
from hwnas.store import write_json

CASES = (
    "ort:resnet-cifar",
    "ort:resnet-cifar-wide",
    "ort:mbv2-cifar",
    "ort:mbv2-imagenet",
    "openvino:resnet-cifar",
    "openvino:resnet-cifar-wide",
    "openvino:mbv2-cifar",
)
Array = NDArray[np.float64]
METHODS = ("isolated sum", "FLOPs, 3 anchors", "affine table", "in-context chains", "hwnas")


def run_case(case: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Profile, and score every contestant on networks that only the clock has seen."""
    runtime, _, name = case.partition(":")
    backend_name, _, given = runtime.partition("/")
    precision = precision_of(given or "fp32")
    folder: Path = args.work
    state = "busy" if args.busy else "calm"
    out = folder / f"{runtime.replace('/', '-')}-{name}-{args.preset}-{state}-{seed}{SUFFIX}"
    done = out.with_suffix(".json")
    if not done.exists():
        begun = time.perf_counter()
        with neighbour(seed) if args.busy else nullcontext():
            made = profile(
                ProfileOptions(
                    device="cpu",
                    backend=backend_name,
                    precision=precision,
                    space=name,
                    preset=args.preset,
                    seed=seed,
                    out=out,
                )
            )
        keep = ("measurements", "rows", "probes", "gates")
        profiled = {key: made[key] for key in keep} | {"profile_s": time.perf_counter() - begun}
        write_json(done, profiled)
    profiled = read_json(done, "profile of a case")
    table, space = tables.load(out), spaces.make(name)
    seen = {net.spec.key for net in table.networks}
    rng = np.random.default_rng([seed, 60])
    drawn: dict[str, NetworkSpec] = {}
    while len(drawn) < args.networks:
        spec = space.sample(rng)
        if spec.key not in seen:
            drawn[spec.key] = spec
    fresh = list(drawn.values())
    timed = out.with_suffix(f".clock-{args.networks}-{args.clock:g}.json")
    if not timed.exists():
        backend, setting = devices.backend_of(table.setting), table.setting  # in its form of int8
        models = {spec.key: onnx.network(spec, seed=0) for spec in fresh}
        minutes = []
        for minute in range(2):  # built anew: two builds of a network differ by more than two minutes of one
            with loaded(backend, setting, models) as engines:
                minutes.append(low_ms(engines, args.clock, seed=minute))
        write_json(timed, {"minutes": minutes})
    first, second = (
        np.array([minute[spec.key] for spec in fresh])
        for minute in read_json(timed, "times of a case")["minutes"]
    )
    truth = (first + second) / 2
    predicted = _predictions(table, space, fresh)
    if args.chains:
        predicted["in-context chains"] = _chained(backend_name, precision, space, table, fresh, folder, seed)
    factor = float(np.median(truth / predicted["hwnas"]))
    low, high = cost_model(table).bounds(fresh)
    return {
        "case": case,
        "conditions": table.setting.describe(),
        "table_id": table.table_id,
        "repeat_mape_percent": 100 * float(np.abs(first / second - 1).mean()),
        "methods": {m: figures(predicted[m], truth) for m in METHODS if m in predicted},
        "factor": factor,
        "mape_of_factor_percent": 100 * float(np.abs(factor * predicted["hwnas"] / truth - 1).mean()),
        "coverage_percent": 100 * float(((low <= truth) & (truth <= high)).mean()),
        "interval_percent": 100 * float((high / predicted["hwnas"] - 1).mean()),
        "profile": {
            "preset": args.preset,
            "seconds": profiled["profile_s"],
            "measurements": profiled["measurements"],
            "rows": profiled["rows"],
            "networks": profiled["probes"],
            "gates": profiled["gates"],
        },
        "networks": [
            {"key": s.key, "first_ms": first[i], "second_ms": second[i]}
            | {method: float(values[i]) for method, values in predicted.items()}
            for i, s in enumerate(fresh)
        ],
    }


def _chained(
    backend_name: str,
    precision: Precision,
    space: SearchSpace,
    table: LatencyTable,
    fresh: list[NetworkSpec],
    folder: Path,
    seed: int,
) -> Array:
    """Sums of in-context costs, scaled by the median of ten calibration networks."""
    backend, _ = devices.conditions("cpu", backend_name, precision=precision)
    writer = TableWriter(folder / f"chains{SUFFIX}", table.header)
    for row in table.rows.values():
        writer.append(row)
    task = Sweep(writer, backend, SweepOptions(TimingOptions.preset("default"), seed=seed))
    cost = in_context(task, space)
    taught = [net for net in table.networks if net.role == "calibration"][:10]
    ratios = [net.measurement.floor_ms / sum(cost[b] for b in net.spec.blocks) for net in taught]
    return float(np.median(ratios)) * np.array([sum(cost[b] for b in s.blocks) for s in fresh])


def _predictions(table: LatencyTable, space: SearchSpace, fresh: list[NetworkSpec]) -> dict[str, Array]:
    def isolated(specs: list[NetworkSpec]) -> Array:
        return np.array([sum(table[b].value_ms for b in s.blocks) for s in specs])

    def macs(specs: list[NetworkSpec]) -> Array:
        return np.array([float(count(s).macs) for s in specs])

    times = {net.spec.key: net.measurement.floor_ms for net in table.networks}
    ends = anchors(space)
    ends_ms = np.array([times[spec.key] for spec in ends])
    # Relative least squares, as everywhere: the smallest anchor must not be drowned by the largest.
    design = np.column_stack([isolated(ends), np.ones(len(ends))]) / ends_ms[:, None]
    scale, offset = np.linalg.lstsq(design, np.ones(len(ends)), rcond=None)[0]
    return {
        "isolated sum": isolated(fresh),
        "FLOPs, 3 anchors": np.interp(macs(fresh), macs(ends), ends_ms),
        "affine table": scale * isolated(fresh) + offset,
        "hwnas": cost_model(table).predict(fresh)[0],
    }


def main() -> None:
    """Run the cases, print a table, write JSON and chart."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", nargs="+", default=list(CASES), metavar="BACKEND[/PRECISION]:SPACE")
    parser.add_argument("--networks", type=int, default=40)
    parser.add_argument("--preset", default="default")
    parser.add_argument("--seeds", type=int, default=1, help="profiles of each case")
    parser.add_argument("--clock", type=float, default=60.0, help="seconds over which all networks are timed")
    parser.add_argument("--busy", action="store_true", help="profile beside planted spells")
    parser.add_argument("--chains", action="store_true", help="measure chains too (doubles the time)")
    parser.add_argument("--work", type=Path, default=Path("runs/bench-predictors"), help="keeps the tables")
    parser.add_argument("--out", default=None, help="name of the result files; predictors, predictors-busy")
    args = parser.parse_args()
    results = []
    args.work.mkdir(parents=True, exist_ok=True)
    for case, seed in product(args.cases, range(args.seeds)):
        found = run_case(case, seed, args)
        results.append(found)
        ours = found["methods"]["hwnas"]
        print(  # flushed: cases take minutes
            f"{case:28s} profile {found['profile']['seconds']:5.0f} s, repeat "
            f"{found['repeat_mape_percent']:.2f} %, factor {found['factor']:.4f}, then off by "
            f"{found['mape_of_factor_percent']:.2f} %, coverage {found['coverage_percent']:.0f} %, "
            f"within 5 %: {ours['within_5_percent']:.0f} %, tau {ours['kendall_tau']:.3f}",
            flush=True,
        )
        for method, f in found["methods"].items():
            print(f"    {method:18s} {f['mape_percent']:6.2f} %  bias {f['bias_percent']:+6.2f} %")
    series = {
        m: [r["methods"][m]["mape_percent"] if m in r["methods"] else None for r in results]
        for m in METHODS
        if any(m in r["methods"] for r in results)
    }
    chart = bars(
        f"Mean absolute error on {args.networks} unseen networks", [r["case"] for r in results], series, "%"
    )
    name = args.out or ("predictors-busy" if args.busy else "predictors")
    body = {"networks": args.networks, "clock_s": args.clock, "busy": args.busy, "results": results}
    print("written to", save(name, body, chart))


if __name__ == "__main__":
    main()
