"""In which order families of networks come: each at the budget, trained with few images and with many.

    python -m benchmarks.families --data parquet:PATH --budgets 0.2ms 0.4ms --images 2666 40000 --seeds 0 \
        --out FILE

A contestant is a family of the space `auto`: its uniform member with two blocks a stage (one in the first
stage of pooled chains), as wide as takes at most 95 % of the budget when it is measured. Each is trained by
the same recipe. Rows are judged by the validation split, since the order of `hwnas.nets.families.DESIGNS`
follows them; the test split is not read. At the end Kendall's tau between the order after few images and
after many is told: how far a race by short trainings can be trusted. Rows that the file has are not made
again.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import head
from benchmarks.frontier import AIM, Bench, milliseconds, of_spec
from hwnas.cost.score import kendall_tau
from hwnas.nets.build import build
from hwnas.nets.families import DESIGNS, auto
from hwnas.spec import NetworkSpec
from hwnas.store import write_json
from hwnas.train.data import Dataset, load
from hwnas.train.loop import train
from hwnas.train.options import Recipe

DEPTH = 2


def chosen(bench: Bench, name: str, data: Dataset, budget_ms: float) -> tuple[NetworkSpec | None, float]:
    """The widest uniform member of a family within `AIM` of the budget, and its floor in milliseconds."""
    space = auto(input_shape=data.input_shape, classes=len(data.classes))
    family = next(one for one in space.families if one.label == name)
    members = [of_spec(family.scaled(width, DEPTH)) for width in range(len(family.widths))]
    at = bench.largest(members, budget_ms)
    if at is None:
        return None, 0.0
    floor_ms = bench.measured({"one": bench.engine(members[at])}, "quick")["one"].floor_ms
    return members[at].spec, floor_ms


def taus(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Kendall's tau between the order of families after so many images and after the most, by budget."""
    done = [row for row in rows if row["val"] is not None]
    found = []
    for budget in dict.fromkeys(row["budget"] for row in done):
        by_images: dict[int, dict[str, list[float]]] = {}
        for row in (row for row in done if row["budget"] == budget):
            by_images.setdefault(row["images"], {}).setdefault(row["family"], []).append(row["val"])
        most = max(by_images)
        for images in sorted(by_images.keys() - {most}):
            both = sorted(by_images[images].keys() & by_images[most].keys())
            before, after = (np.array([np.mean(by_images[n][name]) for name in both]) for n in (images, most))
            if len(both) > 1:
                tau = kendall_tau(before, after)
                found.append(
                    {"budget": budget, "images": images, "most": most, "families": len(both), "tau": tau}
                )
    return found


def main() -> None:
    """Fill in FILE."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    labels = [design.label for design in DESIGNS]
    parser.add_argument("--data", required=True)
    parser.add_argument("--budgets", nargs="*", default=["0.2ms", "0.4ms"])
    parser.add_argument("--images", nargs="*", type=int, default=[2_666, 40_000])
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    parser.add_argument("--families", nargs="*", choices=labels, default=labels)
    parser.add_argument("--backend", default="ort")
    parser.add_argument("--out", required=True, help="FILE.json, written after every training")
    asked = parser.parse_args()
    out = Path(asked.out)
    rows: list[dict[str, Any]] = json.loads(out.read_text())["rows"] if out.exists() else []
    there = {(row["family"], row["budget"], row["images"], row["seed"]) for row in rows}
    for budget in asked.budgets:
        for name in asked.families:
            for seed in asked.seeds:
                wanted = [n for n in asked.images if (name, budget, n, seed) not in there]
                if not wanted:
                    continue
                data = load(asked.data, seed=seed)
                bench = Bench(asked.backend, data.input_shape)
                spec, floor_ms = chosen(bench, name, data, milliseconds(budget))
                for images in wanted:
                    row = {"family": name, "budget": budget, "images": images, "seed": seed}
                    rows.append({**row, **trained(spec, floor_ms, data, images, seed)})
                    write_json(out, {**head("families"), "aim": AIM, "rows": rows, "taus": taus(rows)})
                    print(rows[-1], flush=True)
    for tau in taus(rows):
        print(tau)


def trained(
    spec: NetworkSpec | None, floor_ms: float, data: Dataset, images: int, seed: int
) -> dict[str, Any]:
    """Figures of one training; no accuracy where no member fits."""
    if spec is None:
        return {"val": None, "floor_ms": None, "widths": None, "train_seconds": None}
    begun = time.perf_counter()
    result = train(build(spec, seed=seed), spec, data, Recipe(images=images, seed=seed))
    return {
        "val": result.accuracy,
        "floor_ms": floor_ms,
        "widths": [spec.stem.c_out, *(stage[0].c_out for stage in spec.stages)],
        "train_seconds": time.perf_counter() - begun,
    }


if __name__ == "__main__":
    main()
