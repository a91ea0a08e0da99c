"""Importances of a trained network's pieces side by side: the choice by each, before and after fine-tuning.

    python -m benchmarks.own_importance --data digits --parents resnet20@1x8x8 --out FILE

Each importance chooses a variant within a part of the parent's milliseconds; the choice is exact and the
clock is the fake device's, so that nothing but the importance differs. ``untrained`` is the validation
accuracy after batch norm found new statistics, ``test`` that of the test split after ``--images`` of
fine-tuning, taught by the parent.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.common import machine
from hwnas import plugins
from hwnas.jobs.profile import ProfileOptions, profile
from hwnas.jobs.search import SearchOptions, search
from hwnas.jobs.train import train
from hwnas.jobs.train_options import TrainOptions
from hwnas.nets.spaces import make
from hwnas.records import now_utc
from hwnas.store import write_json, write_network
from hwnas.train import data as datasets


def parent(name: str, data: str, images: int, work: Path) -> Path:
    """The run of a trained residual network for small images, with a table of its pieces."""
    depth, _, size = name.partition("@")
    channels, height, width = (int(part) for part in size.split("x"))
    shape = (channels, height, width)
    run = work / name.replace("@", "-")
    if not (run / "result.json").is_file():
        network = work / f"{run.name}.json"
        blocks = (int(depth.removeprefix("resnet")) - 2) // 6
        dataset = datasets.load(data, input_shape=shape, seed=0)
        space = make("resnet-cifar", input_shape=shape, classes=len(dataset.classes))
        write_network(network, next(s for s in space.uniform() if s.depths == (blocks,) * 3))
        epochs = images / len(dataset.train)
        train(TrainOptions(str(network), data=data, epochs=epochs, out=run))
    profile(
        ProfileOptions(model=str(run), preset="quick", device="fake", out=work / f"{run.name}.hwlat.jsonl")
    )
    return run


def cell(run: Path, importance: str, target: float, seed: int, asked: argparse.Namespace) -> dict[str, Any]:
    """One importance at one target."""
    out = asked.work / f"{run.name}-{importance}-{target:g}-{asked.images}-{seed}"
    body = search(
        SearchOptions(
            latency_budget=f"{100 * target:g}%:model",
            data=asked.data,
            model=str(run),
            table=run.with_name(f"{run.name}.hwlat.jsonl"),
            device="fake",
            images=asked.images,
            seed=seed,
            importance=importance,
            out=out,
        )
    )
    lines = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    trials = [line["trial"] for line in lines if "trial" in line and isinstance(line["trial"], dict)]
    chosen = next(t for t in trials if t.get("parent") is not None and t.get("evaluation"))
    return {
        "parent": run.name,
        "importance": importance,
        "target": target,
        "seed": seed,
        "untrained": chosen["evaluation"]["accuracy"],
        "test": body["accuracy"]["test"],
    }


def main(words: Sequence[str] | None = None) -> None:
    """Every cell; the file is written after each."""
    reader = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    known = plugins.names("removals")
    reader.add_argument("--data", default="digits", metavar="SOURCE")
    reader.add_argument("--parents", nargs="+", default=["resnet20@1x8x8"])
    reader.add_argument("--parent-images", type=int, default=20_000)
    reader.add_argument("--importances", nargs="+", choices=known, default=list(known))
    reader.add_argument("--targets", nargs="+", type=float, default=[0.7, 0.5, 0.35])
    reader.add_argument("--images", type=int, default=2_000)
    reader.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    reader.add_argument("--work", type=Path, default=Path("runs/own-importance"))
    reader.add_argument("--out", type=Path, required=True)
    asked = reader.parse_args(words)
    asked.work.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for name in asked.parents:
        run = parent(name, asked.data, asked.parent_images, asked.work)
        for seed in asked.seeds:
            for target in asked.targets:
                for importance in asked.importances:
                    rows.append(cell(run, importance, target, seed, asked))
                    print(json.dumps(rows[-1]), flush=True)
                    _write(asked, rows)


def _write(asked: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    means = {
        f"{name} {what}": mean(r[what] for r in rows if r["importance"] == name)
        for name in dict.fromkeys(r["importance"] for r in rows)
        for what in ("untrained", "test")
    }
    options = {k: v for k, v in vars(asked).items() if k not in ("out", "work")}
    write_json(
        asked.out,
        {
            "benchmark": "own_importance",
            "options": options,
            "taken_at": now_utc(),
            "machine": machine(),
            "rows": rows,
            "means": means,
        },
    )


if __name__ == "__main__":
    main()
