"""What a search is promised: weights kept and inherited, repeated calls free, kills harmless."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from hwnas.errors import DataFormatError
from hwnas.nets.build import build, load_weights, read_weights
from hwnas.nets.count import count
from hwnas.nets.transfer import Initial
from hwnas.protocols import Evaluate, Move, Question
from hwnas.records import Proposal, StageImportance
from hwnas.spec import NetworkSpec
from hwnas.train import evaluator, loop
from hwnas.train.data import Dataset
from hwnas.train.evaluator import Evaluator
from hwnas.train.loop import Recipe, TrainResult

FAST = Recipe(images=2000, batch=64, lr=0.5, checkpoint_s=0.0)


class Killed(Exception):
    pass


class Watched:
    """An importance that notes what it was given."""

    def __init__(self) -> None:
        self.calls: list[tuple[bool, torch.Tensor, torch.Tensor, float]] = []

    def __call__(self, question: Question) -> tuple[StageImportance, ...]:
        value = question.rng.random()
        self.calls.append((question.module.training, question.images, question.labels, value))
        return tuple(StageImportance(stage=move.stage, value=value) for move in question.moves)


def asked(proposal: Proposal) -> list[Move]:
    """A growth of each stage."""
    return [Move(stage, "deeper", proposal.spec) for stage in range(len(proposal.spec.stages))]


@pytest.fixture
def count_trainings(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    seen: list[dict[str, Any]] = []
    real = loop.train

    def counted(*args: Any, **kwargs: Any) -> TrainResult:
        seen.append({"options": args[3], **kwargs})
        return real(*args, **kwargs)

    monkeypatch.setattr(evaluator, "train", counted)
    return seen


def test_from_scratch(tiny: NetworkSpec, digits: Dataset, tmp_path: Path) -> None:
    evaluate: Evaluate = Evaluator(digits, FAST, tmp_path, seed=3)
    found = evaluate(Proposal(spec=tiny, images=6000), 7)
    assert found.accuracy > 0.5
    assert found.images == 6000
    assert found.train_macs == 3 * 6000 * count(tiny).macs
    assert found.weights == "weights/trial-0007.safetensors"
    module = build(tiny, seed=0)
    load_weights(module, read_weights(tmp_path / found.weights))
    assert loop.accuracy(module, digits.val) == found.accuracy
    assert digits.test_reads == 0
    assert not list(tmp_path.rglob("*.checkpoint"))


def test_repeated_call_trains_nothing(
    tiny: NetworkSpec, digits: Dataset, tmp_path: Path, count_trainings: list[Any]
) -> None:
    proposal = Proposal(spec=tiny)
    first = Evaluator(digits, FAST, tmp_path)(proposal, 0)
    assert Evaluator(digits, FAST, tmp_path)(proposal, 0) == first
    assert len(count_trainings) == 1
    # Another seed, another length, another network: trained anew.
    Evaluator(digits, FAST, tmp_path, seed=1)(proposal, 0)
    Evaluator(digits, FAST, tmp_path, seed=1)(Proposal(spec=tiny, images=1000), 0)
    Evaluator(digits, FAST, tmp_path, seed=1)(Proposal(spec=tiny.grow(0), images=1000), 0)
    assert len(count_trainings) == 4


def test_deterministic_by_seed_and_index(tiny: NetworkSpec, digits: Dataset, tmp_path: Path) -> None:
    def weights(seed: int, index: int, folder: str) -> bytes:
        found = Evaluator(digits, FAST, tmp_path / folder, seed=seed)(Proposal(spec=tiny), index)
        assert found.weights is not None
        return (tmp_path / folder / found.weights).read_bytes()

    first = weights(0, 0, "a")
    assert weights(0, 0, "b") == first
    assert weights(0, 1, "a") != first
    assert weights(1, 0, "c") != first


def test_child_starts_from_its_parent(
    tiny: NetworkSpec, digits: Dataset, tmp_path: Path, count_trainings: list[dict[str, Any]]
) -> None:
    options = replace(FAST, inherited_lr=0.25)
    evaluate = Evaluator(digits, options, tmp_path)
    parent = evaluate(Proposal(spec=tiny, images=8000), 0)
    child = evaluate(Proposal(spec=tiny.grow(1), parent=0, images=64), 1)
    scratch = evaluate(Proposal(spec=tiny.grow(1), images=64), 2)
    # One step cannot teach a network digits: what the child knows, it has from its parent.
    assert child.accuracy > parent.accuracy - 0.2 > scratch.accuracy
    assert [seen["rate"] for seen in count_trainings] == [1.0, 0.25, 1.0]


def test_networks_without_a_parent_begin_with_the_initial_weights(
    tiny: NetworkSpec, digits: Dataset, tmp_path: Path, count_trainings: list[dict[str, Any]]
) -> None:
    options = replace(FAST, inherited_lr=0.25)
    before = Evaluator(digits, options, tmp_path / "before")(Proposal(spec=tiny, images=8000), 0)
    given = read_weights(tmp_path / "before" / str(before.weights))
    initial = Initial(given, tiny, True, "a")
    evaluate = Evaluator(digits, options, tmp_path / "after", initial=initial)
    grown = Proposal(spec=tiny.grow(1), images=64)
    begun = evaluate(grown, 0)
    scratch = Evaluator(digits, options, tmp_path / "scratch")(grown, 0)
    assert begun.accuracy > before.accuracy - 0.2 > scratch.accuracy
    evaluate(Proposal(spec=tiny.grow(1), parent=0, images=64), 1)
    assert [seen["rate"] for seen in count_trainings] == [1.0, 0.25, 1.0, 0.25]
    kept = [json.loads((tmp_path / f"after/weights/trial-000{n}.json").read_text()) for n in (0, 1)]
    assert [row["taken_over"] for row in kept] == [["stem", "stages.0.0", "stages.1.0", "head"], []]
    # In another process the same bits; from other weights another training.
    evaluate.portable().elsewhere(tmp_path / "twin", (), lambda kind, told: None)(grown, 0)
    files = [tmp_path / name / str(begun.weights) for name in ("after", "twin")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert evaluate.finished(grown, 0) == begun
    other = Evaluator(digits, options, tmp_path / "after", initial=replace(initial, digest="b"))
    assert other.finished(grown, 0) is None


def test_missing_parent(tiny: NetworkSpec, digits: Dataset, tmp_path: Path) -> None:
    with pytest.raises(DataFormatError, match="needs the weights of trial 4"):
        Evaluator(digits, FAST, tmp_path)(Proposal(spec=tiny, parent=4), 5)


def test_a_teacher_is_an_earlier_trial(
    tiny: NetworkSpec, digits: Dataset, tmp_path: Path, count_trainings: list[dict[str, Any]]
) -> None:
    evaluate = Evaluator(digits, FAST, tmp_path)
    evaluate(Proposal(spec=tiny), 0)
    taught = evaluate(Proposal(spec=tiny, teacher=0), 1)
    assert count_trainings[1]["teacher"].macs == count(tiny).macs
    assert taught.train_macs == 4 * 2000 * count(tiny).macs


def test_a_proposal_has_its_own_rate_for_inherited_weights(
    tiny: NetworkSpec, digits: Dataset, tmp_path: Path, count_trainings: list[dict[str, Any]]
) -> None:
    evaluate = Evaluator(digits, replace(FAST, inherited_lr=0.25), tmp_path)
    evaluate(Proposal(spec=tiny, images=128, inherited_lr=0.5), 0)  # from scratch: nothing is inherited
    evaluate(Proposal(spec=tiny, images=128, parent=0, inherited_lr=0.5), 1)
    evaluate(Proposal(spec=tiny, images=128, parent=0), 1)  # another rate is another training
    assert [seen["rate"] for seen in count_trainings] == [1.0, 0.5, 0.25]


@pytest.mark.parametrize("frozen", [False, True])
def test_frozen_batch_norm_keeps_its_statistics(
    frozen: bool, tiny: NetworkSpec, digits: Dataset, tmp_path: Path
) -> None:
    evaluate = Evaluator(digits, FAST, tmp_path)
    before = evaluate(Proposal(spec=tiny, images=128), 0)
    after = evaluate(Proposal(spec=tiny, images=128, parent=0, frozen_norms=frozen), 1)
    was, now = (read_weights(tmp_path / str(one.weights)) for one in (before, after))
    kept = [name for name in was if "running_" in name and (was[name] == now[name]).all()]
    assert len(kept) == (sum("running_" in name for name in was) if frozen else 0)
    assert any((was[name] != now[name]).any() for name in was if name.endswith("conv.weight") or ".0" in name)


def test_importance_is_asked_on_training_images(tiny: NetworkSpec, digits: Dataset, tmp_path: Path) -> None:
    watched = Watched()
    evaluate = Evaluator(digits, FAST, tmp_path, watched, growths=asked, importance_images=100)
    found = evaluate(Proposal(spec=tiny), 0)
    ((training, images, labels, value),) = watched.calls
    assert not training
    assert images.shape == (100, 1, 8, 8)
    # Every image handed over is one of the training split, with its label.
    known = {x.numpy().tobytes(): int(y) for x, y in zip(digits.train.normalised(), digits.train.labels)}
    assert [known[x.numpy().tobytes()] for x in images] == labels.tolist()
    assert [i.value for i in found.importance] == [value, value]
    # The last training of a winner has nothing to decide.
    assert evaluate(Proposal(spec=tiny, role="final", parent=0, winner=0), 1).importance == ()
    assert len(watched.calls) == 1


def test_killed_evaluation_goes_on(
    tiny: NetworkSpec, digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "PROGRESS_S", 0.0)
    proposal = Proposal(spec=tiny)
    told: list[int] = []

    def emit(kind: str, fields: Mapping[str, Any]) -> None:
        assert fields["task"] == "trial 2"
        told.append(fields["done"])
        if len(told) == 2:
            raise Killed

    unbroken = Evaluator(digits, FAST, tmp_path / "a")(proposal, 2)
    with pytest.raises(Killed):
        Evaluator(digits, FAST, tmp_path / "b", emit=emit)(proposal, 2)
    assert list((tmp_path / "b").rglob("*.checkpoint"))
    resumed = Evaluator(digits, FAST, tmp_path / "b", emit=emit)(proposal, 2)
    assert told[2] > told[1]
    assert resumed.model_copy(update={"wall_s": 0}) == unbroken.model_copy(update={"wall_s": 0})
    name = unbroken.weights or ""
    assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert not list((tmp_path / "b").rglob("*.checkpoint"))


def test_checkpoint_of_another_proposal_is_left_aside(
    tiny: NetworkSpec, digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a kill the search may decide otherwise: the other network is then trained from its start."""
    monkeypatch.setattr(loop, "PROGRESS_S", 0.0)

    def kill(kind: str, fields: Mapping[str, Any]) -> None:
        raise Killed

    with pytest.raises(Killed):
        Evaluator(digits, FAST, tmp_path / "a", emit=kill)(Proposal(spec=tiny), 0)
    other = Proposal(spec=tiny.grow(0))
    found = Evaluator(digits, FAST, tmp_path / "a")(other, 0)
    assert found.loss == Evaluator(digits, FAST, tmp_path / "b")(other, 0).loss
    assert not list((tmp_path / "a").rglob("*.checkpoint"))


def test_weights_that_changed_are_not_gone_on_from(
    tiny: NetworkSpec, digits: Dataset, tmp_path: Path
) -> None:
    """Neither by a repeated call, nor by a child."""
    few = replace(FAST, images=64)
    evaluate = Evaluator(digits, few, tmp_path, seed=3)
    found = evaluate(Proposal(spec=tiny), 0)
    assert found.weights is not None
    path = tmp_path / found.weights
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    for proposal, index in ((Proposal(spec=tiny), 0), (Proposal(spec=tiny, parent=0), 1)):
        with pytest.raises(DataFormatError, match=r"trial-0000\.safetensors is damaged"):
            Evaluator(digits, few, tmp_path, seed=3)(proposal, index)
