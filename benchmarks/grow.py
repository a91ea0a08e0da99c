"""Does growing by measured gain beat the usual ways to spend the same budget and the same training?

    python -m benchmarks.grow --data parquet:PATH                    # full: 3 seeds, 200,000 images each
    python -m benchmarks.grow --data parquet:PATH --preset quick     # 1 seed, 40,000 images each
    python -m benchmarks.grow --data parquet:PATH --budget 0.7x:resnet20 --space resnet-cifar-wide

Every contestant gets the same latency budget on the same table, the same recipe and the same number
of training images *including its search*; the test split is read once, for the winner that kept its
measured promise. Contestants:

* ``uniform``: the largest uniformly scaled member that fits, trained with all images in one go;
* ``random``, ``tpe``: samples within the budget, half of the images for choosing;
* ``paper``: StageWise NAS as published (1 + 2 x iterations models from scratch, images shared out);
* ``stagewise``: ours; ``stagewise-gradient`` and ``stagewise-vip`` with the other importances;
* ``--placements 1,3,6 2,2,6``: fixed networks trained with all images: what an oracle would know.

A run that was interrupted continues where it was: each contestant has its own run folder.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from benchmarks.common import bars, save
from hwnas.jobs.search import SearchOptions, search
from hwnas.jobs.train import train
from hwnas.jobs.train_options import TrainOptions
from hwnas.nets.spaces import make
from hwnas.protocols import SearchSpace
from hwnas.search.moves import further
from hwnas.store import read_network, write_network

CONTESTANTS: dict[str, dict[str, Any]] = {
    "uniform": {"strategy": "uniform", "settings": {"largest": True, "search_share": 1.0}},
    "random": {"strategy": "random", "settings": {"search_share": 0.5}},
    "tpe": {"strategy": "tpe", "settings": {"search_share": 0.5}},
    "paper": {"strategy": "stagewise", "fidelity": "paper"},
    "stagewise": {"strategy": "stagewise"},
    "stagewise-gradient": {"strategy": "stagewise", "importance": "gradient"},
    "stagewise-probe": {"strategy": "stagewise", "importance": "probe"},
    "stagewise-vip": {"strategy": "stagewise", "importance": "vip"},
}
USUAL = ("uniform", "random", "tpe", "paper", "stagewise")
PRESETS = {"quick": (1, 40_000), "full": (3, 200_000)}


def run_one(name: str, base: SearchOptions, seed: int, work: Path) -> dict[str, Any]:
    """One contestant with one seed: figures of its winner."""
    options = replace(base, **CONTESTANTS[name], seed=seed, out=work / f"{name}-{seed}")
    body = search(options)
    best = body["best"]
    return {
        "contestant": name,
        "seed": seed,
        "test": body["accuracy"]["test"],
        "val": body["accuracy"]["val"],
        "depths": best["depths"],
        "widths": [stage[-1].c_out for stage in read_network(Path(body["run"]) / "network.json").stages],
        "predicted_ms": best["predicted_ms"],
        "predicted_use": best["predicted_ms"] / body["promise"]["budget_ms"],
        "median_ms": best["measured"]["median_ms"],
        "budget": body["budget"],
        "within_budget": body["within_budget"],
        "used": best["measured"]["median_ms"] / body["promise"]["budget_ms"],
        "images": body["images"],
        "train_macs": body["train_macs"],
        "trained": body["trained"],
        "stopped": body["stopped"],
        "seconds": body["seconds"]["total"],  # of every session, where it was interrupted
    }


def run_placement(depths: str, base: SearchOptions, seed: int, work: Path) -> dict[str, Any]:
    """A fixed network, trained with all images."""
    from hwnas.train.data import load

    start = time.perf_counter()
    assert base.space is not None
    space: SearchSpace = make(base.space)
    spec = space.smallest()
    for stage, depth in enumerate(map(int, depths.split(","))):
        spec = further(space, spec, stage, depth - len(spec.stages[stage]))
    path = work / f"placement-{depths.replace(',', '-')}.json"
    write_network(path, spec)
    assert base.data is not None
    images = len(load(base.data, seed=seed).train)
    assert base.images is not None
    body = train(
        TrainOptions(
            network=str(path),
            data=base.data,
            epochs=base.images / images,
            seed=seed,
            recipe=base.recipe,
            out=work / f"{path.stem}-{seed}",
        )
    )
    return {
        "contestant": depths,
        "seed": seed,
        "test": body["accuracy"]["test"],
        "val": body["accuracy"]["val"],
        "depths": list(spec.depths),
        "images": body["images"],
        "train_macs": body["train_macs"],
        "trained": 1,
        "seconds": time.perf_counter() - start,
    }


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means and spreads over seeds, one row a contestant."""
    found = []
    for name in dict.fromkeys(row["contestant"] for row in rows):
        mine = [row for row in rows if row["contestant"] == name]
        tests = [100 * row["test"] for row in mine]
        used = [row["used"] for row in mine if "used" in row]
        predicted = [row["predicted_use"] for row in mine if "predicted_use" in row]
        found.append(
            {
                "contestant": name,
                "seeds": len(mine),
                "test_percent": mean(tests),
                "test_spread": stdev(tests) if len(tests) > 1 else None,
                "within_budget": all(row.get("within_budget", True) for row in mine),
                "least_used": min(used, default=None),
                "least_predicted_use": min(predicted, default=None),
                "depths": [row["depths"] for row in mine],
                "widths": [row.get("widths") for row in mine],
                "median_ms": [row.get("median_ms") for row in mine],
                "images": max(row["images"] for row in mine),
                "train_macs": mean(row["train_macs"] for row in mine),
                "seconds": mean(row["seconds"] for row in mine),
            }
        )
    return found


def show(rows: list[dict[str, Any]]) -> None:
    """The summary as a table."""
    print(
        f"{'contestant':20} {'test top-1':>16} {'budget used':>12} {'images':>9} {'train MACs':>11}  blocks"
    )
    for row in rows:
        spread = f" +- {row['test_spread']:.2f}" if row["test_spread"] is not None else ""
        used = f"{100 * row['least_used']:.0f} %" if row["least_used"] is not None else "-"
        depths = " ".join("-".join(map(str, depths)) for depths in row["depths"])
        test = f"{row['test_percent']:.2f}{spread} %"
        cost = f"{row['images']:>9,} {row['train_macs']:>11.3g}"
        print(f"{row['contestant']:20} {test:>16} {used:>12} {cost}  {depths}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--preset", choices=sorted(PRESETS), default="full")
    parser.add_argument("--budget", default="1.15x:resnet20")
    parser.add_argument("--space", default="resnet-cifar")
    parser.add_argument("--contestants", nargs="*", choices=sorted(CONTESTANTS), default=list(USUAL))
    parser.add_argument("--placements", nargs="*", default=[], metavar="D,D,D")
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--images", type=int)
    parser.add_argument("--table", type=Path)
    parser.add_argument("--work", type=Path, default=Path("runs/bench-grow"))
    parser.add_argument("--name", help="name of the result; default grow-SPACE-PRESET")
    asked = parser.parse_args()
    seeds, images = PRESETS[asked.preset]
    base = SearchOptions(
        latency_budget=asked.budget,
        data=asked.data,
        space=asked.space,
        table=asked.table,
        device=None if asked.table else "cpu",
        images=asked.images or images,
        preset="default",
    )
    work = asked.work / f"{asked.space}-{asked.budget.replace(':', '-')}-{base.images}"
    work.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for seed in range(asked.seeds or seeds):
        rows += [run_one(name, base, seed, work) for name in asked.contestants]
        rows += [run_placement(depths, base, seed, work) for depths in asked.placements]
        show(summary(rows))
    found = summary(rows)
    name = asked.name or f"grow-{asked.space}-{asked.preset}"
    chart = bars(
        f"CIFAR-10 test top-1 within {asked.budget}, {base.images:,} training images each, search included",
        [row["contestant"] for row in found],
        {"test top-1": [row["test_percent"] for row in found]},
        "%",
    )
    print(save(name, {"summary": found, "runs": rows, "budget": asked.budget, "space": asked.space}, chart))


if __name__ == "__main__":
    main()
