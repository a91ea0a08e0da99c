"""Does training length by architecture rank chains better than equal lengths, at equal cost?

    python -m benchmarks.lengths --data parquet:PATH              # 3 seeds, 5,000 images short, 60,000 long
    python -m benchmarks.lengths --data parquet:PATH --seeds 1 --short 1500 --long 9000

The candidates of strategy ``macromicro``'s macro phase, chains of equal latency from shallow and wide to
deep and narrow, are trained long, and short with lengths shared out by rules (MACs / first)^a * (first
width / width)^b; each rule spends the same images in all. The rank correlation of short with long
validation accuracies says what a rule is worth. Each training is kept, so an interrupted run goes on.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.common import save
from hwnas.cost.model import cost_model
from hwnas.documents import read_json
from hwnas.estimates import Budget
from hwnas.jobs import predict
from hwnas.nets.build import build
from hwnas.nets.spaces import make
from hwnas.protocols import SearchContext
from hwnas.search.macromicro.options import length
from hwnas.search.macromicro.strategy import GlobalWalk
from hwnas.spec import NetworkSpec
from hwnas.store import write_json
from hwnas.train.data import Dataset, load
from hwnas.train.loop import train
from hwnas.train.options import Recipe
from hwnas.units import parse_ms

# Exponents of MACs and of 1 / width: equal lengths, ours, and about what was published.
RULES = ((0.0, 0.0), (0.25, 0.5), (0.0, 1.0), (1.0, 1.5))


def trained(spec: NetworkSpec, dataset: Dataset, images: int, seed: int, work: Path) -> float:
    """Validation accuracy after so many images, from scratch; from the folder if it is known."""
    path = work / f"{spec.key}-{images}-{seed}.json"
    if not path.exists():
        recipe = replace(Recipe(), images=images, seed=seed)
        found = train(
            build(spec, seed=seed), spec, dataset, recipe, checkpoint=path.with_suffix(".checkpoint")
        )
        write_json(path, {"accuracy": found.accuracy})
        path.with_suffix(".checkpoint").unlink(missing_ok=True)
    accuracy: float = read_json(path, "training")["accuracy"]
    return accuracy


def tau(one: list[float], other: list[float]) -> float:
    """Kendall's tau-a: agreeing less disagreeing pairs, over all pairs."""
    pairs = [(i, j) for i in range(len(one)) for j in range(i)]
    signs = [(one[i] - one[j]) * (other[i] - other[j]) for i, j in pairs]
    return sum((s > 0) - (s < 0) for s in signs) / len(pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--budget", default="0.7ms")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--short", type=int, default=5_000, help="images a chain, on average")
    parser.add_argument("--long", type=int, default=60_000)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--work", type=Path, default=Path("runs/bench-lengths"))
    asked = parser.parse_args()
    asked.work.mkdir(parents=True, exist_ok=True)
    dataset = load(asked.data, input_shape=None, seed=0, limit=asked.limit)
    space = make("macromicro", input_shape=dataset.input_shape, classes=len(dataset.classes))
    model = cost_model(predict.find(None, device=asked.device, space="macromicro"))
    budget = Budget(latency_ms=parse_ms(asked.budget))
    chains = GlobalWalk(SearchContext(space, model.estimate, budget, {})).frontier()
    long = [
        mean(trained(one, dataset, asked.long, seed, asked.work) for seed in range(asked.seeds))
        for one in chains
    ]
    rules: list[dict[str, Any]] = []
    for exponents in RULES:
        macs = [float(model.estimate(one).macs) for one in chains]
        shares = [
            length(one, chains[0], (m, macs[0]), exponents) for one, m in zip(chains, macs, strict=True)
        ]
        images = [round(asked.short * len(chains) * share / sum(shares)) for share in shares]
        taus, regrets = [], []
        for seed in range(asked.seeds):
            short = [
                trained(one, dataset, n, seed, asked.work) for one, n in zip(chains, images, strict=True)
            ]
            taus.append(tau(short, long))
            regrets.append(100 * (max(long) - long[short.index(max(short))]))
        rules.append(
            {
                "macs": exponents[0],
                "width": exponents[1],
                "images": images,
                "kendall_tau": mean(taus),
                "best_regret_percent": mean(regrets),
            }
        )
        print(f"{exponents}: tau {mean(taus):.2f}, regret {mean(regrets):.2f} %", flush=True)
    body = {
        "networks": len(chains),
        "chains": [[list(one.depths), one.stem.c_out // 2] for one in chains],
        "budget": asked.budget,
        "short": asked.short,
        "long": asked.long,
        "long_percent": [100 * value for value in long],
        "seeds": asked.seeds,
        "rules": rules,
    }
    print(save("lengths", body))


if __name__ == "__main__":
    main()
