"""Growth as a whole: what is decided, said, and spent."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from strategy_fakes import SETTING, FakeCost, FakeTrainer, context, folder, price_ms

from hwnas.errors import InputError
from hwnas.estimates import Budget
from hwnas.nets.spaces import make
from hwnas.records import Evaluation, Proposal, SearchResult, Trial
from hwnas.search.driver import search
from hwnas.search.log import images_of
from hwnas.search.stagewise.options import StagewiseOptions
from hwnas.search.stagewise.strategy import Stagewise
from hwnas.search.state import Limits

IMAGES = 100_000


def grow(
    path: Path,
    budget_ms: float = 0.6,
    *,
    change: Callable[[Evaluation, Proposal], Evaluation] = lambda evaluation, proposal: evaluation,
    targets: tuple[float, ...] = (),
    space: str = "resnet-cifar",
    **options: Any,
) -> tuple[SearchResult, list[dict[str, Any]]]:
    cost = FakeCost()
    ctx = context(space, budget_ms, cost, images=IMAGES, targets_ms=targets, **options)
    strategy = Stagewise(ctx)
    trainer = FakeTrainer(path, ctx.space)
    if options.get("importance") != "vip":
        trainer.growths = strategy.growths
    result = search(
        strategy,
        ctx,
        evaluate=lambda proposal, index: change(trainer(proposal, index), proposal),
        confirm=cost.confirm,
        observe=cost.observe,
        run=folder(path),
        setting=SETTING,
        table_id="t",
        seed=0,
        limits=Limits(images=IMAGES),
        targets=[Budget(latency_ms=ms) for ms in (*targets, budget_ms)],
    )
    return result, [json.loads(line) for line in (path / "events.jsonl").read_text().splitlines()]


def test_the_path_grows_from_inherited_weights(tmp_path: Path) -> None:
    result, _ = grow(tmp_path, rounds=9)  # 0.45 ms in 9 rounds: one block of 0.052 ms each
    path = [trial for trial in result.trials if trial.role == "candidate"]
    assert path[0].spec.depths == (1, 1, 1)
    for before, after in itertools.pairwise(path):
        assert after.parent == before.index
        assert sum(after.spec.depths) == sum(before.spec.depths) + 1
    assert path[-1].spec.depths == (2, 4, 5)  # the formula's late stages gain more
    final = result.trials[result.best]
    assert (final.winner, final.parent) == (path[-1].index, None)


def test_few_rounds_take_several_blocks_at_once(tmp_path: Path) -> None:
    result, _ = grow(tmp_path, rounds=4)
    path = [trial for trial in result.trials if trial.role == "candidate"]
    assert [trial.notes.get("steps", 0) for trial in path] == [0, 2, 2, 2, 2]
    # The last growth fits with two blocks of 0.104 ms, then not even one does.
    assert path[-1].spec.depths == (1, 5, 5)


def test_each_growth_and_each_refusal_is_an_event_in_words(tmp_path: Path) -> None:
    result, events = grow(tmp_path, rounds=9)
    growths = [event for event in events if event["event"] == "growth"]
    refusals = [event for event in events if event["event"] == "refusal"]
    assert len(growths) == sum("stage" in trial.notes for trial in result.trials)
    assert all(event["text"].startswith(("stage ", "grow stage ")) for event in growths + refusals)
    assert len(refusals) == 2 * len(growths) + 3  # two others each time; at the end all three are closed
    assert result.stopped.startswith("2-4-5: no further growth fits --latency-budget; ")
    assert result.stopped.endswith("of 0.6 ms left by prediction")


def test_most_images_train_the_network_that_is_kept(tmp_path: Path) -> None:
    result, _ = grow(tmp_path)
    final = result.trials[-1]
    assert final.role == "final"
    assert images_of(final) >= 0.93 * IMAGES
    assert sum(map(images_of, result.trials)) <= IMAGES


@pytest.mark.parametrize(
    ("images", "growing"),
    [(200_000, 10_000), (40_000, 3_000), (5_000, 1_500), (0, 0)],  # 5 %, at least 3,000, at most 30 %
)
def test_images_for_growing(images: int, growing: int) -> None:
    assert StagewiseOptions(images=images).growing == growing


def test_a_large_budget_is_reached_in_few_rounds(tmp_path: Path) -> None:
    result, _ = grow(tmp_path, budget_ms=1.5, rounds=6)
    path = [trial for trial in result.trials if trial.role == "candidate"]
    assert len(path) <= 12
    assert max(int(trial.notes.get("steps", 0)) for trial in path) > 3
    assert result.trials[result.best].estimate.high_ms > 0.9 * 1.5


def no_gain(evaluation: Evaluation, proposal: Proposal) -> Evaluation:
    nothing = [one.model_copy(update={"value": 0.0005, "se": 0.001}) for one in evaluation.importance]
    return evaluation.model_copy(update={"importance": tuple(nothing)})


def test_it_stops_as_converged_when_nothing_is_significant(tmp_path: Path) -> None:
    result, events = grow(tmp_path, change=no_gain, patience=2)
    assert [trial.spec.depths for trial in result.trials] == [(1, 1, 1)] * 4  # start, two more tries, final
    assert [trial.notes.get("attempt") for trial in result.trials[:3]] == [None, 1, 2]
    assert "converged: no gain is significant; 0.45 ms of 0.6 ms left by prediction" in result.stopped
    refusals = [event["text"] for event in events if event["event"] == "refusal"]
    assert refusals[0] == "stage 1: +0.05 % +- 0.10 % for 0.104 ms: not significant"


def test_several_budgets_are_filled_on_one_path(tmp_path: Path) -> None:
    result, _ = grow(tmp_path, 0.8, targets=(0.3, 0.5))
    assert [target.budget.latency_ms for target in result.targets] == [0.3, 0.5, 0.8]
    for target, least in zip(result.targets, (0.25, 0.44, 0.72), strict=True):
        assert target.promise.verdict == "kept"
        ms = result.trials[target.best].estimate.latency_ms
        assert least <= ms <= (target.budget.latency_ms or 0.0)
        assert result.trials[target.best].role == "final"
        folder_ = tmp_path / "targets" / f"{target.budget.latency_ms:g}ms"
        assert (folder_ / "network.json").is_file()
        assert (folder_ / "weights.safetensors").is_file()
    assert result.best == result.targets[-1].best
    path = [t.spec.depths for t in result.trials if t.role == "candidate"]
    assert all(all(a <= b for a, b in zip(x, y, strict=True)) for x, y in itertools.pairwise(path))


def test_widths_and_operators_grow_by_the_same_rule(tmp_path: Path) -> None:
    kinds = set()
    for space, budget_ms in (("resnet-cifar-wide", 0.6), ("mbv2-cifar", 0.2)):
        result, _ = grow(tmp_path / space, budget_ms, space=space, rounds=12, begin="smallest")
        kinds |= {trial.notes["kind"] for trial in result.trials if "kind" in trial.notes}
    assert {"deeper", "wider"} <= kinds
    assert kinds & {"kernel", "expand", "se"}


def test_without_images_to_judge_by_size_decides(tmp_path: Path) -> None:
    """One pass in ten rounds, of 512 images each: 5,120 are needed, 5,000 there."""
    result, events = grow(tmp_path, 0.6, space="resnet-cifar-wide", targets=(0.4,), rounds=10)
    said = [event["text"] for event in events if event["event"] == "choice"]
    why = "judging them by training needs 5,120 images for growing, and only 5,000 are available"
    assert said == [f"growths are chosen by parameters and MACs: {why}"]
    cost, space = FakeCost(), make("resnet-cifar-wide")
    for target in result.targets:
        half = Budget(latency_ms=0.5 * (target.budget.latency_ms or 0.0))
        fitting = [m for m in space.uniform() if half.fits(cost.estimate(m))]
        begin = max(fitting, key=price_ms)
        best = result.trials[target.best]
        assert all(a <= b for a, b in zip(begin.depths, best.spec.depths, strict=True))
        # Nothing that has more parameters or MACs fits beside it.
        assert not [m for m in space.grow(best.spec) if target.budget.fits(cost.estimate(m.spec))]
    candidates = [t for t in result.trials if t.role == "candidate"]
    assert sum(map(images_of, candidates)) <= 0.2 * 5_000
    assert all(not t.evaluation.importance for t in candidates if t.evaluation)


def test_a_search_by_size_has_a_spare_for_a_broken_promise(tmp_path: Path) -> None:
    """Predictions are 8 % too low: what fills all of the budget breaks its promise or is refused."""
    cost = FakeCost(error=0.09)
    ctx = context("resnet-cifar-wide", 0.6, cost, images=IMAGES, begin="unjudged")
    strategy, trainer = Stagewise(ctx), FakeTrainer(tmp_path, ctx.space)
    trainer.growths = strategy.growths
    result = search(
        strategy,
        ctx,
        evaluate=trainer,
        confirm=cost.confirm,
        observe=None,
        run=folder(tmp_path),
        setting=SETTING,
        table_id="t",
        seed=0,
        limits=Limits(images=IMAGES),
    )
    assert len([t for t in result.trials if t.role == "candidate"]) == 2
    assert result.trials[result.best].winner == 0
    assert result.measured.median_ms <= 0.6


def test_with_depth_alone_every_growth_is_judged(tmp_path: Path) -> None:
    result, events = grow(tmp_path, 0.6, rounds=100)
    assert not [event for event in events if event["event"] == "choice"]
    assert result.trials[0].spec.depths == (1, 1, 1)


def test_vip_compares_with_a_temporary_network(tmp_path: Path) -> None:
    """Stage 3 of the temporary network scores higher than in the network: it grows, the others do not."""

    def scored(evaluation: Evaluation, proposal: Proposal) -> Evaluation:
        temporary = proposal.role == "probe"
        found = [
            one.model_copy(update={"value": 0.95 if temporary and one.stage == 2 else 0.9, "se": 0.005})
            for one in evaluation.importance
        ]
        return evaluation.model_copy(update={"importance": tuple(found)})

    result, events = grow(tmp_path, 0.3, change=scored, importance="vip")
    candidates = [t.spec.depths for t in result.trials if t.role == "candidate"]
    assert candidates == [(1, 1, 1), (1, 1, 2), (1, 1, 3)]
    assert next(t.spec.depths for t in result.trials if t.role == "probe") == (2, 2, 2)
    first = next(event["text"] for event in events if event["event"] == "growth")
    assert first == "grow stage 3 by 1: +0.0500 VIP +- 0.0071 VIP for 52.2 us"


def trained(index: int, accuracy: float) -> Trial:
    cost = FakeCost()
    spec = context("resnet-cifar", 1.0, cost).space.smallest()
    evaluation = Evaluation(accuracy=accuracy, loss=1.0)
    return Trial(index=index, spec=spec, estimate=cost.estimate(spec), state="done", evaluation=evaluation)


def test_the_newest_wins_unless_it_collapsed() -> None:
    strategy = Stagewise(context("resnet-cifar", 1.0, FakeCost(), images=IMAGES))
    trials = [trained(0, 0.70), trained(1, 0.90), trained(2, 0.85), trained(3, 0.75)]
    assert [trial.index for trial in strategy.rank(trials)] == [2, 1, 3, 0]
    untrained = Stagewise(context("resnet-cifar", 1.0, FakeCost()))  # nothing will be trained further
    assert [trial.index for trial in untrained.rank(trials)] == [1, 2, 3, 0]


def test_a_refused_growth_is_not_tried_again(tmp_path: Path) -> None:
    cost = FakeCost()
    ctx = context("resnet-cifar", 0.6, cost)
    strategy = Stagewise(ctx)
    trainer = FakeTrainer(tmp_path, ctx.space, files=False)
    rng = np.random.default_rng(0)
    (start,) = strategy.propose([], 1, rng)
    first = Trial(
        index=0,
        spec=start.spec,
        estimate=cost.estimate(start.spec),
        state="done",
        evaluation=trainer(start, 0),
    )
    (grown,) = strategy.propose([first], 1, rng)
    assert grown.notes["stage"] == 2
    refused = Trial(
        index=1,
        spec=grown.spec,
        estimate=cost.estimate(grown.spec),
        state="over_budget",
        parent=0,
        notes=grown.notes,
    )
    (other,) = strategy.propose([first, refused], 1, rng)
    assert other.notes["stage"] == 1
    assert other.parent == 0


@pytest.mark.parametrize("bad", [{"roundz": 3}, {"rounds": "3"}, {"rounds": True}, {"fidelity": "papyrus"}])
def test_a_wrong_option_is_an_error(bad: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"rounds|fidelity"):
        Stagewise(replace(context("resnet-cifar", 1.0, FakeCost()), options=bad))
