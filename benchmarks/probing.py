"""How many measurements does a cost model need?

    python -m benchmarks.probing                      # about 6 minutes on 2 idle cores

One pool of random networks of mbv2-cifar is measured; part of it is the test set. The others are given
to each contestant one batch after the other, and its error on the test set is noted:

* ``hwnas``: blocks timed alone as prior, networks chosen where the model is least sure;
* ``random probes``: the same model, networks in random order;
* ``no table``: ridge regression of latency on block counts, from networks alone (no blocks timed);
* ``MACs + bias``: a straight line over MACs.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import bars, save
from benchmarks.pool import Pool, measure
from hwnas.cost.model import TableModel, cost_model
from hwnas.measure.rows import SUFFIX, NetworkRow
from hwnas.measure.sweep import Sweep, SweepOptions, header_for
from hwnas.measure.table import LatencyTable
from hwnas.measure.timing import TimingOptions
from hwnas.measure.writer import TableWriter
from hwnas.nets.count import count
from hwnas.spec import NetworkSpec

STEPS = (0, 3, 5, 8, 12, 16, 24, 32, 48, 64, 96)
TARGET = 2.0  # percent
METHODS = ("hwnas", "random probes", "no table", "MACs + bias")
Array = NDArray[np.float64]


def blocks_table(pool: Pool, folder: Path, preset: str) -> tuple[LatencyTable, float]:
    """Every block of the space timed alone, and how long that took in s."""
    timing = TimingOptions.preset(preset)
    shape, classes = pool.specs[0].input_shape, pool.specs[0].classes
    header = header_for(pool.setting, pool.space.name, shape, classes, timing)
    task = Sweep(TableWriter(folder / f"blocks{SUFFIX}", header), pool.backend, SweepOptions(timing))
    begun = time.perf_counter()
    task.blocks(pool.space.blocks())
    return task.writer.table, time.perf_counter() - begun


def with_networks(table: LatencyTable, pool: Pool, which: list[int]) -> TableModel:
    """The cost model of a table after some networks of the pool were measured."""
    out = LatencyTable(table.header)
    for row in table.rows.values():
        out.add(row)
    for n, i in enumerate(which):
        out.add(
            NetworkRow(
                spec=pool.specs[i], role="calibration", measurement=pool.first[i], campaign=1 + n // 10
            )
        )
    return cost_model(out)


def error(predicted: Array, truth: Array) -> float:
    """Mean absolute error in percent."""
    return 100.0 * float(np.abs(predicted / truth - 1.0).mean())


def learning_curves(table: LatencyTable, pool: Pool, seed: int) -> dict[str, list[float | None]]:
    """Error of each contestant after each number of networks."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(pool.specs)).tolist()
    test, free = order[: len(order) // 3], order[len(order) // 3 :]
    specs = [pool.specs[i] for i in test]
    truth = np.array([(pool.first[i].floor_ms + pool.second[i].floor_ms) / 2 for i in test])
    curves: dict[str, list[float | None]] = {method: [] for method in METHODS}
    chosen: list[int] = []
    for n in STEPS:
        if n > len(free):
            break
        rest = [i for i in free if i not in chosen]
        model = with_networks(table, pool, chosen)
        picked = model.most_uncertain([pool.specs[i] for i in rest], n - len(chosen))
        names = {pool.specs[i].key: i for i in rest}
        chosen += [names[spec.key] for spec in picked]
        curves["hwnas"].append(error(with_networks(table, pool, chosen).predict(specs)[0], truth))
        curves["random probes"].append(error(with_networks(table, pool, free[:n]).predict(specs)[0], truth))
        taught = [pool.specs[i] for i in free[:n]]
        taught_ms = np.array([pool.first[i].floor_ms for i in free[:n]])
        curves["no table"].append(error(_ridge(taught, taught_ms, specs), truth) if n >= 3 else None)
        curves["MACs + bias"].append(error(_line(taught, taught_ms, specs), truth) if n >= 3 else None)
    return curves


def _ridge(taught: list[NetworkSpec], ms: Array, specs: list[NetworkSpec]) -> Array:
    """Relative ridge regression on block counts; its strength by leave-one-out over a grid."""
    keys = sorted({b for spec in taught for b in spec.blocks})
    place = {block: i for i, block in enumerate(keys)}

    def design(rows: list[NetworkSpec]) -> Array:
        out = np.zeros((len(rows), len(keys) + 1))
        out[:, -1] = 1.0
        for row, spec in zip(out, rows):
            for block in spec.blocks:
                # A block that no network taught costs what the average block does.
                if block in place:
                    row[place[block]] += 1.0
                else:
                    row[:-1] += 1.0 / len(keys)
        return out

    x = design(taught) / ms[:, None]
    best, weights = np.inf, np.zeros(x.shape[1])
    for strength in np.logspace(-4, 3, 15):
        inverse = np.linalg.inv(x.T @ x + strength * np.eye(x.shape[1]))
        hat = x @ inverse @ x.T
        residual = (1.0 - hat @ np.ones(len(ms))) / (1.0 - np.diag(hat))
        if (loss := float(np.abs(residual).mean())) < best:
            best, weights = loss, inverse @ x.T @ np.ones(len(ms))
    return design(specs) @ weights


def _line(taught: list[NetworkSpec], ms: Array, specs: list[NetworkSpec]) -> Array:
    def design(rows: list[NetworkSpec]) -> Array:
        return np.column_stack([[count(s).macs / 1e6 for s in rows], np.ones(len(rows))])

    weights = np.linalg.lstsq(design(taught) / ms[:, None], np.ones(len(ms)), rcond=None)[0]
    return design(specs) @ weights


def chart(body: dict[str, Any]) -> str:
    """Error of each contestant after each number of networks."""
    groups = [f"{n} networks" for n in body["networks"]]
    return bars(f"Error on unseen networks of {body['space']}", groups, body["mape_percent"], "%")


def main() -> None:
    """Measure, learn, print when each contestant gets below 2 %."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--space", default="mbv2-cifar")
    parser.add_argument("--backend", default="ort")
    parser.add_argument("--networks", type=int, default=160)
    parser.add_argument("--preset", default="quick")
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--name", default="probing", help="of the result file")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        begun = time.perf_counter()
        pool = measure(args.backend, args.space, args.networks, Path(name), preset=args.preset)
        network_s = (time.perf_counter() - begun) / (2 * args.networks)
        table, blocks_s = blocks_table(pool, Path(name), args.preset)
    runs = [learning_curves(table, pool, seed) for seed in range(args.repeats)]
    curves = {
        method: [
            None if any(r[method][i] is None for r in runs) else float(np.mean([r[method][i] for r in runs]))
            for i in range(len(runs[0][method]))
        ]
        for method in runs[0]
    }
    repeat = [abs(a.floor_ms / b.floor_ms - 1) for a, b in zip(pool.first, pool.second)]
    steps = list(STEPS[: len(curves["hwnas"])])
    reached = {}
    for method, values in curves.items():
        n = next((s for s, v in zip(steps, values) if v is not None and v <= TARGET), None)
        before = blocks_s if method in ("hwnas", "random probes") else 0.0
        reached[method] = {"networks": n, "seconds": None if n is None else before + n * network_s}
    print(f"{len(table)} blocks in {blocks_s:.1f} s; a network in {network_s:.2f} s")
    print(f"two measurements of a network differ by {100 * np.mean(repeat):.2f} %")
    print("networks      " + "".join(f"{n:7d}" for n in steps))
    for method, values in curves.items():
        print(f"{method:14s}" + "".join("      -" if v is None else f"{v:7.2f}" for v in values))
    for method, body in reached.items():
        print(f"{TARGET:g} % error: {method:14s} {body}")
    body = {
        "space": args.space,
        "conditions": pool.setting.describe(),
        "blocks_seconds": blocks_s,
        "network_seconds": network_s,
        "repeat_mape_percent": 100 * float(np.mean(repeat)),
        "networks": steps,
        "mape_percent": curves,
        "to_2_percent": reached,
    }
    print("written to", save(args.name, body, chart(body)))


if __name__ == "__main__":
    main()
