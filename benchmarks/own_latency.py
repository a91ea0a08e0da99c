"""How far off are predicted milliseconds of random variants of a user's model?

    python -m benchmarks.own_latency --models torchvision:resnet18@3x64x64 --out FILE
    python -m benchmarks.own_latency --clock fake --variants 8 --out FILE

Each model is profiled once (``--preset``) with `--variants` random variants held out of every fit. They are
measured twice, in the same campaigns as what the table learns from and once more at the end; the truth is
the mean of the two, and what they differ by is ``repeat_percent``. Promised is a mean error of no more than
that and one point. A table that ``--work`` has is not measured again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import machine
from hwnas.cost.model import cost_model
from hwnas.jobs.profile import ProfileOptions, profile
from hwnas.measure import table as tables
from hwnas.measure.rows import SUFFIX
from hwnas.records import now_utc
from hwnas.store import write_json

MODELS = ("torchvision:resnet18@3x64x64", "torchvision:mobilenet_v2@3x64x64")
# Points of mean error that a prediction may have over what two measurements differ by.
ALLOWED = 1.0


def row(model: str, asked: argparse.Namespace) -> dict[str, Any]:
    """One model: the error of its random variants."""
    source, _, size = model.rpartition("@")
    channels, height, width = (int(part) for part in size.split("x"))
    name = source.replace(":", "-").replace("/", "-")
    out = asked.work / f"{name}-{size}-{asked.clock}-{asked.preset}-{asked.variants}{SUFFIX}"
    if not out.exists():
        profile(
            ProfileOptions(
                model=source,
                input_shape=(channels, height, width),
                device=asked.clock,
                preset=asked.preset,
                holdout=asked.variants,
                out=out,
            )
        )
    table = tables.load(out)
    held = [network for network in table.networks if network.role == "holdout"]
    first = np.array([network.measurement.floor_ms for network in held])
    second = np.array([table.repeats[network.spec.key] for network in held])
    truth = (first + second) / 2
    predicted, _ = cost_model(table).predict([network.spec for network in held])
    errors = 100 * np.abs(predicted / truth - 1)
    repeat = 100 * float(np.abs(first / second - 1).mean())
    return {
        "model": model,
        "conditions": table.setting.describe(),
        "variants": len(held),
        "repeat_percent": repeat,
        "error_percent": float(errors.mean()),
        "largest_percent": float(errors.max()),
        "kept": float(errors.mean()) <= repeat + ALLOWED,
    }


def main(words: Sequence[str] | None = None) -> None:
    """Every model; the file is written after each."""
    reader = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    reader.add_argument("--models", nargs="+", default=MODELS, metavar="SOURCE@CxHxW")
    reader.add_argument("--variants", type=int, default=40)
    reader.add_argument("--preset", default="default")
    reader.add_argument("--clock", choices=("cpu", "fake"), default="cpu", help="whose milliseconds")
    reader.add_argument("--work", type=Path, default=Path("runs/own-latency"))
    reader.add_argument("--out", type=Path, required=True)
    asked = reader.parse_args(words)
    asked.work.mkdir(parents=True, exist_ok=True)
    options = {k: v for k, v in vars(asked).items() if k not in ("out", "work")}
    rows: list[dict[str, Any]] = []
    for model in asked.models:
        rows.append(row(model, asked))
        print(json.dumps(rows[-1]), flush=True)
        body = {"benchmark": "own_latency", "options": options, "taken_at": now_utc(), "machine": machine()}
        write_json(asked.out, {**body, "rows": rows})


if __name__ == "__main__":
    main()
