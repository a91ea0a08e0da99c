"""Images per second of a training on several cores: threads, or processes that share every step.

    python -m benchmarks.train_cores [--data parquet:PATH] [--cores 2] [--rounds 3] [--images 4096] \
        [--batches 128 16] --out FILE

Contestants take turns in random order within one run: one thread; `--cores` threads; as many processes of one
thread (`hwnas train --jobs`, `hwnas.train.ranks`). Setting up processes is not timed, as it is paid once; a
step is, its guard and snapshots included. Run it where nothing else runs: `idle` in FILE is the part of all
cores that was free in the second before each turn, least of all.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.common import head
from hwnas.jobs.resolve.networks import network
from hwnas.nets.build import build
from hwnas.nets.count import count
from hwnas.nets.spaces import make
from hwnas.spec import NetworkSpec
from hwnas.store import write_json
from hwnas.train.data import Dataset, load
from hwnas.train.loop import train
from hwnas.train.options import Recipe

GOAL = 1.6


def networks() -> dict[str, NetworkSpec]:
    """A ResNet, an inverted-residual and a wide-shallow network, of about as many multiply-accumulates."""
    pooled = [
        one for one in make("auto").uniform() if any(block.kind == "pooled_conv" for block in one.blocks)
    ]
    resnet20 = network("resnet20")
    macs = count(resnet20).macs

    def nearest(known: Sequence[NetworkSpec]) -> NetworkSpec:
        return min(known, key=lambda spec: abs(count(spec).macs - macs))

    return {
        "resnet20": resnet20,
        "mbv2-cifar": nearest(make("mbv2-cifar").uniform()),
        "pooled": nearest(pooled),
    }


def speed(data: Dataset, spec: NetworkSpec, batch: int, images: int, threads: int, jobs: int) -> float:
    """Images per second of one training."""
    options = Recipe(images=images, batch=batch, device="cpu", threads=threads)
    return train(build(spec, seed=0), spec, data, options, jobs=jobs).images_per_s


def idle() -> float:
    """Part of all cores that is free for a second; 1 on an idle machine."""

    def counted() -> tuple[int, int]:
        values = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
        return values[3] + values[4], sum(values)

    free, all_ = counted()
    time.sleep(1.0)
    after, total = counted()
    return (after - free) / (total - all_)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=4096, help="with the first of the batches")
    parser.add_argument("--batches", type=int, nargs="+", default=[128, 16])
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    data = load(args.data, input_shape=(3, 32, 32), limit=5000)
    order, rows, least_idle = random.Random(0), list[dict[str, Any]](), 1.0
    for (name, spec), batch in product(networks().items(), args.batches):
        # As many steps with each batch, but for a batch so small that they are over at once.
        images = max(args.images * batch // args.batches[0], args.images // 4)
        measured: Callable[[int, int], float] = partial(speed, data, spec, batch, images)
        contestants = {
            "one thread": partial(measured, 1, 1),
            f"{args.cores} threads": partial(measured, args.cores, 1),
            f"{args.cores} processes": partial(measured, 1, args.cores),
        }
        speeds: dict[str, list[float]] = {contestant: [] for contestant in contestants}
        for turn in range(args.rounds):
            for contestant in order.sample(sorted(contestants), len(contestants)):
                least_idle = min(least_idle, idle())
                speeds[contestant].append(contestants[contestant]())
                print(
                    f"{name} {batch} {turn}: {contestant}: {speeds[contestant][-1]:.0f} images/s", flush=True
                )
        alone = speeds["one thread"]
        for contestant, values in speeds.items():
            ratio = statistics.median(value / one for value, one in zip(values, alone, strict=True))
            rows.append(
                {
                    "network": name,
                    "batch": batch,
                    "contestant": contestant,
                    "images_per_s": [round(value, 1) for value in values],
                    "median_images_per_s": round(statistics.median(values), 1),
                    "ratio": round(ratio, 3),
                }
            )
        write_json(
            args.out, {**head("train_cores"), "goal": GOAL, "idle": round(least_idle, 3), "rows": rows}
        )
    for row in rows:
        told = f"{row['median_images_per_s']:7.0f} images/s  {row['ratio']:.2f}"
        print(f"{row['network']:14} {row['batch']:4} {row['contestant']:14} {told}")


if __name__ == "__main__":
    main()
