"""The published controller: replay of the published sequence, number of models."""

from __future__ import annotations

from pathlib import Path

import pytest
from strategy_fakes import SETTING, FakeCost, context, folder

from hwnas.records import Evaluation, Proposal, StageImportance
from hwnas.search.driver import search
from hwnas.search.stagewise.strategy import Stagewise
from hwnas.search.state import Limits

# Published architectures, residual modules, iterations 1 to 5 (StageWise NAS, its five JSON files),
# and the start that they imply.
PUBLISHED = [(6, 6, 6), (6, 8, 6), (8, 10, 6), (10, 12, 6), (10, 12, 8), (10, 14, 8)]


class Oracle:
    """Scores of temporary networks above the present ones exactly where the published walk grew."""

    def __init__(self) -> None:
        self.trained: list[Proposal] = []

    def __call__(self, proposal: Proposal, index: int) -> Evaluation:
        self.trained.append(proposal)
        iteration = (index - 1) // 2
        scores = [0.91, 0.91, 0.91]
        if index % 2 and index < 2 * len(PUBLISHED) - 1:
            pairs = zip(PUBLISHED[iteration], PUBLISHED[iteration + 1], strict=True)
            # A score that is merely equal must not grow a stage.
            scores = [0.93 if after > before else 0.91 for before, after in pairs]
        found = tuple(StageImportance(stage=s, value=v, se=0.01) for s, v in enumerate(scores))
        return Evaluation(accuracy=0.5 + index / 100, loss=1.0, images=10, importance=found)


def walk(path: Path, budget_ms: float = 9.0, **options: object) -> tuple[Oracle, list[tuple[int, ...]]]:
    cost, oracle = FakeCost(), Oracle()
    ctx = context("resnet-cifar", budget_ms, cost, fidelity="paper", start=6, **options)
    result = search(
        Stagewise(ctx),
        ctx,
        evaluate=oracle,
        confirm=cost.confirm,
        run=folder(path),
        setting=SETTING,
        table_id="t",
        seed=0,
        limits=Limits(),
    )
    return oracle, [t.spec.depths for t in result.trials if t.role == "candidate" and t.state == "done"]


def test_replay_of_the_published_sequence(tmp_path: Path) -> None:
    oracle, path = walk(tmp_path)
    assert path == PUBLISHED
    assert len(oracle.trained) == 1 + 2 * 5
    assert all(proposal.parent is None for proposal in oracle.trained)  # each from scratch
    temporary = [p.spec.depths for p in oracle.trained if p.role == "probe"]
    assert temporary == [tuple(depth + 2 for depth in depths) for depths in PUBLISHED[:-1]]


@pytest.mark.parametrize("iterations", [1, 3, 7])
def test_models_trained_are_one_and_two_an_iteration(iterations: int, tmp_path: Path) -> None:
    oracle, path = walk(tmp_path, iterations=iterations)
    assert len(oracle.trained) == 1 + 2 * iterations
    assert path[-1] == PUBLISHED[min(iterations, 5)]


def test_the_budget_ends_the_walk(tmp_path: Path) -> None:
    """(8,10,6) has 111.59 MMAC: 1.116 ms here, at most 1.16 with the interval, and 0.13 for 26 blocks."""
    oracle, path = walk(tmp_path, budget_ms=1.25)
    assert path == PUBLISHED[:2]
    assert len(oracle.trained) == 4  # start, temporary, grown, temporary; the next is refused
