"""Searching the dense super-network: what is frozen when, the multipliers, resume equals unbroken."""

import dataclasses
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch

from hwnas.cost.dense import Costs, price_choices
from hwnas.errors import InputError
from hwnas.nets.count import count_block
from hwnas.nets.densenas.graph import SKIP, densenas_cifar
from hwnas.search.densenas.derive import Scores, most_probable
from hwnas.train import augment
from hwnas.train.data import Dataset, load
from hwnas.train.densenas.search import DenseOptions, Relaxed, train_dense
from hwnas.train.densenas.supernet import Supernet

SPACE = densenas_cifar(size=8)
OPTIONS = DenseOptions(epochs=3, arch_from=1, images=48, batch=16, arch_share=0.25, seed=3)
BUDGET = 2.0  # million MACs; uniform choice expects 2.3


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load("digits", input_shape=(3, 8, 8), limit=200)


@pytest.fixture(scope="module")
def costs() -> Costs:
    return price_choices(SPACE, lambda b: count_block(b).macs / 1e6)


def run(
    digits: Dataset, costs: Costs, options: DenseOptions = OPTIONS, **more: Any
) -> tuple[Supernet, Relaxed]:
    model = Supernet(SPACE, seed=1)
    return model, train_dense(model, digits, costs, BUDGET, options, **more)


@dataclasses.dataclass(frozen=True)
class Watched:
    """A whole search: what it left, and what was seen on the way.

    Attributes:
        steps: what was said at each step, the first architecture parameters and the classifier.
        images: numbers of the images, in the order of their use.
    """

    model: Supernet
    found: Relaxed
    steps: list[tuple[str, torch.Tensor, torch.Tensor]]
    images: list[int]


@pytest.fixture(scope="module")
def whole(digits: Dataset, costs: Costs) -> Watched:
    model = Supernet(SPACE, seed=1)
    steps: list[tuple[str, torch.Tensor, torch.Tensor]] = []
    used: list[int] = []
    real = augment.crop_flip

    def look(kind: str, fields: Any) -> None:
        if kind == "progress":
            steps.append(
                (fields["note"], model.alpha[0].detach().clone(), model.classifier.weight.detach().clone())
            )

    def noted(images: torch.Tensor, at: torch.Tensor, *rest: Any) -> torch.Tensor:
        used.extend(at.tolist())
        return real(images, at, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hwnas.train.densenas.search.augment.crop_flip", noted)
        found = train_dense(model, digits, costs, BUDGET, OPTIONS, emit=look)
    return Watched(model, found, steps, used)


def test_architecture_is_frozen_before_it_begins_and_weights_while_it_moves(whole: Watched) -> None:
    seen = whole.steps
    first = [row for row in seen if row[0].startswith("epoch 1 ")]
    assert len(first) == 3  # 48 images in steps of 16, no architecture pass
    assert all(torch.equal(row[1], first[0][1]) for row in first)
    second = [row for row in seen if row[0].startswith("epoch 2 ")]
    assert len(second) == 1 + 3  # 16 images for the architecture, then the weights
    assert not torch.equal(second[0][1], first[0][1])
    assert torch.equal(second[0][2], first[-1][2])
    assert torch.equal(second[-1][1], second[0][1])


def test_history_shows_cost_and_collapse_by_epoch(digits: Dataset, costs: Costs) -> None:
    _, found = run(digits, costs, derive=lambda relaxed: {"derived_cost": len(relaxed.edges)})
    assert [row["epoch"] for row in found.history] == [1, 2, 3]
    assert all(row["derived_cost"] == len(SPACE.edges) for row in found.history)
    assert {"expected_cost", "loss", "collapse", "multipliers"} <= found.history[0].keys()
    assert found.images == 3 * 48 + 2 * 16
    assert len(found.layers) == len(costs.layers)


def test_a_multiplier_rises_while_its_bound_is_violated(digits: Dataset, costs: Costs) -> None:
    low, high = 0.5, 50.0
    for budget, which in ((low, 0), (high, 1)):
        model = Supernet(SPACE, seed=1)
        found = train_dense(model, digits, costs, budget, OPTIONS)
        multipliers = found.history[-1]["multipliers"]
        assert multipliers[which] > 0
        assert multipliers[1 - which] == 0
        moved = found.history[-1]["expected_cost"] - found.history[0]["expected_cost"]
        assert moved < 0 if which == 0 else moved > 0


def test_a_resumed_search_equals_an_unbroken_one(
    whole: Watched, digits: Dataset, costs: Costs, tmp_path: Path
) -> None:
    class KilledError(Exception):
        pass

    def kill(kind: str, fields: Any) -> None:
        if kind == "progress" and fields["note"].startswith("epoch 3 ") and fields["done"] == 2:
            raise KilledError

    with pytest.raises(KilledError):
        run(digits, costs, checkpoint=tmp_path / "c.safetensors", emit=kill)
    two, resumed = run(digits, costs, checkpoint=tmp_path / "c.safetensors")
    assert resumed == whole.found
    ours, theirs = whole.model.state_dict(), two.state_dict()
    assert all(torch.equal(ours[k], theirs[k]) for k in ours)


def test_another_searchs_checkpoint_is_refused(digits: Dataset, costs: Costs, tmp_path: Path) -> None:
    short = dataclasses.replace(OPTIONS, epochs=2, images=16)
    run(digits, costs, short, checkpoint=tmp_path / "c.safetensors")
    with pytest.raises(InputError, match="another training"):
        run(digits, costs, checkpoint=tmp_path / "c.safetensors")


@pytest.mark.parametrize(
    "wrong", [{"arch_from": 30}, {"arch_share": 0.0}, {"floor": 1.0}, {"objective": "aim"}]
)
def test_options_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        DenseOptions(**wrong)


def test_the_published_objective_pushes_cost_down_without_a_target(digits: Dataset, costs: Costs) -> None:
    options = dataclasses.replace(OPTIONS, objective="paper", lam=30.0, arch_lr=0.3)
    _, found = run(digits, costs, options)
    assert found.history[-1]["expected_cost"] < found.history[0]["expected_cost"]
    assert found.history[-1]["multipliers"] == [0.0, 0.0]


@pytest.mark.slow
def test_networks_collapse_without_the_floor_and_less_with_it(digits: Dataset, costs: Costs) -> None:
    """The reported collapse: a cost term that outweighs the loss makes skips and smallest operators win.

    Without the floor (the published loss) the most probable network skips nearly all its stack layers;
    the target, asked for about the cost that a uniform choice has, keeps layers. So few images decide
    little: single seeds differ by processor, and one of these collapses with the floor as well. The claim
    is about their mean.
    """
    hard = dataclasses.replace(OPTIONS, epochs=5, images=32, batch=8, arch_lr=0.3, arch_share=0.5)
    means = {}
    for name, options, seeds in (
        ("paper", dataclasses.replace(hard, objective="paper", lam=30.0), (1, 2)),
        ("target", hard, (1, 2, 3)),
    ):
        ends = []
        for seed in seeds:
            _, found = run(digits, costs, dataclasses.replace(options, seed=seed))
            likely = most_probable(SPACE, Scores(found.edges, found.layers), costs)
            layers = sum(op is not SKIP for stack in likely.stacks for op in stack)
            last = found.history[-1]
            ends.append((layers, last["expected_cost"], last["collapse"]["skip_share"]))
        means[name] = [fmean(column) for column in zip(*ends)]
    assert means["paper"][0] < 1
    assert means["paper"][1] < 0.4 * BUDGET
    assert means["paper"][2] > 0.6
    assert means["target"][0] >= 2
    assert 0.9 * BUDGET <= means["target"][1] <= 1.1 * BUDGET
    assert means["target"][2] < 0.4


def test_images_change_from_epoch_to_epoch_and_macs_are_counted(whole: Watched) -> None:
    """130 images a share of weights, 48 an epoch: three epochs see more than 48 different ones."""
    seen, found = whole.images, whole.found
    assert len(set(seen)) > 100
    assert len(seen) == found.images == 3 * 48 + 2 * 16
    macs = price_choices(SPACE, lambda b: float(count_block(b).macs))
    every = macs.fixed + sum(macs.sink)
    least = every + sum(min(row) for row in macs.layers)
    most = every + 2 * sum(max(row) for row in macs.layers)
    assert 3 * least <= found.train_macs / found.images <= 3 * most


def test_a_search_out_of_time_ends_after_an_epoch_with_what_it_has(digits: Dataset, costs: Costs) -> None:
    _, found = run(digits, costs, stop=lambda: True)
    assert [row["epoch"] for row in found.history] == [1]
    assert found.images == 48
