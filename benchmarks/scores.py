"""What scores without training are worth: networks of equal measured latency, ranked by each and by training.

    python -m benchmarks.scores --data parquet:PATH --budgets 0.2ms --images 40000 200000 --networks 40 \
        --seeds 0 --out FILE

Of the space `auto` so many networks are drawn across families, widths and depths whose measured latency is at
most 8 % below the budget (`benchmarks.equal_latency`). Each gets the scores of `SCORES` on new weights, an
accuracy after a short training, as in a race of families, and an accuracy on the test split after each number
of images, by the standard recipe. At the end: Kendall's tau-b of each score with test top-1 over all networks
and within families, 95 % intervals of a bootstrap over networks, what choosing by the score loses, and its
seconds.

FILE is written after every score and every training, and a repeated command goes on. Latency tables and
checkpoints lie beside it. Run it where nothing else runs: latencies and seconds are of this machine.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch

from benchmarks import equal_latency, untrained
from benchmarks.agreement import compared
from benchmarks.common import head
from benchmarks.frontier import Bench, milliseconds
from hwnas.nets.build import build
from hwnas.nets.count import count
from hwnas.search.solve.entropy import entropy
from hwnas.spec import NetworkSpec
from hwnas.store import write_json
from hwnas.train.data import Dataset, load
from hwnas.train.loop import train
from hwnas.train.options import Recipe
from hwnas.train.precision import on_threads
from hwnas.train.score import score

# As many as the families benchmark gives: a first training of a race over 40,000 images.
SHORT = 2_666


@dataclass(frozen=True)
class Question:
    """A network to score."""

    spec: NetworkSpec
    data: Dataset
    seed: int
    short: int

    def images(self, part: int, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Training images, normalised, and labels: the `part`-th so many of an order by the seed."""
        order = np.random.default_rng([self.seed, 7]).permutation(len(self.data.train))
        at = torch.from_numpy(order[part * number : (part + 1) * number])
        return self.data.train.normalised(at), self.data.train.labels[at]


def _zico(asked: Question) -> dict[str, float]:
    batches = [asked.images(part, untrained.ZICO_BATCH) for part in range(untrained.ZICO_BATCHES)]
    return {"zico": untrained.zico(untrained.opened(asked.spec, asked.seed), batches)}


def _swap(asked: Question) -> dict[str, float]:
    images, _ = asked.images(0, untrained.SWAP_BATCH)
    return {"swap": untrained.swap(untrained.opened(asked.spec, asked.seed), images)}


def _az_nas(asked: Question) -> dict[str, float]:
    shape = (untrained.AZ_BATCH, *asked.data.input_shape)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(asked.seed))
    return untrained.az_nas(untrained.opened(asked.spec, asked.seed), noise, asked.seed)


def _short(asked: Question) -> dict[str, float]:
    recipe = Recipe(images=asked.short, seed=asked.seed)
    return {"short": train(build(asked.spec, seed=asked.seed), asked.spec, asked.data, recipe).accuracy}


# What is computed at once, and timed together, by name; each gives one score or several.
SCORES: dict[str, Callable[[Question], dict[str, float]]] = {
    "entropy": lambda asked: {"entropy": entropy(asked.spec)},
    "parameters": lambda asked: {"parameters": float(count(asked.spec).params)},
    "macs": lambda asked: {"macs": float(count(asked.spec).macs)},
    "zico": _zico,
    "swap": _swap,
    "az_nas": _az_nas,
    "short": _short,
}
# AZ-NAS is the sum of logarithmic ranks of these; its complexity is the number of multiply-accumulates.
PARTS = ("expressivity", "progressivity", "trainability", "macs")


class Scores:
    """The content of FILE, and what is needed to make more of it."""

    def __init__(self, asked: argparse.Namespace) -> None:
        self.asked, self.out = asked, Path(asked.out)
        self.work = self.out.with_suffix("")
        self.work.mkdir(parents=True, exist_ok=True)
        there = json.loads(self.out.read_text()) if self.out.exists() else {}
        self.short: int = there.get("short", asked.short)
        if self.short != asked.short:
            raise SystemExit(
                f"{self.out} has short trainings of {self.short} images, and {asked.short} are asked for; "
                f"repeat with --short {self.short}, or write another file"
            )
        self.networks: dict[str, list[dict[str, Any]]] = there.get("networks", {})
        self.scores: list[dict[str, Any]] = there.get("scores", [])
        self.rows: list[dict[str, Any]] = there.get("rows", [])
        self.data: dict[int, Dataset] = {}

    def dataset(self, seed: int) -> Dataset:
        """The images, split by a seed."""
        if seed not in self.data:
            self.data = {seed: load(self.asked.data, seed=seed)}
        return self.data[seed]

    def choose(self, budget: str) -> None:
        """Draw and measure the networks of a budget, unless that was done."""
        wanted = self.asked.networks
        if budget in self.networks:
            if (found := len(self.networks[budget])) != wanted:
                raise SystemExit(
                    f"{self.out} has {found} networks at {budget}, and {wanted} are asked for; repeat with "
                    f"--networks {found}, or write another file"
                )
            return
        data, budget_ms = self.dataset(self.asked.seeds[0]), milliseconds(budget)
        shape, classes = data.input_shape, len(data.classes)
        table = self.work / f"table-{budget.replace(':', '-')}.jsonl"
        equal_latency.profiled(budget_ms, self.asked.backend, shape, classes, table)
        space, price = equal_latency.priced(table, shape, classes)
        bench = Bench(self.asked.backend, shape)
        self.networks[budget] = equal_latency.chosen(
            bench, space, price, budget_ms, wanted, self.asked.seeds[0]
        )
        self.write()

    def score(self, budget: str, network: dict[str, Any], seed: int) -> None:
        """The scores of a network that are missing."""
        place = {"budget": budget, "network": network["key"], "seed": seed}
        mine = next((one for one in self.scores if one.items() >= place.items()), None)
        if mine is None:
            mine = {**place, "values": {}, "seconds": {}}
            self.scores.append(mine)
        if mine["seconds"].keys() >= SCORES.keys():
            return
        spec = NetworkSpec.model_validate(network["spec"])
        question = Question(spec, self.dataset(seed), seed, self.short)
        for name, compute in SCORES.items():
            if name in mine["seconds"]:
                continue
            begun = time.perf_counter()
            with on_threads(1):
                found = compute(question)
            mine["values"] |= found
            mine["seconds"][name] = time.perf_counter() - begun
            self.write()
        print(budget, network["family"], network["key"], mine["values"], flush=True)

    def train(self, budget: str, network: dict[str, Any], images: int, seed: int) -> None:
        """Train a network, unless its row is there."""
        place = {"budget": budget, "network": network["key"], "images": images, "seed": seed}
        if any(row.items() >= place.items() for row in self.rows):
            return
        spec, data = NetworkSpec.model_validate(network["spec"]), self.dataset(seed)
        checkpoint = self.work / f"{network['key']}-{images}-{seed}.ckpt"
        module = build(spec, seed=seed)
        result = train(module, spec, data, Recipe(images=images, seed=seed), checkpoint=checkpoint)
        test = score(module, data.test()).accuracy
        self.rows.append({**place, "val": result.accuracy, "test": test, "train_seconds": result.wall_s})
        self.write()
        checkpoint.unlink(missing_ok=True)
        print(budget, network["family"], images, seed, f"{100 * test:.2f} %", flush=True)

    def table(self) -> list[dict[str, Any]]:
        """Of each budget and number of images how far each score agrees with the trainings so far."""
        found = []
        for budget, images in dict.fromkeys((row["budget"], row["images"]) for row in self.rows):
            reached: dict[str, list[float]] = {}
            for row in self.rows:
                if (row["budget"], row["images"]) == (budget, images):
                    reached.setdefault(row["network"], []).append(row["test"])
            scored = {s["network"] for s in self._complete(budget)}
            networks = [one for one in self.networks[budget] if one["key"] in reached.keys() & scored]
            if len(networks) < 2:
                continue
            values, seconds = self._means(budget, [one["key"] for one in networks])
            accuracy = [mean(reached[one["key"]]) for one in networks]
            families = [one["family"] for one in networks]
            place = {"budget": budget, "images": images, "networks": len(networks)}
            for row in compared(values, accuracy, families):
                found.append({**place, **row, "seconds": seconds[row["score"]]})
        return found

    def _complete(self, budget: str) -> list[dict[str, Any]]:
        """Of a budget what has every score."""
        return [s for s in self.scores if s["budget"] == budget and s["seconds"].keys() >= SCORES.keys()]

    def _means(self, budget: str, keys: list[str]) -> tuple[dict[str, list[float]], dict[str, float]]:
        """Scores of networks, means over seeds, by name; and the seconds that each takes for one network."""
        of = {key: [s for s in self._complete(budget) if s["network"] == key] for key in keys}
        names = list(next(iter(of.values()))[0]["values"])
        values = {name: [mean(one["values"][name] for one in of[key]) for key in keys] for name in names}
        values["az_nas"] = list(untrained.log_ranks({part: values[part] for part in PARTS}))
        all_scores = [one for own in of.values() for one in own]
        seconds = {}
        for name in values:
            timed = "az_nas" if name in PARTS and name != "macs" else name
            seconds[name] = mean(one["seconds"][timed] for one in all_scores)
        return values, seconds

    def write(self) -> None:
        """FILE as it is now."""
        body = {
            "window": equal_latency.WINDOW,
            "short": self.short,
            "networks": self.networks,
            "scores": self.scores,
            "rows": self.rows,
            "table": self.table(),
        }
        write_json(self.out, {**head("scores"), **body})


def show(table: list[dict[str, Any]]) -> None:
    """The table, best first."""
    for cell in dict.fromkeys((row["budget"], row["images"], row["networks"]) for row in table):
        print(f"{cell[0]}, {cell[1]:,} images, {cell[2]} networks")
        mine = [row for row in table if (row["budget"], row["images"], row["networks"]) == cell]
        for row in sorted(mine, key=lambda row: -row["all"]["tau"] if row["all"] else 2.0):
            every, within = (_written(row[name]) for name in ("all", "within"))
            lost = f"{100 * row['regret']:5.2f} points lost"
            print(f"  {row['score']:14} {every:22} within {within:22} {lost}  {row['seconds']:.3g} s")


def _written(found: dict[str, float] | None) -> str:
    return "no pair" if found is None else f"{found['tau']:.2f} ({found['low']:.2f} to {found['high']:.2f})"


def main() -> None:
    """Fill in FILE."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--budgets", nargs="*", default=["0.2ms"])
    parser.add_argument("--images", nargs="*", type=int, default=[40_000, 200_000])
    parser.add_argument("--networks", type=int, default=40)
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    parser.add_argument("--short", type=int, default=SHORT, help="images of the short training")
    parser.add_argument("--backend", default="ort")
    parser.add_argument("--out", required=True, help="FILE.json, written after every score and training")
    asked = parser.parse_args()
    scores = Scores(asked)
    for budget in asked.budgets:  # all at once: short, and to be done on an idle machine
        scores.choose(budget)
    for seed in asked.seeds:
        for budget in asked.budgets:
            for network in scores.networks[budget]:
                scores.score(budget, network, seed)
    for images in asked.images:
        for seed in asked.seeds:
            for budget in asked.budgets:
                for network in scores.networks[budget]:
                    scores.train(budget, network, images, seed)
    scores.write()
    show(scores.table())


if __name__ == "__main__":
    main()
