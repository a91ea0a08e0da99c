"""Strategy ``families``: rounds, what goes on, how the winner of the race and the search after it compare."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from strategy_fakes import FakeCost, FakeTrainer, context, price_ms, walked

from hwnas.errors import InputError
from hwnas.nets.families import Families
from hwnas.records import Evaluation, Proposal, SearchResult
from hwnas.search.families.race import _sizes
from hwnas.search.families.strategy import FamilyRace
from hwnas.search.state import Limits

IMAGES = 100_000


class ByName(FakeTrainer):
    """Accuracies by the contestant's name: the family that a test favours is better in every round."""

    def __call__(self, proposal: Proposal, index: int) -> Evaluation:
        found = super().__call__(proposal, index)
        entry = str(proposal.notes.get("entry", ""))
        value = 0.9 if entry.startswith("MBConv") else 0.5 + 0.001 * len(entry)
        return found.model_copy(update={"accuracy": value})


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> SearchResult:
    cost = FakeCost()
    ctx = context("auto", 0.2, cost, images=IMAGES, race_share=0.3)
    folder = tmp_path_factory.mktemp("families")
    trainer = ByName(folder, ctx.space)
    return walked(FamilyRace(ctx), ctx, trainer, cost, folder, Limits(images=IMAGES, trials=60))


@pytest.mark.parametrize(
    ("images", "rounds"),
    [
        (2_000, [2]),  # two in any case
        (8_000, [3]),  # 2,666 each; four would be 4,000 a round and 1,000 each
        (30_000, [9, 3]),  # 1,666 each; ten need three rounds of 10,000
        (500_000, [27, 9, 3]),
    ],
)
def test_as_many_begin_as_the_images_allow_and_a_third_goes_on(images: int, rounds: list[int]) -> None:
    assert _sizes(27, images, 1_500) == rounds


def test_rounds_get_equal_images_and_continue_the_weights(result: SearchResult) -> None:
    # 30,000 of 100,000 images: two rounds of 15,000, for nine contestants and for three.
    by_round = [[t for t in result.trials if t.notes.get("round") == n] for n in range(2)]
    assert [len(trials) for trials in by_round] == [9, 3]
    assert [{t.outcome.images for t in trials} for trials in by_round] == [{1666}, {5000}]
    for before, after in itertools.pairwise(by_round):
        assert {t.parent for t in after} <= {t.index for t in before}
    assert len({t.notes["entry"] for t in by_round[0]}) == 9


def test_the_best_family_wins_within_the_budget(result: SearchResult) -> None:
    best = result.trials[result.best]
    assert best.estimate.latency_ms <= 0.2
    winners = [t for t in result.trials if t.notes.get("round") == 1]
    assert any(str(t.notes["entry"]).startswith("MBConv") for t in winners)


def test_what_the_search_finds_has_to_be_more_accurate_than_the_race(result: SearchResult) -> None:
    # The fake gives 0.5 to what comes after the race, so the race's winner is trained out.
    best = result.trials[result.best]
    raced = {t.spec.key for t in result.trials if str(t.notes.get("entry", "")).startswith("MBConv")}
    assert best.spec.key in raced


def test_contestants_use_the_budget(result: SearchResult) -> None:
    space = context("auto", 0.2, FakeCost()).space
    assert isinstance(space, Families)
    for trial in (t for t in result.trials if t.notes.get("round") == 0):
        assert price_ms(trial.spec) * 1.04 >= 0.8 * 0.2


def test_the_rank_correlation_of_rounds_is_told() -> None:
    ctx = context("auto", 0.2, FakeCost(), images=IMAGES, race_share=0.3)
    told = FamilyRace(ctx).explain([])
    assert told[0].kind == "choice"
    assert "9 families compete" in told[0].text


def test_other_spaces_are_refused() -> None:
    with pytest.raises(InputError, match="--space auto"):
        FamilyRace(context("resnet-cifar", 0.5, FakeCost()))


def test_smaller_budgets_are_answered_too(tmp_path: Path) -> None:
    cost = FakeCost()
    ctx = context("auto", 0.3, cost, images=IMAGES, targets_ms=(0.15,))
    strategy, rng = FamilyRace(ctx), np.random.default_rng(0)
    trials = walked(
        strategy, ctx, FakeTrainer(tmp_path, ctx.space), cost, tmp_path, Limits(images=IMAGES, trials=60)
    ).trials
    small = [t for t in trials if t.notes.get("budget_ms") == 0.15]
    assert small
    assert all(t.estimate.latency_ms <= 0.15 for t in small)
    assert strategy.propose([t for t in trials if t.role != "final"], 1, rng) == []
