"""What strategies, plans and a profile gave on the fake device when last looked at: ``golden.json``.

A change that is to leave behaviour alone leaves this file alone. Where a change of course is wanted, renew
the file, look at what differs, and commit both together::

    python tests/contract/golden.py

Prices are those of the fake device, block by block; accuracies and gains are `FakeTrainer`'s formulas, so
that nothing depends on the processor. Words are left out, since they may be bettered.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from strategy_fakes import FakeCost, FakeTrainer, context, walked

from hwnas.backends.fake_price import FakeDevice, price_ms
from hwnas.jobs.profile import ProfileOptions, profile
from hwnas.jobs.profile import plan as profile_plan
from hwnas.jobs.profile.plan import Plan
from hwnas.measure.table import load
from hwnas.nets.onnx import chain
from hwnas.search.solve.entropy import entropy
from hwnas.search.state import Limits
from hwnas.search.strategy import find
from hwnas.spec import BlockSpec, Convention, NetworkSpec
from hwnas.traced import VariantSpec

FILE = Path(__file__).with_name("golden.json")
IMAGES = 40_000
DIGITS = 5  # of a number in the file
# Name of a case: space, budget in milliseconds, options; its strategy is the name up to the first dot.
CASES: dict[str, tuple[str, float, dict[str, Any]]] = {
    "auto": ("mbv2-cifar", 1.0, {}),
    "auto.gains": ("mbv2-cifar", 0.8, {"score": "gains", "rounds": 3}),
    "densenas": ("densenas-cifar", 1.5, {}),
    "families": ("auto", 0.5, {}),
    "fit": ("own-model", 0.15, {}),
    "hournas": ("mbv2-cifar", 1.0, {"score": "proxy"}),
    "macromicro": ("macromicro", 2.5, {"max_depth": 16}),
    "macromicro.paper": ("macromicro", 2.5, {"fidelity": "paper", "max_depth": 8}),
    "random": ("resnet-cifar", 0.5, {"samples": 4}),
    "stagewise": ("resnet-cifar", 0.5, {}),
    "stagewise.paper": ("resnet-cifar", 0.5, {"fidelity": "paper", "iterations": 2}),
    "stagewise.targets": ("resnet-cifar", 0.5, {"targets_ms": (0.3,)}),
    "stagewise.unjudged": ("resnet-cifar-wide", 0.5, {"begin": "unjudged"}),
    "stagewise.vip": ("resnet-cifar", 0.5, {"importance": "vip"}),
    "stagewise.wide": ("resnet-cifar-wide", 0.5, {"begin": "uniform", "rounds": 3}),
    "tpe": ("resnet-cifar", 0.5, {"samples": 4, "startup": 2, "asks": 60}),
    "uniform": ("resnet-cifar", 0.5, {}),
}


# Plans without training: space and budget in milliseconds, by strategy.
PLANS = {"auto": ("mbv2-cifar", 1.0), "densenas": ("densenas-cifar", 1.5), "hournas": ("mbv2-cifar", 1.0)}
# A short profile: networks for fitting and for judging the fit.
SHORT = Plan(calibration=3, probes=1, holdout=3, target=0.0, blocks=40)


@cache
def block_ms(block: BlockSpec, convention: Convention) -> float:
    """What the fake device takes for a block by itself."""
    return price_ms(chain([block], convention=convention), FakeDevice(), "fp32", 1, 1)


@dataclass
class DeviceCost(FakeCost):
    """Predictions by the fake device's prices; networks take 2 % more than their blocks."""

    error: float = 0.02

    def price_ms(self, spec: NetworkSpec) -> float:
        return sum(block_ms(block, spec.convention) for block in spec.blocks)


def course(case: str, path: Path) -> dict[str, Any]:
    """Networks tried with their predictions, decisions, and the choice at the end."""
    space, budget_ms, options = CASES[case]
    cost = DeviceCost()
    ctx = context(space, budget_ms, cost, images=IMAGES, **options)
    strategy = find(case.partition(".")[0])(ctx)
    trainer, asked = FakeTrainer(path, ctx.space), strategy.asks_importance()
    if asked is not None and asked.importance != "vip":
        trainer.growths = strategy.growths
    events: list[str] = []
    targets = [ctx.budget.model_copy(update={"latency_ms": ms}) for ms in options.get("targets_ms", ())]
    result = walked(
        strategy,
        ctx,
        trainer,
        cost,
        path,
        Limits(images=IMAGES, trials=40),
        seed=3,
        emit=lambda kind, fields: events.extend(told(kind, fields)),
        targets=[*targets, ctx.budget] if targets else (),
    )
    return {
        "trials": [
            f"{called(trial.spec)} {'-'.join(map(str, trial.spec.depths))} {trial.role} {trial.state} "
            f"from {trial.parent}: {shown(trial.estimate.latency_ms)} ms"
            for trial in result.trials
        ],
        "decisions": events,
        "best": [target.best for target in result.targets] or [result.best],
    }


def called(spec: NetworkSpec | VariantSpec) -> str:
    """The key of a network; a variant of a model has one that follows torch's version, and is left out."""
    return "variant" if isinstance(spec, VariantSpec) else spec.key


def planned(name: str) -> str:
    """What a strategy plans without training; networks of the same score may take each other's place."""
    space, budget_ms = PLANS[name]
    ctx = context(space, budget_ms, DeviceCost())
    spec = find(name).plan(ctx)
    assert spec is not None
    return f"{spec.depths_text}: {shown(ctx.estimate(spec).latency_ms)} ms, score {shown(entropy(spec))}"


def table(path: Path) -> list[str]:
    """Rows of a latency table of the fake device; which networks it measures follows from its seed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(profile_plan.PLANS, "quick", SHORT)
        options = ProfileOptions(
            device="fake", space="resnet-cifar", preset="quick", input_shape=(3, 16, 16), out=path
        )
        profile(options)
    found = load(path)
    blocks = [f"{block.key} {shown(row.value_ms)} ms" for block, row in found.rows.items()]
    networks = [f"{net.spec.key} {net.role} {shown(net.measurement.floor_ms)} ms" for net in found.networks]
    return [*blocks, *networks, *(f"{key} {shown(ms)} ms again" for key, ms in found.repeats.items())]


def told(kind: str, fields: Mapping[str, Any]) -> list[str]:
    """A decision in one line: its kind, the number of trials before it, its figures."""
    if "after" not in fields:
        return []
    figures = {name: shown(value) for name, value in fields.items() if name not in ("after", "text")}
    return [f"{fields['after']} {kind} {json.dumps(figures, sort_keys=True)}"]


def shown(value: Any) -> Any:
    """A value with its numbers rounded."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, (list, tuple)):
        return [shown(one) for one in value]
    return {name: shown(one) for name, one in value.items()} if isinstance(value, Mapping) else value


def main() -> None:
    """Write the file anew."""
    with tempfile.TemporaryDirectory() as place:
        found: dict[str, Any] = {case: course(case, Path(place) / case) for case in CASES}
        found["table"] = table(Path(place) / "table.hwlat.jsonl")
    found["plans"] = {name: planned(name) for name in PLANS}
    FILE.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
