"""Does every strategy keep whatever budget it is given, on the device?

    python -m benchmarks.budgets                        # ten random budgets each, about 15 minutes

Real searches of `digits` with little training, so that only latency counts: each strategy gets the same
random budgets, spread evenly on a logarithmic scale between a little above the smallest network and
the largest uniformly scaled one (at most ``--most``). What comes back is built again and measured again in
`SESSIONS` fresh sessions, after the search and apart from it; their median is the judge. The table's
sentinel is timed beside them: where a winner is over, it tells a machine that has slowed since from a
promise that was not enough. A search that
answers that a budget is infeasible is counted as such, with the smallest latency that it names.

Each space needs a latency table of this device (``hwnas profile --device cpu --space NAME``).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.common import save
from benchmarks.promise import value
from benchmarks.strategies import CONTESTANTS
from hwnas.backends import get
from hwnas.cost.model import cost_model
from hwnas.errors import BudgetInfeasible
from hwnas.jobs import predict
from hwnas.jobs.search import search
from hwnas.jobs.search.options import SearchOptions
from hwnas.measure.sentinel import sentinel
from hwnas.measure.session import Gates, SessionOptions, run_session
from hwnas.nets import onnx
from hwnas.nets.build import read_weights
from hwnas.nets.spaces import make
from hwnas.protocols import Engine
from hwnas.store import read_network

SESSIONS = 9
NAMES = ("uniform", "random", "tpe", "stagewise", "densenas", "hournas", "macromicro", "auto")


def again(run: Path, space: str) -> tuple[float, float]:
    """Medians of fresh sessions of a winner and, in turn, of the table's sentinel, in milliseconds."""
    setting = predict.find(None, device="cpu", space=space).setting
    backend = get(setting.backend)
    model = onnx.network(read_network(run / "network.json"), read_weights(run / "weights.safetensors"))
    builders: list[Callable[[], Engine]] = [
        lambda: backend.build(model, setting),
        sentinel(backend, setting),
    ]
    values: tuple[list[float], list[float]] = ([], [])
    for _ in range(SESSIONS):
        for build, found in zip(builders, values, strict=True):
            engine = build()
            found.append(value(run_session(engine, SessionOptions(60.0, calls=40), Gates())))
            engine.close()
    return median(values[0]), median(values[1])


def sentinel_ms(space: str) -> float:
    """The sentinel alone, in milliseconds: the state that the machine is in."""
    setting = predict.find(None, device="cpu", space=space).setting
    engine = sentinel(get(setting.backend), setting)()
    found = [value(run_session(engine, SessionOptions(60.0, calls=40), Gates())) for _ in range(SESSIONS)]
    engine.close()
    return median(found)


def one(name: str, budget_ms: float, seed: int, images: int, space: str) -> dict[str, Any]:
    """A search and what its winner takes when it is measured again."""
    row: dict[str, Any] = {"strategy": name, "budget_ms": budget_ms}
    with TemporaryDirectory() as folder:
        options = SearchOptions(
            latency_budget=f"{budget_ms:.6f}ms",
            data="digits",
            space=space,
            device="cpu",
            images=images,
            seed=seed,
            out=Path(folder) / "run",
            strategy=CONTESTANTS[name]["strategy"],
            settings=dict(CONTESTANTS[name].get("settings", {})),
        )
        try:
            body = search(options)
        except BudgetInfeasible as exc:
            return {**row, "infeasible": str(exc)}
        then_ms = sentinel_ms(space)
        measured_ms, now_ms = again(Path(folder) / "run", space)
    return {
        **row,
        "within_budget": body["within_budget"],
        "promised_ms": body["best"]["measured"]["median_ms"],
        "again_ms": measured_ms,
        "ratio": measured_ms / budget_ms,
        "sentinel_after_search_ms": then_ms,
        "sentinel_again_ms": now_ms,
    }


def budgets(space: str, number: int, most_ms: float, rng: np.random.Generator) -> list[float]:
    """Random budgets in the range of a space."""
    model = cost_model(predict.find(None, device="cpu", space=space))
    found = make(space)
    low = 1.2 * model.estimate(found.smallest()).latency_ms
    high = min(most_ms, model.estimate(found.uniform()[-1]).latency_ms)
    return [float(np.exp(rng.uniform(np.log(low), np.log(high)))) for _ in range(number)]


def main() -> None:
    """Search, measure again, tally."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--budgets", type=int, default=10)
    parser.add_argument("--images", type=int, default=1500)
    parser.add_argument("--most", type=float, default=0.6, help="largest budget, ms")
    parser.add_argument("--strategies", nargs="*", choices=NAMES, default=list(NAMES))
    parser.add_argument("--name", default="budgets", help="name of the result")
    asked = parser.parse_args()
    rows, tally = [], []
    for name in asked.strategies:
        space = CONTESTANTS[name].get("space", "mbv2-cifar")
        wanted = budgets(space, asked.budgets, asked.most, np.random.default_rng(0))
        mine = [one(name, ms, seed, asked.images, space) for seed, ms in enumerate(wanted)]
        ratios = [row["ratio"] for row in mine if "ratio" in row]
        tally.append(
            {
                "strategy": name,
                "space": space,
                "searches": len(mine),
                "answers": len(ratios),
                "over_budget": sum(ratio > 1 for ratio in ratios),
                "largest_ratio": max(ratios, default=None),
                "mean_ratio": float(np.mean(ratios)) if ratios else None,
            }
        )
        rows += mine
        print(tally[-1], flush=True)
    body = {"summary": tally, "runs": rows, "sessions": SESSIONS, "images": asked.images}
    print(save(asked.name, body))


if __name__ == "__main__":
    main()
