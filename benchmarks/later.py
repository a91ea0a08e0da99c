"""Do intervals hold for measurements of minutes and hours later, in other processes?

    python -m benchmarks.later --profile --space mbv2-cifar --work PATH     # the table, and a first look
    python -m benchmarks.later --space mbv2-cifar --work PATH               # one more look, at any time
    python -m benchmarks.later --work PATH --out NAME                       # the result of all looks

A look draws networks that no look before it has had, prices them by the table as it is, and measures each
as a profile does (`hwnas.measure.sweep`), in a process of its own. Intervals are of the median call in the
undisturbed state: the measured floor, referred to the table's state by the sentinel, times how far medians
lie above floors there. What counts is how many of these lie in their intervals, by the time that has passed
since the profile; medians as found are listed beside them. The device's history of states is the one in
``HWNAS_HOME``, as for a user.
"""

from __future__ import annotations

import argparse
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.common import bars, machine, save
from benchmarks.pool import draw
from hwnas.cost.model import cost_model
from hwnas.documents import read_json
from hwnas.jobs.profile import ProfileOptions, profile
from hwnas.measure import table as tables
from hwnas.measure.rows import SUFFIX
from hwnas.measure.sweep import Sweep, SweepOptions, header_for
from hwnas.measure.timing import TimingOptions
from hwnas.measure.writer import TableWriter
from hwnas.records import now_utc
from hwnas.store import write_json


def look(table: Path, space: str, networks: int, preset: str, number: int) -> dict[str, Any]:
    """Price and measure networks that are new."""
    pool = draw("ort", space, networks, seed=1000 + number)
    found = tables.load(table)
    model = cost_model(found)
    estimates = [model.estimate(spec) for spec in pool.specs]
    timing, member = TimingOptions.preset(preset), pool.space.smallest()
    header = header_for(pool.setting, pool.space.name, member.input_shape, member.classes, timing)
    taken_at = now_utc()
    with TemporaryDirectory() as folder:
        writer = TableWriter(Path(folder) / f"look{SUFFIX}", header)
        times = Sweep(writer, pool.backend, SweepOptions(timing, seed=number)).again(pool.specs)
    # As two tables are: to the state that the first one is referred to.
    base_ms = found.sentinel_ms
    rows = [
        {
            "network": spec.key,
            "predicted_ms": estimate.latency_ms,
            "low_ms": estimate.low_ms,
            "high_ms": estimate.high_ms,
            "undisturbed_ms": times[spec.key].floor_ms
            * model.median_over_floor
            * (base_ms or 1.0)
            / (times[spec.key].sentinel_ms or base_ms or 1.0),
            "sentinel_ms": times[spec.key].sentinel_ms,
            "sentinel_of_table_ms": base_ms,
            "median_ms": times[spec.key].median_ms,
        }
        for spec, estimate in zip(pool.specs, estimates)
    ]
    return {"space": space, "taken_at": taken_at, "machine": machine(), "rows": rows}


def summary(profiled_at: str, one: dict[str, Any]) -> dict[str, Any]:
    """Coverage, width and error of one look."""
    rows = one["rows"]
    inside, as_found = (
        100 * float(np.mean([row["low_ms"] <= row[name] <= row["high_ms"] for row in rows]))
        for name in ("undisturbed_ms", "median_ms")
    )
    half = [(row["high_ms"] - row["low_ms"]) / 2 / row["predicted_ms"] for row in rows]
    ratio = np.array([row["undisturbed_ms"] / row["predicted_ms"] for row in rows])
    passed = datetime.fromisoformat(one["taken_at"]) - datetime.fromisoformat(profiled_at)
    return {
        "space": one["space"],
        "minutes_later": passed.total_seconds() / 60,
        "load": one["machine"]["load"],
        "networks": len(rows),
        "coverage_percent": inside,
        "coverage_as_found_percent": as_found,
        "half_width_percent": 100 * float(np.mean(half)),
        "mape_percent": 100 * float(np.abs(ratio - 1).mean()),
        "factor": float(np.median(ratio)),
    }


def chart(found: list[dict[str, Any]]) -> str:
    """Coverage and half-width of every look."""
    return bars(
        "Measurements later, inside their intervals",
        [f"{one['space']}, {one['minutes_later']:.0f} min later" for one in found],
        {
            "inside": [one["coverage_percent"] for one in found],
            "half-width": [one["half_width_percent"] for one in found],
        },
        "%",
    )


def main() -> None:
    """A profile or a look, or the result of all looks."""
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    parser.add_argument("--work", type=Path, default=Path("runs/bench-later"), help="keeps tables and looks")
    parser.add_argument("--space", default="mbv2-cifar")
    parser.add_argument("--networks", type=int, default=40)
    parser.add_argument("--preset", default="default")
    parser.add_argument("--profile", action="store_true", help="take the table first, where there is none")
    parser.add_argument("--out", default=None, help="name of the result file; no look is taken")
    args = parser.parse_args()
    if args.out is None:
        table = args.work / f"{args.space}{SUFFIX}"
        if args.profile and not table.is_file():
            profile(
                ProfileOptions(device="cpu", backend="ort", space=args.space, preset=args.preset, out=table)
            )
            write_json(args.work / f"{args.space}.json", {"profiled_at": now_utc()})
        number = len(list(args.work.glob("look-*.json")))
        one = look(table, args.space, args.networks, args.preset, number)
        write_json(args.work / f"look-{number}.json", one)
        print(summary(_profiled(args.work, args.space), one))
        return
    paths = sorted(args.work.glob("look-*.json"), key=lambda path: int(path.stem.removeprefix("look-")))
    looks = [read_json(path, "look") for path in paths]
    found = [summary(_profiled(args.work, one["space"]), one) for one in looks]
    body = {"preset": args.preset, "summary": found, "looks": looks}
    print("written to", save(args.out, body, chart(found)))


def _profiled(work: Path, space: str) -> str:
    return str(read_json(work / f"{space}.json", "time of a profile")["profiled_at"])


if __name__ == "__main__":
    main()
