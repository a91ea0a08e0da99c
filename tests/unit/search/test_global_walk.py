"""Macro, then micro under a latency budget: equal latency, significance, and the found network trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from strategy_fakes import FakeCost, FakeTrainer, context, macs_of, price_ms, walked

from hwnas.errors import InputError
from hwnas.nets.macromicro.space import FULL, MacroMicro
from hwnas.nets.spaces import make
from hwnas.records import Evaluation, Proposal, SearchResult
from hwnas.search.macromicro.options import length
from hwnas.search.macromicro.strategy import GlobalWalk
from hwnas.search.state import Limits
from hwnas.spec import NetworkSpec

BUDGET_MS, IMAGES = 0.25, 60_000


class Judge(FakeTrainer):
    """Accuracy by a rule that the test gives."""

    rule: Any = None

    def __call__(self, proposal: Proposal, index: int) -> Evaluation:
        found = super().__call__(proposal, index)
        return found.model_copy(update={"accuracy": self.rule(proposal), "accuracy_se": 0.004})


def run(path: Path, rule: Any, **options: Any) -> SearchResult:
    cost = FakeCost()
    ctx = context("macromicro", BUDGET_MS, cost, images=IMAGES, max_depth=22, **options)
    trainer = Judge(path, ctx.space)
    trainer.rule = rule
    return walked(GlobalWalk(ctx), ctx, trainer, cost, path, Limits(images=IMAGES, trials=100))


def layers(spec: NetworkSpec) -> int:
    return sum(spec.depths)


def of_phase(result: SearchResult, phase: str) -> list[Any]:
    return [t for t in result.trials if t.notes.get("phase") == phase]


def test_depths_are_compared_at_equal_latency(tmp_path: Path) -> None:
    result = run(tmp_path, lambda p: 0.5)
    macro = of_phase(result, "macro")
    assert [layers(t.spec) for t in macro] == [10, 13, 17, 22]  # each 1.3 times the last
    space = make("macromicro")
    assert isinstance(space, MacroMicro)
    limit_ms = 0.85 * BUDGET_MS
    for trial in macro:
        wider = space.network(layers(trial.spec), trial.spec.stem.c_out // 2 + 1)
        assert price_ms(trial.spec) * 1.04 <= limit_ms < price_ms(wider) * 1.04


def test_a_ladder_ends_at_the_third_significant_loss(tmp_path: Path) -> None:
    # 0.002 is within 1.645 * sqrt(2) * 0.004 = 0.0093, 0.02 is not
    accuracy = {10: 0.60, 11: 0.598, 12: 0.58, 13: 0.58, 14: 0.58, 15: 0.9}
    result = run(tmp_path, lambda p: accuracy.get(layers(p.spec), 0.5), ladder=1.01)
    assert [layers(t.spec) for t in of_phase(result, "macro")] == [10, 11, 12, 13, 14]
    assert layers(result.trials[result.best].spec) == 10


def test_only_significant_operators_are_kept_and_that_network_is_trained(tmp_path: Path) -> None:
    def rule(proposal: Proposal) -> float:
        full = [s for s, stage in enumerate(proposal.spec.stages) if stage[0].kind == FULL]
        five = [s for s, stage in enumerate(proposal.spec.stages) if stage[0].kernel == 5]
        base = 0.6 if layers(proposal.spec) == 13 else 0.5
        # full convolutions in stage 3: a clear gain; kernels 5 in stage 1: a gain within the noise
        return base + 0.05 * (2 in full) + 0.005 * (0 in five) - 0.02 * (0 in full) + 0.0001 * (len(five) > 9)

    result = run(tmp_path, rule)
    best = result.trials[result.best].spec
    assert [stage[0].kind == FULL for stage in best.stages] == [False, False, True]
    assert all(block.kernel == 3 for stage in best.stages for block in stage)
    assert layers(best) == 13
    micro = of_phase(result, "micro")
    base = micro[0]
    macro = max(of_phase(result, "macro"), key=lambda t: t.evaluation.accuracy)
    assert base.spec.key == macro.spec.key
    assert {t.parent for t in micro} == {macro.index}
    assert len({t.evaluation.images for t in micro if t.evaluation}) == 1
    final = next(t for t in result.trials if t.role == "final")
    assert final.spec.key == best.key
    assert price_ms(best) * 1.04 <= BUDGET_MS


def test_what_is_left_of_the_budget_goes_into_width(tmp_path: Path) -> None:
    result = run(tmp_path, lambda p: 0.5)
    (fill,) = of_phase(result, "fill")
    assert fill.spec.stem.c_out > of_phase(result, "micro")[0].spec.stem.c_out
    assert price_ms(result.trials[result.best].spec) * 1.04 > 0.9 * BUDGET_MS


def test_length_by_hand() -> None:
    space = make("macromicro")
    assert isinstance(space, MacroMicro)
    wide, narrow = space.network(10, 32), space.network(20, 16)
    # 16 times the MACs and half the width: 16^0.25 * 2^0.5
    assert length(narrow, wide, (16e6, 1e6), (0.25, 0.5)) == pytest.approx(2 * 2**0.5)
    macs = (float(macs_of(wide)), float(macs_of(wide)))
    assert length(wide, wide, macs, (0.25, 0.5)) == 1.0


def test_the_published_walk_is_told_of_refusals_as_losses(tmp_path: Path) -> None:
    result = run(tmp_path, lambda p: 0.5 + layers(p.spec) / 1000, fidelity="paper", epoch_images=10)
    assert any(t.state == "over_budget" for t in result.trials)
    walked = [t for t in result.trials if "epochs" in t.notes]
    assert all(t.evaluation is None or t.evaluation.images == 10 * t.notes["epochs"] for t in walked)
    assert price_ms(result.trials[result.best].spec) * 1.04 <= BUDGET_MS


def test_other_spaces_and_several_budgets_are_refused() -> None:
    with pytest.raises(InputError, match="--space macromicro"):
        GlobalWalk(context("resnet-cifar", 0.5, FakeCost()))
    with pytest.raises(InputError, match="one budget at a time"):
        GlobalWalk(context("macromicro", 0.5, FakeCost(), targets_ms=(0.2,)))
