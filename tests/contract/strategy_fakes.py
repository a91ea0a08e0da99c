"""A cost model and a trainer without hardware: prices by MACs, accuracies by formula.

The formulas know an optimum that is not uniform (late stages gain more), so that a strategy can be
right or wrong; noise depends on the seed and the trial only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from hwnas.estimates import Budget, Estimate
from hwnas.nets.build import build
from hwnas.nets.count import Counts, count_block
from hwnas.nets.densenas.graph import SKIP, CandidateOp, DenseSpace, RoutingBlock
from hwnas.nets.spaces import make
from hwnas.protocols import Evaluate, Move, SearchContext, SearchSpace
from hwnas.records import Evaluation, Measurement, Promise, Proposal, SearchResult, Setting, StageImportance
from hwnas.runs import RunFolder
from hwnas.search.driver import search
from hwnas.search.state import Limits
from hwnas.search.strategy import Strategy
from hwnas.spec import BlockSpec, Convention, NetworkSpec

SETTING = Setting(device="fake", backend="fake")
WEIGHT = (0.10, 0.25, 0.45, 0.2, 0.2, 0.2, 0.2)  # what a stage's depth can win

# A dense space of which every network can be listed.
OPS = (CandidateOp("k3t3", "mbconv", 3, 3), CandidateOp("k5t6", "mbconv", 5, 6))
TINY = DenseSpace(
    name="tiny",
    routing=(
        RoutingBlock(8, 8, 0, 0),
        RoutingBlock(8, 8, 1, 1),
        RoutingBlock(12, 8, 1, 1),
        RoutingBlock(16, 4, 2, 1),
        RoutingBlock(32, 4, 3, 0),
    ),
    reach=(3, 3, 3, 3),
    head_ops=OPS,
    stack_ops=(*OPS, SKIP),
    stem=(BlockSpec(kind="conv", c_in=3, c_out=8, act="relu6", size_in=8),),
    classes=10,
)


@cache
def counted(block: BlockSpec, convention: Convention) -> Counts:
    return count_block(block, convention)


def macs_of(spec: NetworkSpec) -> int:
    return sum(counted(block, spec.convention).macs for block in spec.blocks)


def price_ms(spec: NetworkSpec) -> float:
    """1e8 MAC a millisecond and 5 us a block."""
    return macs_of(spec) / 1e8 + 0.005 * len(spec.blocks)


@dataclass
class FakeCost:
    """Prices with an interval of +-4 %; a measurement of the very network makes its price exact.

    `error` is what the model is wrong by: true latency / predicted - 1.
    """

    error: float = 0.0
    known: dict[str, float] = field(default_factory=dict)
    asked: int = 0

    def price_ms(self, spec: NetworkSpec) -> float:
        """What a network is predicted to take, before it is measured."""
        return price_ms(spec)

    def estimate(self, spec: NetworkSpec) -> Estimate:
        self.asked += 1
        params = sum(counted(block, spec.convention).params for block in spec.blocks)
        ms = self.known.get(spec.key, self.price_ms(spec))
        spread = 0.0 if spec.key in self.known else 0.04
        return Estimate(
            latency_ms=ms,
            low_ms=ms * (1 - spread),
            high_ms=ms * (1 + spread),
            coverage=0.95,
            macs=macs_of(spec),
            params=params,
            activation_bytes=65536,
            weight_bytes=4 * params,
            by_stage_ms={"stem": 0.012, "head": 0.006},
            provenance="imported",  # so that the whole interval counts
        )

    def truth_ms(self, spec: NetworkSpec) -> float:
        return self.price_ms(spec) * (1 + self.error)

    def observe(self, spec: NetworkSpec, measured: Measurement) -> None:
        self.known[spec.key] = measured.floor_ms

    def measure(self, spec: NetworkSpec) -> Measurement:
        ms = self.truth_ms(spec)
        times: dict[str, Any] = dict.fromkeys(
            ("floor_ms", "median_ms", "p10_ms", "p90_ms", "p95_ms", "p99_ms"), ms
        )
        return Measurement(**times, samples=100, session_ms=(ms,) * 5, taken_at="2026-01-01T00:00:00+00:00")

    def confirm(self, spec: NetworkSpec, weights: Path | None, budget: Budget) -> tuple[Promise, Measurement]:
        measured = self.measure(spec)
        assert budget.latency_ms is not None
        kept = measured.median_ms <= budget.latency_ms
        promise = Promise(
            verdict="kept" if kept else "broken",
            budget_ms=budget.latency_ms,
            percentile="p50",
            session_ms=measured.session_ms,
            misses=0 if kept else 5,
            confidence=0.97,
        )
        return promise, measured


@dataclass
class FakeTrainer:
    """Accuracy, loss and importance of a network by formula; counts what it was asked to train."""

    folder: Path
    space: SearchSpace
    seed: int = 0
    noise: float = 0.002
    se: float = 0.001
    files: bool = True
    growths: Callable[[Proposal], Sequence[Move]] | None = None
    trained: list[Proposal] = field(default_factory=list)

    def loss(self, spec: NetworkSpec) -> float:
        """Falls with depth, width and operators of each stage, with shrinking returns."""
        total = 2.0
        for stage, blocks in enumerate(spec.stages):
            size = sum(math.sqrt(b.c_out / 16) * (1 + 0.05 * (b.kernel + b.expand) + b.se) for b in blocks)
            total -= WEIGHT[stage % len(WEIGHT)] * (1 - math.exp(-size / 4))
        return total

    def __call__(self, proposal: Proposal, index: int) -> Evaluation:
        self.trained.append(proposal)
        spec = proposal.spec
        images = 1000 if proposal.images is None else proposal.images
        rng = np.random.default_rng([self.seed, index])
        learned = 0.02 * math.log10(max(images, 1))
        accuracy = 1 - self.loss(spec) / 3 + learned + self.noise * rng.standard_normal()
        weights = None
        if self.files:
            weights = f"weights/trial-{index:04d}.safetensors"
            (self.folder / "weights").mkdir(parents=True, exist_ok=True)
            (self.folder / weights).write_bytes(f"{spec.key} {images}".encode())
        gains = [
            StageImportance(
                stage=move.stage,
                kind=move.kind,
                steps=move.steps,
                value=(self.loss(spec) - self.loss(move.spec)) + self.se * float(rng.standard_normal()),
                se=self.se,
            )
            for move in (self.growths(proposal) if self.growths else self.space.grow(spec))
        ]
        best: dict[tuple[int, str], StageImportance] = {}
        for gain in gains:
            best.setdefault((gain.stage, gain.kind), gain)
        return Evaluation(
            accuracy=min(max(accuracy, 0.0), 1.0),
            accuracy_se=0.002,
            loss=self.loss(spec),
            images=images,
            train_macs=3.0 * macs_of(spec) * images,
            wall_s=images / 1000,
            importance=tuple(best.values()),
            weights=weights,
        )


@cache
def own_model() -> SearchSpace:
    """The variants of a small traced network; eight pieces, six of them in several forms."""
    from hwnas.nets.model.bases import OwnModel
    from hwnas.nets.model.space import ModelSpace

    module = build(make("resnet-cifar", input_shape=(1, 8, 8)).uniform()[2], seed=0)
    return ModelSpace(OwnModel(module.eval(), "own", "module", (1, 8, 8), classes=10), repeats=2)


def space_of(name: str) -> SearchSpace:
    """A registered space, or that of the small traced network."""
    return own_model() if name == "own-model" else make(name)


def context(space: str, budget_ms: float, cost: FakeCost, **options: object) -> SearchContext:
    return SearchContext(space_of(space), cost.estimate, Budget(latency_ms=budget_ms), options)


def folder(path: Path, seed: int = 0) -> RunFolder:
    return RunFolder(path, "search", {"seed": seed})


def walked(
    strategy: Strategy[Any],
    ctx: SearchContext,
    trainer: Evaluate,
    cost: FakeCost,
    path: Path,
    limits: Limits,
    seed: int = 0,
    **more: Any,
) -> SearchResult:
    """A search with a fake trainer and fake costs, measured whole, in a run folder."""
    run = more.pop("run") if "run" in more else folder(path, seed)
    return search(
        strategy,
        ctx,
        evaluate=trainer,
        confirm=cost.confirm,
        measure=cost.measure,
        observe=cost.observe,
        setting=SETTING,
        table_id="t",
        seed=seed,
        limits=limits,
        run=run,
        **more,
    )
