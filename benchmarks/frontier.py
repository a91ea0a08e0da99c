"""Accuracy at equal milliseconds and images: ours, in the space of all families, beside simple alternatives.

    python -m benchmarks.frontier --data parquet:PATH --budgets 0.2ms 0.4ms 0.8ms --images 40000 200000 \
        --seeds 0 1 2 --out frontier.json

Every contestant is trained by the same recipe with as many images, a search's own included, and reads the
test split once. Those without a search are scaled, by width or depth, to the largest member that takes at
most `AIM` of the budget when it is measured. FILE is written after every training, and a repeated command
goes on; weights lie beside it. At the end of a command all engines of a budget are measured once more in
one run, in turns (`ms`; `kept` says whether the median is within the budget).

Run it where nothing else runs. A contestant of which no member fits is a row without `test`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.common import head
from hwnas import budgets
from hwnas.errors import BudgetInfeasible
from hwnas.jobs.search import search
from hwnas.jobs.search.options import SearchOptions
from hwnas.measure import device as devices
from hwnas.measure import timing
from hwnas.nets import onnx
from hwnas.nets.build import build
from hwnas.nets.chainspace import ChainSpace
from hwnas.nets.levels import Gene, Level, Operator
from hwnas.nets.model.to_onnx import module_onnx
from hwnas.nets.spaces import make, staged
from hwnas.protocols import Engine
from hwnas.records import Measurement
from hwnas.spec import NetworkSpec
from hwnas.store import write_json
from hwnas.train.data import Dataset, load
from hwnas.train.loop import train
from hwnas.train.options import Recipe
from hwnas.train.score import judge

OURS = "hwnas"
# Part of the budget that a scaled network may take when it is chosen; its median differs a little later.
AIM = 0.95
WIDTHS = [round(0.05 * 1.12**step, 3) for step in range(40)]
SEARCHES: dict[str, dict[str, Any]] = {
    OURS: {"space": "auto", "strategy": "auto"},
    "random": {"strategy": "random", "settings": {"search_share": 0.5}},
    "tpe": {"strategy": "tpe", "settings": {"search_share": 0.5}},
}


@dataclass(frozen=True)
class Built:
    """A network that can be trained and measured."""

    module: Callable[[], nn.Module]
    spec: NetworkSpec | None = None

    def onnx(self, shape: tuple[int, int, int]) -> bytes:
        """Its graph, for a runtime."""
        if self.spec is not None:
            return onnx.network(self.spec, batch=1, seed=0)
        return module_onnx(self.module(), shape)


def of_spec(spec: NetworkSpec) -> Built:
    """A network of our blocks, from new weights."""
    return Built(lambda: build(spec, seed=0), spec)


# -- contestants that are scaled to the budget: members, smallest first ----------------------------------


def resnets(shape: tuple[int, int, int], classes: int) -> Iterator[Built]:
    """Uniform ResNets of 16, 32, 64 channels, 1 to 18 blocks a stage; narrower ones where none fits."""
    for width in (4, 8, 12):
        stages = [[Level(width * 2**s, s, (Operator("basic"),), (1, 1), s)] for s in range(3)]
        space = ChainSpace("narrow", shape, classes, **staged(stages), reference=(0, 1, 2))
        yield of_spec(space.express(Gene((0, 1, 2), ((Operator("basic"),),) * 3)))
    yield from map(of_spec, make("resnet-cifar", input_shape=shape, classes=classes).uniform())


def mbv2_cifar(shape: tuple[int, int, int], classes: int) -> Iterator[Built]:
    """Uniform members of mbv2-cifar."""
    yield from map(of_spec, make("mbv2-cifar", input_shape=shape, classes=classes).uniform())


def of_torchvision(name: str) -> Callable[[tuple[int, int, int], int], Iterator[Built]]:
    """A network of torchvision's in ascending widths, with the stem and the first stage at full stride 1."""

    def members(shape: tuple[int, int, int], classes: int) -> Iterator[Built]:
        for width in WIDTHS:
            yield Built(partial(_small, name, width, classes))

    return members


def _mobilenet_v2(width: float, classes: int) -> nn.Module:
    from torchvision.models import MobileNetV2

    net: nn.Module = MobileNetV2(num_classes=classes, width_mult=width, dropout=0.0)
    return net


def _mobilenet_v3(width: float, classes: int) -> nn.Module:
    from torchvision.models import mobilenetv3

    rows, last = mobilenetv3._mobilenet_v3_conf("mobilenet_v3_small", width_mult=width)
    net: nn.Module = mobilenetv3.MobileNetV3(rows, last, num_classes=classes, dropout=0.0)
    return net


def _shufflenet_v2(width: float, classes: int) -> nn.Module:
    from torchvision.models import ShuffleNetV2

    channels = [max(4, 4 * round(c * width / 4)) for c in (24, 116, 232, 464, 1024)]
    net: nn.Module = ShuffleNetV2([4, 8, 4], channels, num_classes=classes)
    net.maxpool = nn.Identity()
    return net


def _efficientnet(width: float, classes: int) -> nn.Module:
    from torchvision.models import efficientnet

    row = partial(efficientnet.MBConvConfig, width_mult=width, depth_mult=1.0)
    shapes = [(1, 3, 1, 32, 16, 1), (6, 3, 2, 16, 24, 2), (6, 5, 2, 24, 40, 2), (6, 3, 2, 40, 80, 3)]
    shapes += [(6, 5, 1, 80, 112, 3), (6, 5, 2, 112, 192, 4), (6, 3, 1, 192, 320, 1)]
    rows = [row(*shape) for shape in shapes]
    net: nn.Module = efficientnet.EfficientNet(
        rows, dropout=0.0, stochastic_depth_prob=0.0, num_classes=classes
    )
    return net


TORCHVISION: dict[str, Callable[[float, int], nn.Module]] = {
    "mobilenet_v2": _mobilenet_v2,
    "mobilenet_v3_small": _mobilenet_v3,
    "shufflenet_v2": _shufflenet_v2,
    "efficientnet": _efficientnet,
}


def _small(name: str, width: float, classes: int) -> nn.Module:
    """With the first two strides taken out, as is usual for images of 32 pixels."""
    net = TORCHVISION[name](width, classes)
    strided = [m for m in net.modules() if isinstance(m, nn.Conv2d) and m.stride == (2, 2)]
    for conv in strided[: 1 if hasattr(net, "maxpool") else 2]:
        conv.stride = (1, 1)
    return net


def airbench(shape: tuple[int, int, int], classes: int) -> Iterator[Built]:
    """Wide and shallow as airbench94 (Jordan 2024): three groups of two convolutions, 64-256-256 scaled."""
    for width in WIDTHS:
        yield Built(partial(_airbench, width, shape[0], classes))


def _airbench(width: float, channels: int, classes: int) -> nn.Module:
    def widened(c: int) -> int:
        return max(4, 4 * round(c * width / 4))

    layers: list[nn.Module] = [nn.Conv2d(channels, 24, 2), nn.GELU()]
    before = 24
    for after in map(widened, (64, 256, 256)):
        layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.MaxPool2d(2)]
        layers += [nn.BatchNorm2d(after), nn.GELU(), nn.Conv2d(after, after, 3, padding=1, bias=False)]
        layers += [nn.BatchNorm2d(after), nn.GELU()]
        before = after
    return nn.Sequential(*layers, nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(before, classes))


SCALED: dict[str, Callable[[tuple[int, int, int], int], Iterable[Built]]] = {
    "resnet": resnets,
    "mbv2-cifar": mbv2_cifar,
    **{name: of_torchvision(name) for name in TORCHVISION},
    "airbench": airbench,
}


# -- measuring -------------------------------------------------------------------------------------------


class Bench:
    """Builds and measures engines of the runtime that is asked for."""

    def __init__(self, backend: str, shape: tuple[int, int, int]) -> None:
        self.runtime, self.setting = devices.conditions("cpu", backend, precision="fp32", batch=1, threads=1)
        self.shape = shape

    def engine(self, built: Built) -> Callable[[], Engine]:
        """A function that builds the engine."""
        graph = built.onnx(self.shape)
        return lambda: self.runtime.build(graph, self.setting)

    def measured(self, engines: dict[str, Callable[[], Engine]], preset: str) -> dict[str, Measurement]:
        """Engines measured in turns."""
        return timing.measure(engines, timing.TimingOptions.preset(preset), rng=np.random.default_rng(0))

    def largest(self, members: Sequence[Built], budget_ms: float) -> int | None:
        """Place of the largest member within `AIM` of the budget, by bisection; None where none is."""
        low, high = -1, len(members)
        while high - low > 1:
            middle = (low + high) // 2
            # The floor: a neighbour that comes and goes must not make one contestant narrower than another.
            floor_ms = self.measured({"one": self.engine(members[middle])}, "quick")["one"].floor_ms
            fits = floor_ms <= AIM * budget_ms
            low, high = (middle, high) if fits else (low, middle)
        return low if low >= 0 else None


# -- rows ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """What one row is of."""

    contestant: str
    budget: str
    images: int
    seed: int

    @property
    def name(self) -> str:
        """For files."""
        return f"{self.contestant}-{self.budget.replace(':', '-')}-{self.images}-{self.seed}"


class Frontier:
    """The rows of FILE, and what is needed to make more of them."""

    def __init__(self, asked: argparse.Namespace) -> None:
        self.asked, self.out = asked, Path(asked.out)
        self.work = self.out.with_suffix("")
        self.work.mkdir(parents=True, exist_ok=True)
        there = json.loads(self.out.read_text()) if self.out.exists() else {}
        self.rows: list[dict[str, Any]] = there.get("rows", [])
        self.chosen: dict[str, int | None] = there.get("chosen", {})
        self.data: dict[int, Dataset] = {}

    def dataset(self, seed: int) -> Dataset:
        """The images, split by a seed."""
        if seed not in self.data:
            self.data = {seed: load(self.asked.data, seed=seed)}
        return self.data[seed]

    def row(self, cell: Cell) -> None:
        """Train a contestant, unless its row is there."""
        names = ("contestant", "budget", "images", "seed")
        key = tuple(getattr(cell, name) for name in names)
        if any(tuple(row[name] for name in names) == key for row in self.rows):
            return
        begun = time.perf_counter()
        found = self.searched(cell) if cell.contestant in SEARCHES else self.scaled(cell)
        took_s = time.perf_counter() - begun
        self.rows.append(
            {**dict(zip(names, key)), "ms": None, "kept": None, "train_seconds": took_s, **found}
        )
        self.write()
        print(cell.name, found, flush=True)

    def searched(self, cell: Cell) -> dict[str, Any]:
        """By a search, whose images count."""
        given = {"space": self.asked.space, **SEARCHES[cell.contestant]}
        options = SearchOptions(
            latency_budget=cell.budget,
            data=self.asked.data,
            device="cpu",
            backend=self.asked.backend,
            precision="fp32",
            images=cell.images,
            seed=cell.seed,
            out=self.work / cell.name,
            **given,
        )
        try:
            body = search(options)
        except BudgetInfeasible as exc:
            return {"test": None, "failed": str(exc)}
        return {"test": body["accuracy"]["test"], "train_seconds": body["seconds"]["training"]}

    def scaled(self, cell: Cell) -> dict[str, Any]:
        """A contestant that is scaled to the budget and trained."""
        data, built = self.dataset(cell.seed), self.member(cell.contestant, cell.budget)
        if built is None:
            return {"test": None, "failed": "no member fits"}
        torch.manual_seed(cell.seed)
        module = build(built.spec, seed=cell.seed) if built.spec is not None else built.module()
        # A torch module has no spec of ours, which the loop needs for its cost alone.
        spec = (
            built.spec
            or make("resnet-cifar", input_shape=data.input_shape, classes=len(data.classes)).smallest()
        )
        checkpoint = self.work / f"{cell.name}.ckpt"
        recipe = Recipe(images=cell.images, seed=cell.seed)
        result = train(module, spec, data, recipe, checkpoint=checkpoint)
        if built.spec is not None:
            (self.work / f"{cell.name}.json").write_text(built.spec.to_json())
        else:
            (self.work / f"{cell.name}.onnx").write_bytes(module_onnx(module, data.input_shape))
        test = judge(module, data.test(), data.classes).score
        checkpoint.unlink(missing_ok=True)
        return {"test": test.accuracy, "val": result.accuracy, "train_seconds": result.wall_s}

    def member(self, contestant: str, budget: str) -> Built | None:
        """The member of a contestant that is scaled to a budget; chosen once."""
        data, key = self.dataset(self.asked.seeds[0]), f"{contestant} {budget}"
        members = list(SCALED[contestant](data.input_shape, len(data.classes)))
        if key not in self.chosen:
            self.chosen[key] = self.bench.largest(members, milliseconds(budget))
            self.write()
            print(f"{key}: member {self.chosen[key]} of {len(members)}", flush=True)
        at = self.chosen[key]
        return None if at is None else members[at]

    @property
    def bench(self) -> Bench:
        """Measures here."""
        return Bench(self.asked.backend, self.dataset(self.asked.seeds[0]).input_shape)

    def measure(self, budget: str) -> None:
        """All engines of a budget once more, in one run, in turns."""
        mine = [row for row in self.rows if row["budget"] == budget and row["test"] is not None]
        if not mine or all(row["ms"] is not None for row in mine):
            return
        bench = self.bench
        graphs: dict[str, bytes] = {}
        names: dict[int, str] = {}
        for at, row in enumerate(mine):
            cell = Cell(row["contestant"], row["budget"], row["images"], row["seed"])
            graph = self.graph(cell)
            same = next((name for name, other in graphs.items() if other == graph), None)
            names[at] = same or cell.name
            graphs[names[at]] = graph
        engines = {name: self.builder(bench, graph) for name, graph in graphs.items()}
        found = bench.measured(engines, "default")
        for at, row in enumerate(mine):
            row["ms"], row["floor_ms"] = found[names[at]].median_ms, found[names[at]].floor_ms
            row["kept"] = row["ms"] <= milliseconds(budget)
        self.write()

    def graph(self, cell: Cell) -> bytes:
        """The trained network of a row as ONNX; one architecture has one graph, whatever its weights."""
        path = self.work / f"{cell.name}.onnx"
        if path.exists():
            return path.read_bytes()
        run = self.work / cell.name / "network.json"
        text = (run if run.exists() else self.work / f"{cell.name}.json").read_text()
        body = json.loads(text)
        spec = NetworkSpec.model_validate({k: v for k, v in body.items() if k != "schema"})
        return onnx.network(spec, batch=1, seed=0)

    @staticmethod
    def builder(bench: Bench, graph: bytes) -> Callable[[], Engine]:
        """Builds an engine of a graph."""
        return lambda: bench.runtime.build(graph, bench.setting)

    def write(self) -> None:
        """FILE as it is now."""
        write_json(
            self.out,
            {**head("frontier"), "chosen": self.chosen, "rows": self.rows},
        )


def milliseconds(budget: str) -> float:
    """A budget that names a latency."""
    ms = budgets.parse(budget)[0].latency_ms
    if ms is None:
        raise SystemExit(f"budget {budget!r} names no milliseconds")
    return ms


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Mean test accuracy of every cell, best first."""
    for cell in dict.fromkeys((row["budget"], row["images"]) for row in rows):
        print(f"{cell[0]}, {cell[1]:,} images")
        mine = [row for row in rows if (row["budget"], row["images"]) == cell and row["test"] is not None]
        by_name = {
            name: [r for r in mine if r["contestant"] == name] for name in {r["contestant"] for r in mine}
        }
        for name, some in sorted(by_name.items(), key=lambda pair: -mean(r["test"] for r in pair[1])):
            ms = [r["ms"] for r in some if r["ms"] is not None]
            at = f"{mean(ms):.3f} ms, kept {sum(bool(r['kept']) for r in some)} of {len(some)}" if ms else ""
            seconds = mean(r["train_seconds"] for r in some)
            print(f"  {name:20} {100 * mean(r['test'] for r in some):6.2f} % {seconds:6.0f} s  {at}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    names = [*SCALED, "random", "tpe", OURS]
    parser.add_argument("--data", required=True)
    parser.add_argument("--budgets", nargs="*", default=["0.2ms", "0.4ms", "0.8ms"])
    parser.add_argument("--images", nargs="*", type=int, default=[40_000, 200_000])
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--contestants", nargs="*", choices=names, default=names)
    parser.add_argument("--space", default="mbv2-cifar", help="of random and tpe: the best single space")
    parser.add_argument("--backend", default="ort")
    parser.add_argument("--out", required=True, help="FILE.json, written after every training")
    asked = parser.parse_args()
    frontier = Frontier(asked)
    for budget in asked.budgets:  # all at once: short, and to be done on a quiet machine
        for contestant in [name for name in asked.contestants if name in SCALED]:
            frontier.member(contestant, budget)
    for images in asked.images:
        for seed in asked.seeds:
            for budget in asked.budgets:
                for contestant in asked.contestants:
                    frontier.row(Cell(contestant, budget, images, seed))
    for budget in asked.budgets:
        frontier.measure(budget)
    show(frontier.rows)


if __name__ == "__main__":
    main()
