"""The composed search: stage-wise growth where there are no operators, vital blocks before the others."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from strategy_fakes import FakeCost, FakeTrainer, context, price_ms, walked

from hwnas.errors import InputError
from hwnas.nets.hournas.vital import vital_blocks
from hwnas.nets.spaces import make
from hwnas.records import SearchResult, Trial
from hwnas.search.auto.operators import operators
from hwnas.search.auto.strategy import OTHERS, UNTRAINED, VITAL, Auto
from hwnas.search.hournas.strategy import HourNas
from hwnas.search.ranking import ancestry
from hwnas.search.solve.fine import TRAINED, TRIES
from hwnas.search.stagewise.strategy import Stagewise
from hwnas.search.state import Limits

IMAGES = 2_000_000  # enough for gains to be judged apart


def run(
    path: Path,
    kind: Any,
    space: str,
    budget_ms: float,
    se: float = 0.001,
    images: int = IMAGES,
    **options: Any,
) -> SearchResult:
    cost = FakeCost(error=0.02)
    ctx = context(space, budget_ms, cost, images=images, **options)
    strategy = kind(ctx)
    trainer = FakeTrainer(path, ctx.space, se=se, growths=strategy.growths)
    return walked(strategy, ctx, trainer, cost, path, Limits(images=images, trials=60))


@pytest.mark.parametrize(("space", "budget_ms"), [("resnet-cifar", 0.5), ("resnet-cifar-wide", 0.4)])
def test_without_operators_it_is_stagewise(tmp_path: Path, space: str, budget_ms: float) -> None:
    ours = run(tmp_path / "auto", Auto, space, budget_ms)
    plain = run(tmp_path / "stagewise", Stagewise, space, budget_ms)
    assert [t.spec.key for t in searched(ours)] == [t.spec.key for t in searched(plain)]
    assert [t.evaluation for t in searched(ours)] == [t.evaluation for t in searched(plain)]
    assert ours.stopped == plain.stopped


def searched(result: SearchResult) -> list[Trial]:
    """Without the uniform member that is compared at the end, and the final training."""
    return [t for t in result.trials if "uniform" not in t.notes and t.role != "final"]


def test_the_largest_uniform_member_is_a_candidate_and_wins_where_it_is_as_good(tmp_path: Path) -> None:
    """With as many images as the network that was found has seen, from new weights."""
    result = run(tmp_path, Auto, "resnet-cifar", 0.5)
    other = next(t for t in result.trials if "uniform" in t.notes)
    found = [t for t in searched(result) if t.role == "candidate" and t.evaluation is not None]
    assert other.spec.depths == (other.spec.depths[0],) * 3
    assert other.parent is None
    assert other.outcome.images == sum(t.outcome.images for t in ancestry(result.trials, found[-1]))
    strategy = Auto(context("resnet-cifar", 0.5, FakeCost(error=0.02), images=IMAGES))
    trials = [t for t in result.trials if t.role == "candidate"]
    better = other.outcome.model_copy(update={"accuracy": 0.99})
    worse = other.outcome.model_copy(update={"accuracy": 0.01})
    for evaluation, wins in ((better, True), (worse, False)):
        changed = [
            t.model_copy(update={"evaluation": evaluation}) if t.index == other.index else t for t in trials
        ]
        assert (strategy.rank(changed)[0].index == other.index) is wins


def test_where_growth_ends_early_the_uniform_member_fills_the_budget(tmp_path: Path) -> None:
    """Nothing is significant, so the smallest network is held against one of the whole budget."""
    result = run(tmp_path, Auto, "resnet-cifar", 0.5, se=10.0)
    other = next(t for t in result.trials if "uniform" in t.notes)
    assert [t.spec.depths for t in searched(result)][-1] == (1, 1, 1)
    assert 0.9 < price_ms(other.spec) * 1.02 / 0.5 <= 1.0
    strategy = Auto(context("resnet-cifar", 0.5, FakeCost(error=0.02), images=IMAGES))
    # At chance level nothing is compared: 10 % of ten classes, and 1.6449 standard errors.
    for accuracy, compared in ((0.1, False), (0.1164, False), (0.1166, True)):
        told = {"accuracy": accuracy, "accuracy_se": 0.01}
        history = [
            t.model_copy(update={"evaluation": t.outcome.model_copy(update=told)})
            for t in result.trials
            if "uniform" not in t.notes and t.role == "candidate"
        ]
        proposed = strategy.propose(history, 1, np.random.default_rng(0))
        assert any("uniform" in one.notes for one in proposed) is compared


def test_a_uniform_member_that_was_measured_over_the_budget_is_followed_by_smaller_ones(
    tmp_path: Path,
) -> None:
    result = run(tmp_path, Auto, "resnet-cifar", 0.5, se=10.0)
    strategy = Auto(context("resnet-cifar", 0.5, FakeCost(error=0.02), images=IMAGES))
    history = [t for t in result.trials if "uniform" not in t.notes and t.role == "candidate"]
    refused = next(t for t in result.trials if "uniform" in t.notes).model_copy(update={"evaluation": None})
    sizes = [price_ms(refused.spec)]
    history.append(refused.model_copy(update={"index": len(history)}))
    while proposed := strategy.propose(history, 1, np.random.default_rng(0)):
        assert proposed[0].parent is None
        assert not [one for one in strategy.explain(history) if one.kind == "stop"], "it goes on"
        sizes.append(price_ms(proposed[0].spec))
        changed = {"spec": proposed[0].spec, "index": len(history)}
        history.append(refused.model_copy(update=changed))
    assert 2 <= len(sizes) <= TRIES
    assert sizes == sorted(set(sizes), reverse=True)
    assert [one.kind for one in strategy.explain(history)] == ["stop"]


def test_vital_blocks_are_chosen_before_the_others_and_shapes_first(tmp_path: Path) -> None:
    result = run(tmp_path, Auto, "mbv2-cifar", 0.2)
    path = [t for t in searched(result) if t.role == "candidate"]
    phases = [int(t.notes["phase"]) for t in path]
    assert phases == sorted(phases)
    assert {VITAL, OTHERS} <= set(phases)
    for before, after in itertools.pairwise(path):
        vital = set(vital_blocks(after.spec))
        if after.notes["phase"] not in (VITAL, OTHERS):
            continue
        if "look" in after.notes:  # the same network, asked for the gains of a phase that begins
            assert after.spec.key == before.spec.key
            assert int(after.notes["phase"]) > int(before.notes["phase"])
            continue
        assert before.spec.depths == after.spec.depths
        old, new = dict(before.spec.walk()), dict(after.spec.walk())
        changed = {place for place in new if old[place] != new[place]}
        assert changed
        assert (changed <= vital) if after.notes["phase"] == VITAL else not changed & vital
        assert after.parent == before.index
    used = price_ms(result.trials[result.best].spec) * 1.02 / 0.2
    assert 0.9 < used <= 1.0


def test_what_no_significant_gain_asks_for_is_filled_by_the_untrained_score(tmp_path: Path) -> None:
    """With errors that no gain exceeds, growth ends at once; the budget is used all the same."""
    result = run(tmp_path, Auto, "mbv2-cifar", 0.2, se=10.0)
    last = [t for t in searched(result) if t.role == "candidate"][-1]
    assert last.notes["phase"] == UNTRAINED
    assert 1 <= sum(t.notes.get("phase") == UNTRAINED for t in result.trials) <= TRAINED
    assert 0.95 < price_ms(last.spec) * 1.02 / 0.2 <= 1.0
    assert result.stopped.endswith("filled by the untrained score")
    assert result.trials[result.best].spec.key == last.spec.key


def test_few_images_leave_the_choice_to_the_untrained_score(tmp_path: Path) -> None:
    """Then it is `hournas` without a super-network; how many are few is by kinds of growth and rounds."""
    ours = run(tmp_path / "auto", Auto, "mbv2-cifar", 0.2, images=20_000)
    same = run(tmp_path / "hournas", HourNas, "mbv2-cifar", 0.2, images=20_000, score="proxy")
    assert [t.spec.key for t in searched(ours)] == [t.spec.key for t in searched(same)]
    # 4 passes at the smallest network (deeper, wider and kernels; gates; two first expansions, which insert a
    # convolution), 5 + 3 rounds, 512 images each: 16,384 for growing, which is 5 % of 327,680.
    for images, few in ((327_600, True), (327_700, False)):
        strategy = Auto(context("mbv2-cifar", 0.2, FakeCost(), images=images))
        told = " ".join(one.text for one in strategy.explain([]))
        assert ("estimating gains needs 16,384 images" in told) is few
    wanted = Auto(context("mbv2-cifar", 0.2, FakeCost(), images=20_000, score="gains"))
    assert "untrained" not in " ".join(one.text for one in wanted.explain([]))


def test_operator_moves_of_both_parts_make_up_the_whole() -> None:
    space = make("mbv2-cifar")
    rng = np.random.default_rng(0)
    for _ in range(20):
        spec = space.sample(rng)
        vital = set(vital_blocks(spec))
        for part in ("vital", "other"):
            for move in operators(space, spec, part):
                assert move.spec in space
                old, new = dict(spec.walk()), dict(move.spec.walk())
                changed = {place for place in new if old[place] != new[place]}
                assert changed
                assert all((place in vital) == (part == "vital") for place in changed)
                assert all(place.startswith(f"stages.{move.stage}.") for place in changed)
                name = move.kind.split()[1]
                for place in changed:
                    assert getattr(new[place], name) > getattr(old[place], name)


@pytest.mark.parametrize(
    "wrong", [{"fidelity": "paper"}, {"importance": "vip"}, {"macro_share": 0.9}, {"vital_share": 1.2}]
)
def test_options_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        Auto(context("mbv2-cifar", 0.2, FakeCost(), **wrong))
