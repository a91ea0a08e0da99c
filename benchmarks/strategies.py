"""Every strategy at equal training: which one when?

    python -m benchmarks.strategies --data parquet:PATH                  # full: 3 seeds, 20,000 images each
    python -m benchmarks.strategies --data parquet:PATH --preset long    # 3 seeds, 200,000 images: a day
    python -m benchmarks.strategies --data parquet:PATH --preset quick   # 1 seed, 20,000 images each
    python -m benchmarks.strategies --data parquet:PATH --contestants auto stagewise --budgets 0.5ms

Every contestant gets the same two latency budgets, the same recipe and the same number of training
images *including its search* and whatever it prepares; the test split is read once, for the winner that
kept its measured promise. Strategies that can search the same space do (``--space``, mbv2-cifar); the
published ones with a space of their own search that: ``densenas`` densenas-cifar, ``macromicro``
macromicro. Each space needs a latency table of this device (``hwnas profile --device cpu --space NAME``).

``hournas`` against ``hournas-joint`` is the ablation of vital blocks first. A contestant that finds
nothing within a budget is a row that says so. An interrupted run continues where it was: each contestant
has its own run folder.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from benchmarks.common import bars, each, save
from hwnas.errors import BudgetInfeasible
from hwnas.jobs.search import search
from hwnas.jobs.search.options import SearchOptions

CONTESTANTS: dict[str, dict[str, Any]] = {
    "uniform": {"strategy": "uniform", "settings": {"largest": True, "search_share": 1.0}},
    "random": {"strategy": "random", "settings": {"search_share": 0.5}},
    "tpe": {"strategy": "tpe", "settings": {"search_share": 0.5}},
    "stagewise": {"strategy": "stagewise"},
    "densenas": {"strategy": "densenas", "space": "densenas-cifar"},
    "hournas": {"strategy": "hournas", "settings": {"score": "learned"}},
    "hournas-joint": {"strategy": "hournas", "settings": {"score": "learned", "joint": True}},
    "macromicro": {"strategy": "macromicro", "space": "macromicro"},
    "auto": {"strategy": "auto"},
}
PRESETS = {"quick": (1, 20_000), "full": (3, 20_000), "long": (3, 200_000)}
BUDGETS = ("0.2ms", "0.4ms")


def run_one(name: str, base: SearchOptions, seed: int, work: Path) -> dict[str, Any]:
    """One contestant with one seed and one budget: figures of its winner, or why there is none."""
    start = time.perf_counter()
    options = replace(base, **CONTESTANTS[name], seed=seed, out=work / f"{name}-{seed}")
    row: dict[str, Any] = {
        "contestant": name,
        "seed": seed,
        "asked": base.latency_budget,
        "space": options.space,
    }
    try:
        body = search(options)
    except BudgetInfeasible as exc:
        return {**row, "failed": str(exc), "seconds": time.perf_counter() - start}
    best = body["best"]
    return {
        **row,
        "test": body["accuracy"]["test"],
        "val": body["accuracy"]["val"],
        "depths": best["depths"],
        "predicted_ms": best["predicted_ms"],
        "median_ms": best["measured"]["median_ms"],
        "within_budget": body["within_budget"],
        "used": best["measured"]["median_ms"] / body["promise"]["budget_ms"],
        "macs": best["macs"],
        "images": body["images"],
        "train_macs": body["train_macs"],
        "trained": body["trained"],
        "stopped": body["stopped"],
        "wall_s": body["seconds"]["total"],
        "seconds": time.perf_counter() - start,
    }


def summary(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means and spreads over seeds, one row a contestant and budget."""
    found = []
    for asked, name in dict.fromkeys((row["asked"], row["contestant"]) for row in rows):
        mine = [row for row in rows if (row["asked"], row["contestant"]) == (asked, name)]
        done = [row for row in mine if "failed" not in row]
        tests = [100 * row["test"] for row in done]
        found.append(
            {
                "asked": asked,
                "contestant": name,
                "space": mine[0]["space"],
                "seeds": len(mine),
                "failed": len(mine) - len(done),
                "test_percent": mean(tests) if tests else None,
                "test_spread": stdev(tests) if len(tests) > 1 else None,
                "median_ms": mean(row["median_ms"] for row in done) if done else None,
                "used": mean(row["used"] for row in done) if done else None,
                "within_budget": all(row["within_budget"] for row in done),
                "images": max((row["images"] for row in done), default=None),
                "train_macs": mean(row["train_macs"] for row in done) if done else None,
                "trained": mean(row["trained"] for row in done) if done else None,
                "wall_s": mean(row["wall_s"] for row in done) if done else None,
                "depths": [row["depths"] for row in done],
            }
        )
    return found


def show(rows: Sequence[dict[str, Any]]) -> None:
    """The summary as a table."""
    head = f"{'budget':8} {'contestant':14} {'space':15} {'test top-1':>16} {'measured':>9} {'used':>6}"
    print(f"{head} {'images':>8} {'train MACs':>11} {'trained':>7} {'wall':>7}")
    for row in rows:
        place = f"{row['asked']:8} {row['contestant']:14} {row['space']:15}"
        if row["test_percent"] is None:
            print(f"{place} nothing within the budget")
            continue
        spread = f" +- {row['test_spread']:.2f}" if row["test_spread"] is not None else ""
        test = f"{row['test_percent']:.2f}{spread} %"
        cost = (
            f"{row['images']:>8,} {row['train_macs']:>11.3g} {row['trained']:>7.1f} {row['wall_s']:>5.0f} s"
        )
        print(f"{place} {test:>16} {row['median_ms']:>6.3f} ms {100 * row['used']:>4.0f} % {cost}")


def chart(found: Sequence[dict[str, Any]], images: int) -> str:
    """Test accuracy by contestant, one bar a budget."""
    names = list(dict.fromkeys(row["contestant"] for row in found))
    budgets = list(dict.fromkeys(row["asked"] for row in found))
    known = {(row["asked"], row["contestant"]): row["test_percent"] for row in found}
    return bars(
        f"CIFAR-10 test top-1 within a latency budget, {images:,} training images each, search included",
        names,
        {budget: [known.get((budget, name)) for name in names] for budget in budgets},
        "%",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--preset", choices=sorted(PRESETS), default="full")
    parser.add_argument("--budgets", nargs="*", default=list(BUDGETS))
    parser.add_argument("--space", default="mbv2-cifar", help="of the strategies without one of their own")
    parser.add_argument("--contestants", nargs="*", choices=sorted(CONTESTANTS), default=list(CONTESTANTS))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--images", type=int)
    parser.add_argument("--limit", type=int, help="use at most so many images of the data")
    parser.add_argument("--work", type=Path, default=Path("runs/bench-strategies"))
    parser.add_argument("--kept", action="store_true", help="only report what is finished in --work")
    parser.add_argument("--executor", default="local", help="local, ray or ray://ADDRESS; see --jobs")
    parser.add_argument(
        "--jobs", type=int, default=1, help="searches at once, for a device that they do not run on"
    )
    parser.add_argument("--name", help="name of the result; default strategies, or strategies-quick")
    asked = parser.parse_args()
    seeds, images = PRESETS[asked.preset]
    base = SearchOptions(
        latency_budget=asked.budgets[0],
        data=asked.data,
        space=asked.space,
        device=asked.device,
        images=asked.images or images,
        limit=asked.limit,
    )
    todo: list[tuple[str, SearchOptions, int, Path]] = []
    for seed in range(asked.seeds or seeds):
        for budget in asked.budgets:
            work = asked.work / f"{asked.space}-{budget.replace(':', '-')}-{base.images}"
            work.mkdir(parents=True, exist_ok=True)
            for name in asked.contestants:
                if asked.kept and not (work / f"{name}-{seed}" / "result.json").exists():
                    continue
                todo.append((name, replace(base, latency_budget=budget), seed, work.resolve()))
    rows = []
    for row in each(run_one, todo, asked.executor, asked.jobs, asked.device):
        rows.append(row)
        show(summary(rows[-1:]))
    found = summary(sorted(rows, key=lambda row: asked.budgets.index(row["asked"])))
    show(found)
    name = asked.name or ("strategies" if asked.preset == "full" else f"strategies-{asked.preset}")
    body = {"summary": found, "runs": rows, "budgets": asked.budgets, "images": base.images}
    print(save(name, body, chart(found, base.images or 0)))


if __name__ == "__main__":
    main()
