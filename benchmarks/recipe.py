"""Fixed networks trained by named recipes: what each part of the training recipe is worth.

    python -m benchmarks.recipe --data parquet:PATH --images 40000 200000 --seeds 0 1 2 --out FILE
    python -m benchmarks.recipe --data parquet:PATH --recipes sgd muon --networks resnet20 --out FILE

Every training is the one that `hwnas train` does. FILE is JSON with `rows: [{network, recipe, images,
seed, val, test, seconds, seconds_per_image}]`, accuracies as fractions. It is written after each row, and
rows that it already has are not trained again, so an interrupted run goes on. Choose by `val`; `test` is
for the table.
Seconds are of processor time, and so of one thread: other programs change them little.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.common import head
from hwnas.documents import read_json
from hwnas.jobs.resolve import networks
from hwnas.nets.build import build
from hwnas.nets.spaces import SMALL, make
from hwnas.spec import NetworkSpec
from hwnas.store import write_json
from hwnas.train.data import Dataset, load
from hwnas.train.loop import accuracy, train
from hwnas.train.options import Recipe

OLD: dict[str, Any] = {"optimizer": "sgd", "schedule": "onecycle", "shift": 4}
MUON: dict[str, Any] = {"optimizer": "muon", "schedule": "linear", "shift": 2}
# By name, what differs from the defaults. `old` is what they were in November 2026, `new` is what they are.
RECIPES: dict[str, dict[str, Any]] = {
    "old": OLD,
    "new": {},
    "old, linear": {**OLD, "schedule": "linear"},
    "old, shift 2": {**OLD, "shift": 2},
    "muon, onecycle": {**MUON, "schedule": "onecycle"},
    "muon, shift 4": {**MUON, "shift": 4},
    "muon, shift 0": {**MUON, "shift": 0},
    "muon, no flip": {**MUON, "flip": False},
    "muon, turn 0.05": {**MUON, "turn": 0.05},
    "muon, turn 0.2": {**MUON, "turn": 0.2},
    "muon, warmup 0.05": {**MUON, "warmup": 0.05},
    "muon, batch 64": {**MUON, "batch": 64},
    "muon, momentum 0.8": {**MUON, "momentum": 0.8},
    "muon, smoothing 0": {**MUON, "label_smoothing": 0.0},
}


def named(name: str) -> NetworkSpec:
    """A shipped example, or a member of a space: ``SPACE:smallest``, ``SPACE:NUMBER`` of its uniform ones."""
    space, _, which = name.partition(":")
    if not which:
        return networks.network(name)
    members: Any = make(space)
    found: NetworkSpec = members.smallest() if which == "smallest" else members.uniform()[int(which)]
    return found


def row(name: str, recipe: str, images: int, seed: int, dataset: Dataset) -> dict[str, Any]:
    """Train one network and evaluate it."""
    spec = named(name)
    options = replace(Recipe(), **{"images": images, "seed": seed, **RECIPES[recipe]})
    module = build(spec, seed=seed)
    begun = time.process_time()
    found = train(module, spec, dataset, options)
    trained = time.process_time()
    split = dataset.test()
    test = accuracy(module, split)
    # `train` looks at validation at its end; that is no part of the training.
    looked = (time.process_time() - trained) * len(dataset.val) / len(split)
    seconds = trained - begun - looked
    return {
        "network": name,
        "recipe": recipe,
        "images": images,
        "seed": seed,
        "val": found.accuracy,
        "test": test,
        "seconds": round(seconds, 3),
        "seconds_per_image": seconds / images,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--images", type=int, nargs="+", default=[40_000])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    names = ["resnet20", "mbv2-cifar:smallest", "resnet-cifar-wide:smallest"]
    parser.add_argument("--networks", nargs="+", default=names)
    parser.add_argument("--recipes", nargs="+", default=["old", "new"], choices=RECIPES, metavar="RECIPE")
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    rows: list[dict[str, Any]] = []
    if asked.out.exists():
        rows = read_json(asked.out, "benchmark")["rows"]
    done = {(one["network"], one["recipe"], one["images"], one["seed"]) for one in rows}
    wanted = product(asked.networks, asked.recipes, asked.images, asked.seeds)
    left = [one for one in wanted if one not in done]
    # Cheap rows first, so that an interrupted run has whole columns.
    left.sort(key=lambda one: (one[2], one[3]))
    data = load(asked.data, input_shape=SMALL, seed=0) if left else None
    for name, recipe, images, seed in left:
        assert data is not None
        rows.append(row(name, recipe, images, seed, data))
        last = rows[-1]
        told = f"val {last['val']:.4f}, {last['seconds']:.0f} s"
        print(f"{name} {recipe} {images} {seed}: {told}", flush=True)
        write_json(asked.out, {**head("recipe"), "rows": rows})
    write_json(asked.out, {**head("recipe"), "rows": rows})


if __name__ == "__main__":
    main()
