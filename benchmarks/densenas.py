"""Does a dense super-network find better networks than random search with the same training images?

    python -m benchmarks.densenas --data parquet:PATH                    # full: 2 seeds, 120,000 images each
    python -m benchmarks.densenas --data parquet:PATH --preset quick     # 1 seed, 30,000: under 20 minutes
    python -m benchmarks.densenas --data parquet:PATH --operators   # only a step of the super-network

The comparison of DenseNAS's paper (75.3 against 74.3 % on ImageNet), on CIFAR-10 and under budgets:
three latency budgets in one search of the space ``densenas-cifar``, on one table and with one recipe.
Every winner has seen the same number of training images, those of its search included: the search's
images are shared by the three winners and counted for each of them. Contestants:

* ``random``: random members within each budget, half of the images for choosing;
* ``random-full``: the same among members that use at least 80 % of their budget;
* ``densenas``: ours as it comes, which trains a super-network where there are images enough for one;
* ``densenas-learned``: ours with the super-network in any case, a quarter of the images for it;
* ``densenas-proxy``: ours without it in any case, all images for the derived networks: what the
  super-network has to beat.

Of each winner the test split is read once, here. A run that was interrupted continues where it was.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.common import bars, save
from hwnas.cost.model import cost_model
from hwnas.documents import read_json
from hwnas.jobs import predict
from hwnas.jobs.search import SearchOptions, search
from hwnas.nets.build import build, load_weights, read_weights
from hwnas.nets.spaces import make
from hwnas.store import read_network, write_json

SPACE = "densenas-cifar"
CONTESTANTS: dict[str, dict[str, Any]] = {
    "random": {"strategy": "random", "settings": {"search_share": 0.5, "samples": 9}},
    "random-full": {"strategy": "random", "settings": {"search_share": 0.5, "samples": 9, "least": 0.8}},
    "densenas": {"strategy": "densenas"},
    "densenas-learned": {"strategy": "densenas", "settings": {"score": "learned"}},
    "densenas-proxy": {"strategy": "densenas", "settings": {"score": "proxy"}},
}
PRESETS = {
    "quick": (1, 30_000, ("random", "densenas")),
    "full": (2, 120_000, tuple(CONTESTANTS)),
}
# Budgets as parts of the predicted latency of the largest uniformly scaled member.
SHARES = (0.8, 1.1, 1.4)


def budgets(table: Path | None) -> str:
    """Three budgets in the middle of the space's range, in milliseconds, from the table."""
    found = predict.find(table, device=None if table else "cpu", space=SPACE)
    model = cost_model(found)
    largest_ms = model.estimate(make(SPACE).uniform()[-1]).latency_ms
    return ",".join(f"{share * largest_ms:.3f}ms" for share in SHARES)


def run_one(name: str, base: SearchOptions, seed: int, work: Path) -> list[dict[str, Any]]:
    """One contestant with one seed: a row for the winner of each budget."""
    out = work / f"{name}-{seed}"
    kept = out / "benchmark.json"
    if kept.is_file():
        rows: list[dict[str, Any]] = read_json(kept, "benchmark")["rows"]
        return rows
    start = time.perf_counter()
    body = search(replace(base, **CONTESTANTS[name], seed=seed, out=out)).as_json()
    tests = tested(body, base, seed, out)
    rows = []
    for target, test in zip(body["targets"], tests, strict=True):
        best, limit_ms = target["best"], float(target["budget"].split("ms")[0])
        rows.append(
            {
                "contestant": name,
                "seed": seed,
                "budget_ms": limit_ms,
                "test": test,
                "val": best["accuracy"],
                "depths": best["depths"],
                "macs": best["macs"],
                "predicted_ms": best["predicted_ms"],
                "median_ms": best["measured"]["median_ms"],
                "within_budget": target["within_budget"],
                "used": best["measured"]["median_ms"] / limit_ms,
                "images_all": body["images"],
                "train_macs_all": body["train_macs"],
                "preparation": body.get("preparation"),
                "seconds_all": time.perf_counter() - start,
            }
        )
    write_json(kept, {"rows": rows})
    return rows


def tested(body: dict[str, Any], base: SearchOptions, seed: int, out: Path) -> list[float]:
    """Test accuracy of the winner of each budget, ascending budgets."""
    from hwnas.train.data import load
    from hwnas.train.score import score

    assert base.data is not None
    test = load(base.data, input_shape=base.input_shape, seed=seed, limit=base.limit).test()
    found = []
    for target in body["targets"]:
        folder = out / "targets" / f"{float(target['budget'].split('ms')[0]):g}ms"
        module = build(read_network(folder / "network.json"), seed=0)
        load_weights(module, read_weights(folder / "weights.safetensors"))
        found.append(score(module, test).accuracy)
    return found


def summary(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means over seeds, a row a contestant and budget, and the gain over `random`."""
    found: list[dict[str, Any]] = []
    for name, budget_ms in dict.fromkeys((row["contestant"], row["budget_ms"]) for row in rows):
        mine = [r for r in rows if (r["contestant"], r["budget_ms"]) == (name, budget_ms)]
        base = [r["test"] for r in rows if (r["contestant"], r["budget_ms"]) == ("random", budget_ms)]
        test = 100 * mean(row["test"] for row in mine)
        found.append(
            {
                "contestant": name,
                "budget_ms": budget_ms,
                "seeds": len(mine),
                "test_percent": test,
                "tests_percent": [100 * row["test"] for row in mine],
                "gain_points": test - 100 * mean(base) if base else None,
                "within_budget": all(row["within_budget"] for row in mine),
                "used": [row["used"] for row in mine],
                "macs": [row["macs"] for row in mine],
                "images_all": max(row["images_all"] for row in mine),
                "train_macs_all": mean(row["train_macs_all"] for row in mine),
                "seconds_all": mean(row["seconds_all"] for row in mine),
            }
        )
    return found


def show(rows: Sequence[dict[str, Any]]) -> None:
    """The summary as a table."""
    head = f"{'contestant':16} {'budget':>9} {'test top-1':>11} {'gain':>7} {'used':>6} {'kept':>5}"
    print(f"{head} {'images':>9} {'train MACs':>11} {'seconds':>8}  (of all three)")
    for row in rows:
        gain = f"{row['gain_points']:+.2f}" if row["gain_points"] is not None else "-"
        print(
            f"{row['contestant']:16} {row['budget_ms']:>7.3f}ms {row['test_percent']:>10.2f}% {gain:>7} "
            f"{100 * max(row['used']):>5.0f}% {'yes' if row['within_budget'] else 'NO':>5} "
            f"{row['images_all']:>9,} {row['train_macs_all']:>11.3g} {row['seconds_all']:>8.0f}"
        )


def operators(batch: int = 32, steps: int = 3) -> list[dict[str, Any]]:
    """A step of the super-network with one, two and all operators of each layer: time and memory.

    Time is the process's own; memory is what the forward pass keeps for the backward pass.
    """
    import torch
    import torch.nn.functional as F

    from hwnas.nets.densenas.graph import densenas_cifar
    from hwnas.train.densenas.supernet import Supernet

    torch.set_num_threads(1)
    model = Supernet(densenas_cifar(), seed=0).to(memory_format=torch.channels_last).train()
    images = torch.randn(batch, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    labels = torch.zeros(batch, dtype=torch.int64)
    generator = torch.Generator().manual_seed(0)
    found: list[dict[str, Any]] = []
    for count in (1, 2, 7):
        took_s, kept_bytes = [], []
        for _ in range(steps):
            kept = model.sample(count, generator, uniform=True)
            storages: dict[int, int] = {}

            def pack(tensor: torch.Tensor, seen: dict[int, int] = storages) -> torch.Tensor:
                seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
                return tensor

            start = time.process_time()
            with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
                loss = F.cross_entropy(model(images, kept), labels)
            torch.autograd.backward(loss)
            took_s.append(time.process_time() - start)
            kept_bytes.append(sum(storages.values()))
        found.append(
            {
                "operators": "all" if count == 7 else count,
                "images_per_s": batch / min(took_s),
                "mib_per_image": mean(kept_bytes) / batch / 2**20,
            }
        )
    for row in found:
        row["times_faster_than_all"] = row["images_per_s"] / found[-1]["images_per_s"]
        row["part_of_the_memory"] = row["mib_per_image"] / found[-1]["mib_per_image"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data")
    parser.add_argument("--preset", choices=sorted(PRESETS), default="full")
    parser.add_argument("--budgets", help="three in ms, as 0.3ms,0.4ms,0.5ms; default from the table")
    parser.add_argument("--contestants", nargs="*", choices=sorted(CONTESTANTS))
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--images", type=int)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--table", type=Path)
    parser.add_argument("--work", type=Path, default=Path("runs/bench-densenas"))
    parser.add_argument("--name", help="name of the result; default densenas-PRESET")
    parser.add_argument("--operators", action="store_true", help="measure only the super-network's steps")
    asked = parser.parse_args()
    if asked.operators:
        found = operators()
        for row in found:
            print(row)
        print(save("densenas-operators", {"steps": found}))
        return
    if asked.data is None:
        parser.error("name the data set: --data parquet:PATH")
    begun = time.perf_counter()
    seeds, images, usual = PRESETS[asked.preset]
    base = SearchOptions(
        latency_budget=asked.budgets or budgets(asked.table),
        data=asked.data,
        space=SPACE,
        table=asked.table,
        device=None if asked.table else "cpu",
        images=asked.images or images,
        limit=asked.limit,
    )
    work = asked.work / f"{base.latency_budget.replace(',', '-')}-{base.images}"
    work.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for seed in range(asked.seeds or seeds):
        for name in asked.contestants or usual:
            rows += run_one(name, base, seed, work)
            show(summary(rows))
    found = summary(rows)
    values = list(dict.fromkeys(row["budget_ms"] for row in found))
    series = {
        name: [r["test_percent"] for r in found if r["contestant"] == name]
        for name in dict.fromkeys(row["contestant"] for row in found)
    }
    chart = bars(
        f"CIFAR-10 test top-1, {base.images:,} training images for each winner, its search included",
        [f"{value:g} ms" for value in values],
        series,
        "%",
    )
    body = {"summary": found, "runs": rows, "space": SPACE, "images": base.images}
    seconds = time.perf_counter() - begun
    print(save(asked.name or f"densenas-{asked.preset}", {**body, "seconds": seconds}, chart))


if __name__ == "__main__":
    main()
