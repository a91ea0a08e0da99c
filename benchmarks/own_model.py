"""A trained network within a part of its own milliseconds: hwnas beside the other ways to make it smaller.

    python -m benchmarks.own_model --data parquet:PATH --out FILE
    python -m benchmarks.own_model --data parquet:PATH --parents resnet20@3x16x16 --targets 0.5 --seeds 0 \
        --images 10000 --contestants ours uniform --out FILE

A parent is a ResNet for small images by its depth (``resnet56``), which is trained first; or
``efficientnet-lite0`` with ImageNet's weights (`benchmarks.own_parents`), or any other ``--model`` that has
ten classes (``FILE.py:function``, ``torchvision:NAME``), which are fine-tuned; ``--parent-images`` says how
long. ``@CxHxW`` behind it is the size of images. Targets are parts of the parent's measured
milliseconds. Every contestant fine-tunes by the same loop, on the same images, at the same rate, taught by
the parent.

``uniform``: blocks dropped evenly over the network, the largest such network that keeps the target.
``torch-pruning``: global magnitude pruning, channels rounded to 8 (``pip install torch-pruning``), the least
pruned network that keeps the target, found by bisection over measured milliseconds. ``torch-pruning-taylor``:
the same by Taylor's importance of one gradient over `TAYLOR_IMAGES` training images.
``ours``: `hwnas search --model`. Times are of ONNX Runtime, one thread, each interleaved with its parent.

With ``--clock fake`` the milliseconds are those of hwnas's deterministic device, for a machine that is too
busy for a clock: what is compared then is what each contestant chooses, not how well it is measured.

The trained parent, its table and the searches stay in ``--work``, and rows that the file has are not made
again: a benchmark that was cut off goes on.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import json
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from benchmarks.common import bars, machine
from hwnas.errors import BudgetInfeasible
from hwnas.jobs import own_model
from hwnas.jobs.profile import ProfileOptions, profile
from hwnas.jobs.search import SearchOptions, search
from hwnas.jobs.train import train
from hwnas.jobs.train_options import TrainOptions
from hwnas.measure import device
from hwnas.measure.timing import Builder, TimingOptions, measure
from hwnas.nets.build import build, load_weights, read_weights
from hwnas.nets.count import count
from hwnas.nets.model.space import ModelSpace
from hwnas.nets.model.to_onnx import module_onnx
from hwnas.nets.norms import recalibrate
from hwnas.nets.spaces import make
from hwnas.records import now_utc
from hwnas.search.fit.options import FitOptions
from hwnas.store import write_json, write_network, write_text
from hwnas.train import data as datasets
from hwnas.train import loop
from hwnas.train.data import Dataset, Split
from hwnas.train.evaluator import RECALIBRATED
from hwnas.train.losses import Teacher
from hwnas.train.options import Recipe
from hwnas.train.score import accuracy

# Parents by a short name, and the images that they are usually compared on.
NAMED = {"efficientnet-lite0": "benchmarks/own_parents.py:efficientnet_lite0"}
SIZES = {NAMED["efficientnet-lite0"]: "3x64x64"}
CELL = ("parent", "contestant", "target", "seed")
TARGETS, SEEDS, IMAGES = (0.7, 0.5, 0.35), (0, 1, 2), 40_000
# Bisections of the pruning ratio; each is a measurement.
HALVINGS = 5
# Times that a search is repeated which is undecided: each waits for a quiet machine and trains nothing again.
REPEATS = 10
# Training images of the gradient that Taylor's importance is taken from.
TAYLOR_IMAGES = 1_024


class Parent:
    """A trained network with its data, its table and its milliseconds.

    Attributes:
        source, weights: as ``--model`` and ``--weights`` name it.
        test: top-1 on the test split.
        ms: measured.
    """

    def __init__(
        self, name: str, data: str, images: int, work: Path, clock: str, *, insist: bool = False
    ) -> None:
        self.name, self.data, self.clock, self.insist = name, data, clock, insist
        source, _, size = name.partition("@")
        source = NAMED.get(source, source)
        shape = tuple(int(part) for part in (size or SIZES.get(source, "3x32x32")).split("x"))
        self.shape = (shape[0], shape[1], shape[2])
        self.folder = work / re.sub(r"[^A-Za-z0-9.]+", "-", name)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.dataset: Dataset = datasets.load(data, input_shape=self.shape, seed=0)
        self.weights: Path | None = None
        if source.startswith("resnet"):
            self.source, self.test = self._trained(source, images)
        else:
            self.source = source
            self.weights, self.test = self._fine_tuned(images)
        self.space = self._space(self.weights)
        table = self.folder / f"{clock}.hwlat.jsonl"
        profile(
            ProfileOptions(
                model=self.source,
                weights=self.weights,
                input_shape=self.shape,
                preset="quick",
                device=clock,
                out=table,
            )
        )
        self.table = table
        self.module = build(self.space.variant(), seed=0).eval()
        self.ms = self.against(self.module)[1]

    def _space(self, weights: Path | None) -> ModelSpace:
        classes = len(self.dataset.classes)
        return own_model.space(self.source, weights, input_shape=self.shape, classes=classes)

    def _trained(self, depth: str, images: int) -> tuple[str, float]:
        """A ResNet's run and its test accuracy."""
        run = self.folder / "parent"
        if not (run / "result.json").is_file():
            network = self.folder / "network.json"
            write_network(network, _resnet(depth, self.shape))
            train(
                TrainOptions(str(network), data=self.data, epochs=images / len(self.dataset.train), out=run)
            )
        return str(run), float(json.loads((run / "result.json").read_text())["accuracy"]["test"])

    def _fine_tuned(self, images: int) -> tuple[Path, float]:
        """Weights of a network that was trained on other images, and its test accuracy on these."""
        weights, told = self.folder / "weights.safetensors", self.folder / "parent.json"
        if not told.is_file():
            spec = self._space(None).variant()
            module = build(spec, seed=0)
            recipe = Recipe(images=images, seed=0)
            loop.train(module, spec, self.dataset, recipe, rate=FitOptions().rate, emit=_say, task="parent")
            save_file({name: value.contiguous() for name, value in module.state_dict().items()}, weights)
            write_json(told, {"test": accuracy(module.eval(), self.dataset.test())})
        return weights, float(json.loads(told.read_text())["test"])

    def against(self, module: nn.Module) -> tuple[float, float]:
        """Milliseconds of a module, and of the parent in the same sessions."""
        backend, setting = device.conditions(
            self.clock, "ort" if self.clock == "cpu" else self.clock, precision="fp32", batch=1, threads=1
        )
        graphs = {
            name: module_onnx(one, self.shape) for name, one in (("one", module), ("parent", self.module))
        }
        builders: dict[str, Builder] = {
            name: partial(backend.build, graph, setting) for name, graph in graphs.items()
        }
        found = measure(builders, TimingOptions.preset("quick"), rng=np.random.default_rng(0))
        return found["one"].floor_ms, found["parent"].floor_ms

    def tuned(self, module: nn.Module, images: int, seed: int) -> nn.Module:
        """Fine-tune in place as `hwnas search --model` does."""
        split = self.dataset.train
        recalibrate(module, split.normalised(torch.arange(min(RECALIBRATED, len(split)))))
        spec = self.space.variant()
        teacher = Teacher(copy.deepcopy(self.module), count(spec).macs)
        recipe = Recipe(images=images, seed=seed)
        loop.train(module, spec, self.dataset, recipe, teacher=teacher, rate=FitOptions().rate)
        return module


def _say(kind: str, fields: Any) -> None:
    """Show how far a training is."""
    if kind == "progress" and fields.get("done") is not None:
        print(f"   {fields['done']:,} of {fields['total']:,} images", end="\r", flush=True)


def _resnet(name: str, shape: tuple[int, int, int]) -> Any:
    """ResNet-20, -32, -56 (He et al. 2016a, section 4.2): 16, 32, 64 channels, 6n + 2 layers."""
    blocks = (int(name.removeprefix("resnet")) - 2) // 6
    return next(s for s in make("resnet-cifar", input_shape=shape).uniform() if s.depths == (blocks,) * 3)


def ours(parent: Parent, target: float, images: int, seed: int) -> nn.Module:
    """`hwnas search --model`."""
    out = parent.folder / f"ours-{parent.clock}-{target:g}-{images}-{seed}"
    options = SearchOptions(
        latency_budget=f"{100 * target:g}%:model",
        data=parent.data,
        model=parent.source,
        weights=parent.weights,
        input_shape=parent.shape,
        table=parent.table,
        device=parent.clock,
        images=images,
        seed=seed,
        insist=parent.insist,
        out=out,
    )
    run = Path(_searched(options)["run"])
    spec = parent.space.variant(dict(json.loads((run / "network.json").read_text())["edits"]))
    module = build(spec, seed=0)
    load_weights(module, read_weights(run / "weights.safetensors"))
    return module.eval()


def _searched(options: SearchOptions) -> Any:
    """A search; again where a disturbed machine left open whether its trained result keeps the budget."""
    for _ in range(REPEATS):
        try:
            return search(options, _tell)
        except BudgetInfeasible as undecided:
            if "too disturbed" not in str(undecided):
                raise
            print("  ", undecided, flush=True)
    return search(options, _tell)


def _tell(kind: str, fields: Any) -> None:
    """Show what a search says."""
    if "text" in fields:
        print("  ", fields["text"], flush=True)


def uniform(parent: Parent, target: float, images: int, seed: int) -> nn.Module:
    """The largest evenly thinned network that keeps the target as measured."""
    chosen = None
    for spec in parent.space.uniform():
        module = build(spec, seed=0).eval()
        ms, whole_ms = parent.against(module)
        if ms > target * whole_ms:
            break
        chosen = module
    return parent.tuned(chosen or build(parent.space.uniform()[0], seed=0), images, seed)


def torch_pruning(parent: Parent, target: float, images: int, seed: int) -> nn.Module:
    """Global magnitude pruning."""
    return _pruned(parent, target, images, seed, taylor=False)


def torch_pruning_taylor(parent: Parent, target: float, images: int, seed: int) -> nn.Module:
    """Global pruning by first-order importance."""
    return _pruned(parent, target, images, seed, taylor=True)


def _pruned(parent: Parent, target: float, images: int, seed: int, *, taylor: bool) -> nn.Module:
    """By Torch-Pruning, the ratio by bisection over measured milliseconds."""
    tp = importlib.import_module("torch_pruning")
    low, high = 0.0, 0.95
    kept: nn.Module | None = None
    fastest: tuple[float, nn.Module] | None = None
    for _ in range(HALVINGS):
        ratio = (low + high) / 2
        module = copy.deepcopy(parent.module)
        heads = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
        if taylor:
            _backward(module, parent.dataset.train, seed)
        pruner = tp.pruner.MagnitudePruner(
            module,
            torch.zeros(1, *parent.shape),
            importance=tp.importance.TaylorImportance() if taylor else tp.importance.MagnitudeImportance(p=2),
            global_pruning=True,
            pruning_ratio=ratio,
            max_pruning_ratio=0.95,
            round_to=8,
            ignored_layers=heads,
        )
        pruner.step()
        module.zero_grad(set_to_none=True)
        ms, whole_ms = parent.against(module.eval())
        print(f"   torch-pruning ratio {ratio:.3f}: {ms / whole_ms:.3f} of the parent", flush=True)
        if fastest is None or ms / whole_ms < fastest[0]:
            fastest = (ms / whole_ms, module)
        if ms <= target * whole_ms:
            high, kept = ratio, module
        else:
            low = ratio
    assert fastest is not None
    # Where none keeps the target, the fastest one; its row says so.
    return parent.tuned(kept if kept is not None else fastest[1], images, seed)


def _backward(module: nn.Module, split: Split, seed: int) -> None:
    """The gradient of the mean loss of random training images, in the module's parameters."""
    rng = np.random.default_rng(seed)
    chosen = torch.from_numpy(rng.permutation(len(split))[:TAYLOR_IMAGES])
    for at in torch.split(chosen, 128):
        loss = F.cross_entropy(module(split.normalised(at)), split.labels[at], reduction="sum")
        torch.autograd.backward(loss / len(chosen))


CONTESTANTS: dict[str, Callable[[Parent, float, int, int], nn.Module]] = {
    "uniform": uniform,
    "torch-pruning": torch_pruning,
    "torch-pruning-taylor": torch_pruning_taylor,
    "ours": ours,
}


def cell(parent: Parent, name: str, target: float, images: int, seed: int) -> dict[str, Any]:
    """One contestant, one target, one seed: its test accuracy and its measured part of the milliseconds."""
    module = CONTESTANTS[name](parent, target, images, seed)
    ms, whole_ms = parent.against(module.eval())
    row = {
        "parent": parent.name,
        "contestant": name,
        "target": target,
        "seed": seed,
        "test": accuracy(module, parent.dataset.test()),
        "ms": ms,
        "ratio": ms / whole_ms,
        "kept": ms <= target * whole_ms,
    }
    print(json.dumps(row), flush=True)
    return row


def main(words: Sequence[str] | None = None) -> None:
    """Every cell; the file is written after each of them."""
    reader = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    reader.add_argument("--data", required=True, metavar="SOURCE")
    reader.add_argument("--parents", nargs="+", default=["resnet56"])
    reader.add_argument("--targets", nargs="+", type=float, default=TARGETS)
    reader.add_argument("--images", type=int, default=IMAGES)
    reader.add_argument("--parent-images", type=int, default=400_000)
    reader.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    reader.add_argument("--contestants", nargs="+", choices=list(CONTESTANTS), default=list(CONTESTANTS))
    reader.add_argument("--clock", choices=("cpu", "fake"), default="cpu", help="whose milliseconds")
    reader.add_argument("--threads", type=int, default=1, help="of trainings")
    reader.add_argument("--insist", action="store_true", help="go on with a table of a busy machine")
    reader.add_argument("--work", type=Path, default=Path("runs/own-model"))
    reader.add_argument("--out", type=Path, required=True)
    asked = reader.parse_args(words)
    torch.set_num_threads(asked.threads)
    before: dict[str, Any] = (
        json.loads(asked.out.read_text()) if asked.out.is_file() else {"rows": [], "parents": {}}
    )
    rows: list[dict[str, Any]] = before["rows"]
    parents: dict[str, Any] = before["parents"]
    if before["rows"] and before["options"]["images"] != asked.images:
        reader.error(f"{asked.out} has rows of {before['options']['images']} images; give another --out")
    for name in asked.parents:
        parent = Parent(name, asked.data, asked.parent_images, asked.work, asked.clock, insist=asked.insist)
        parents[name] = {"test": parent.test, "ms": parent.ms, "images": asked.parent_images}
        print(name, parents[name], flush=True)
        for seed in asked.seeds:
            for target in asked.targets:
                for contestant in asked.contestants:
                    cell_of = (name, contestant, target, seed)
                    if any(cell_of == tuple(row[key] for key in CELL) for row in rows):
                        continue
                    rows.append(cell(parent, contestant, target, asked.images, seed))
                    _write(asked, parents, rows)


def _write(asked: argparse.Namespace, parents: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    groups = list(dict.fromkeys((r["parent"], r["target"]) for r in rows))
    names = list(dict.fromkeys(r["contestant"] for r in rows))
    found = {
        (name, group): [
            r["test"] for r in rows if (r["contestant"], (r["parent"], r["target"])) == (name, group)
        ]
        for name in names
        for group in groups
    }
    options = {k: v for k, v in vars(asked).items() if k not in ("data", "out", "work")}
    lists = ("parents", "targets", "seeds", "contestants")
    listed = [f"--{word} {' '.join(map(str, getattr(asked, word)))}" for word in lists]
    write_json(
        asked.out,
        {
            "benchmark": "own_model",
            "command": " ".join(
                [
                    "python -m benchmarks.own_model --data parquet:PATH",
                    *listed,
                    f"--images {asked.images} --parent-images {asked.parent_images} --clock {asked.clock}",
                    f"--threads {asked.threads}{' --insist' * asked.insist}",
                ]
            ),
            "options": options,
            "taken_at": now_utc(),
            "machine": machine(),
            "parents": parents,
            "rows": rows,
            "mean_test": {f"{n} {p} {t:g}": mean(v) for (n, (p, t)), v in found.items() if v},
        },
    )
    percent = {
        name: [100 * mean(found[name, group]) if found[name, group] else None for group in groups]
        for name in names
    }
    title = f"Test top-1 within a part of the parent's milliseconds, {asked.images:,} images"
    chart = bars(title, [f"{parent} at {target:g}" for parent, target in groups], percent, "%")
    write_text(asked.out.with_suffix(".svg"), chart)


if __name__ == "__main__":
    main()
