"""A trained network made smaller by one cut, or in steps: which is better with as many images?

    python -m benchmarks.own_steps --data digits --parents resnet20@1x8x8 --out FILE

``1``: one search for the target, fine-tuned with ``--images``. ``2``: a search for the square root of the
target, fine-tuned with half of the images, whose result is the model of a second search for the target, with
the other half. Each is taught by the model that it was cut from. The clock is that of the fake device.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.common import machine
from benchmarks.own_importance import parent
from hwnas.jobs.profile import ProfileOptions, profile
from hwnas.jobs.search import SearchOptions, search
from hwnas.records import now_utc
from hwnas.store import write_json


def cut(model: Path, budget: str, images: int, seed: int, out: Path, data: str) -> Any:
    """One search from a run; the body of its result."""
    table = model.with_name(f"{model.name}.hwlat.jsonl")
    profile(ProfileOptions(model=str(model), preset="quick", device="fake", out=table))
    return search(
        SearchOptions(
            latency_budget=budget,
            data=data,
            model=str(model),
            table=table,
            device="fake",
            images=images,
            seed=seed,
            out=out,
        )
    )


def cell(run: Path, steps: int, target: float, seed: int, asked: argparse.Namespace) -> dict[str, Any]:
    """One way at one target."""
    name = f"{run.name}-steps{steps}-{target:g}-{asked.images}-{seed}"
    model, images = run, asked.images // steps
    for step in range(1, steps + 1):
        # Each step takes the same part of what is left.
        share = target ** (1.0 / steps)
        out = asked.work / f"{name}-{step}"
        body = cut(model, f"{100 * share:.6g}%:model", images, seed, out, asked.data)
        model = out
    return {
        "parent": run.name,
        "steps": steps,
        "target": target,
        "seed": seed,
        "validation": body["accuracy"]["val"],
        "test": body["accuracy"]["test"],
        "ms": body["best"]["predicted_ms"],
    }


def main(words: Sequence[str] | None = None) -> None:
    """Every cell; the file is written after each."""
    reader = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    reader.add_argument("--data", default="digits", metavar="SOURCE")
    reader.add_argument("--parents", nargs="+", default=["resnet20@1x8x8"])
    reader.add_argument("--parent-images", type=int, default=20_000)
    reader.add_argument("--steps", nargs="+", type=int, default=[1, 2])
    reader.add_argument("--targets", nargs="+", type=float, default=[0.5, 0.35])
    reader.add_argument("--images", type=int, default=2_000)
    reader.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    reader.add_argument("--work", type=Path, default=Path("runs/own-steps"))
    reader.add_argument("--out", type=Path, required=True)
    asked = reader.parse_args(words)
    asked.work.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for name in asked.parents:
        run = parent(name, asked.data, asked.parent_images, asked.work)
        for seed in asked.seeds:
            for target in asked.targets:
                for steps in asked.steps:
                    rows.append(cell(run, steps, target, seed, asked))
                    print(json.dumps(rows[-1]), flush=True)
                    _write(asked, rows)


def _write(asked: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    means = {
        f"{steps} {what}": mean(r[what] for r in rows if r["steps"] == steps)
        for steps in dict.fromkeys(r["steps"] for r in rows)
        for what in ("validation", "test")
    }
    options = {k: v for k, v in vars(asked).items() if k not in ("data", "out", "work")}
    write_json(
        asked.out,
        {
            "benchmark": "own_steps",
            "command": "python -m benchmarks.own_steps --data SOURCE "
            + " ".join(
                f"--{word.replace('_', '-')} {' '.join(map(str, v)) if isinstance(v, list) else v}"
                for word, v in options.items()
            ),
            "options": options,
            "taken_at": now_utc(),
            "machine": machine(),
            "rows": rows,
            "means": means,
        },
    )


if __name__ == "__main__":
    main()
