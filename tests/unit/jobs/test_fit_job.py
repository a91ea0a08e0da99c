"""`hwnas search --model` as a whole, on the fake device: a run like every other one."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from killing import has_event, killed, needs_sigkill

import hwnas
from hwnas.documents import read_json
from hwnas.errors import BudgetInfeasible, InputError, TrainingFailed
from hwnas.jobs import own_model, own_pixels
from hwnas.jobs.export import ExportOptions, export
from hwnas.jobs.predict import PredictOptions, predict
from hwnas.jobs.report import ReportOptions, report
from hwnas.jobs.resolve.origin import export_command
from hwnas.jobs.search import SearchOptions, search
from hwnas.measure import device
from hwnas.measure.sweep import header_for, sweep
from hwnas.measure.table_folder import new_path
from hwnas.measure.timing import TimingOptions
from hwnas.nets.build import weights
from hwnas.nets.model import variants
from hwnas.nets.model.space import ModelSpace
from hwnas.nets.weights import save_weights
from hwnas.store import read_network
from hwnas.traced import VariantSpec, own_function
from hwnas.train import normalisation
from hwnas.train.data import Dataset, load
from hwnas.train.own import OwnTraining
from hwnas.train.score import score

MODEL = """
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv1 = nn.Conv2d(width, 16, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)

    def forward(self, x):
        return torch.relu(x + self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x))))))


input_shape = (1, 8, 8)


def build():
    stem = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
    return nn.Sequential(stem, Block(8), Block(8), Block(8), head)
"""


@pytest.fixture(scope="module")
def home(levels: Path) -> Path:
    """A model of three blocks that tells ten levels of grey apart, with weights and a table of its blocks."""
    path = levels
    (path / "mine.py").write_text(MODEL)
    space = own_model.space(f"{path / 'mine.py'}:build", input_shape=(1, 8, 8), classes=10)
    data = load(f"npz:{path / 'levels.npz'}", input_shape=(1, 8, 8))
    save_weights(path / "mine.safetensors", trained(space, data))
    measured(space)
    return path


def trained(space: ModelSpace, data: Dataset) -> dict[str, Any]:
    """Weights of the model after 60 steps."""
    module = space.parent.graph.train()
    optimiser = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    for step in range(60):
        at = torch.arange(32 * step, 32 * step + 32) % len(data.train)
        optimiser.zero_grad()
        loss = torch.nn.functional.cross_entropy(module(data.train.normalised(at)), data.train.labels[at])
        torch.autograd.backward(loss)
        optimiser.step()
    assert score(module.eval(), data.val).accuracy > 0.5
    return weights(module)


def measured(space: ModelSpace) -> None:
    """A table of a model's blocks."""
    backend, setting = device.conditions("fake", None, precision="fp32", batch=1, threads=1)
    base, timing = space.base, TimingOptions.preset("quick")
    header = header_for(setting, space.name, base.input_shape, base.classes, timing)
    sweep(space, backend, header, new_path(header))


@pytest.fixture
def options(home: Path, levels_search: SearchOptions) -> SearchOptions:
    return replace(
        levels_search,
        latency_budget="80%:model",
        model=f"{home / 'mine.py'}:build",
        weights=home / "mine.safetensors",
        images=600,
        recipe={"batch": 32, "checkpoint_s": 0.0},
        settings={"judged": 64},
        patience_s=0.0,
        profile=False,
    )


def test_the_whole_way(options: SearchOptions) -> None:
    body = search(options)
    assert body["within_budget"]
    assert body["strategy"] == "fit"
    assert options.out is not None
    spec = read_network(options.out / "network.json")
    assert isinstance(spec, VariantSpec)
    assert spec.edits
    assert len(spec.places) == len(spec.blocks)
    module = hwnas.load_model(options.out, source=options.model)
    scores = module(torch.zeros(2, 1, 8, 8))
    assert scores.shape == (2, 10)
    made = export(ExportOptions(run=str(options.out), device="fake", patience_s=0.0))
    assert [c["name"] for c in made["checks"] if c["passed"]] == [c["name"] for c in made["checks"]]
    page = report(ReportOptions((str(options.out),)), lambda kind, fields: None)
    text = Path(page["path"]).read_text()
    assert "block by block" in text
    assert "dropped" in text or "inner channels" in text


def test_the_function_is_named_by_the_user(options: SearchOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    search(options)
    assert options.out is not None
    monkeypatch.setattr(variants, "_PARENTS", {})  # as in another process
    with pytest.raises(InputError, match="not read or run from a stored name"):
        hwnas.load_model(options.out)
    assert hwnas.load_model(options.out, source=options.model)(torch.zeros(1, 1, 8, 8)).shape == (1, 10)
    assert own_function.get() == ""


def test_pixels_come_on_the_scale_that_the_model_was_trained_on(
    options: SearchOptions, home: Path, tmp_path: Path
) -> None:
    """Trained on [0, 255]: found by its loss, in the result and the engine; another is another search."""
    data = load(f"npz:{home / 'levels.npz'}", input_shape=(1, 8, 8))
    normalisation.use(data, normalisation.named(data, "bytes"))
    space = own_model.space(str(options.model), input_shape=(1, 8, 8), classes=10)
    save_weights(tmp_path / "bytes.safetensors", trained(space, data))
    assert options.out is not None
    asked = replace(
        options, weights=tmp_path / "bytes.safetensors", images=64, settings={"judged": 64, "looks": 1}
    )
    said: list[str] = []
    search(asked, lambda kind, fields: said.append(str(fields.get("text", ""))))
    assert any(text.startswith("pixels on the scale bytes, on which the model's loss is ") for text in said)
    body = read_json(options.out / "result.json", "search result")
    assert (body["mean"], body["std"]) == ([0.0], [1 / 255])
    export(ExportOptions(run=str(options.out), device="fake", patience_s=0.0))
    (manifest,) = options.out.glob("engine.*.manifest.json")
    assert json.loads(manifest.read_text())["std"] == [1 / 255]
    with pytest.raises(InputError, match="normalise"):
        search(replace(asked, normalise="symmetric"))


def test_a_model_that_says_nothing_else_gets_the_data_s_own_scale(options: SearchOptions, home: Path) -> None:
    data = load(f"npz:{home / 'levels.npz'}", input_shape=(1, 8, 8))
    found = own_model.space(str(options.model), options.weights, input_shape=(1, 8, 8), classes=10)
    before = (data.mean, data.std)
    assert own_pixels.normalised(found, data, "auto") == []
    assert (data.mean, data.std) == before
    (said,) = own_pixels.normalised(found, data, "unit")
    assert "as --normalise says" in said
    assert (data.mean, data.std) == ((0.0,), (1.0,))


def test_below_the_smallest_variant(options: SearchOptions) -> None:
    with pytest.raises(BudgetInfeasible) as refused:
        search(replace(options, latency_budget="0.1%:model"))
    assert refused.value.exit_status == 3
    assert refused.value.smallest_ms is not None


def test_slips_are_named(options: SearchOptions) -> None:
    with pytest.raises(InputError, match="--space"):
        replace(options, space="resnet-cifar")
    with pytest.raises(InputError, match="--model"):
        replace(options, model=None)
    with pytest.raises(InputError, match="no better than guessing"):
        search(replace(options, weights=None))


def test_another_head_and_images_that_are_wider_than_high(options: SearchOptions, home: Path) -> None:
    """Grey levels of five classes, 8x16: the head of ten is replaced, which is said, and trained."""
    rng = np.random.default_rng(1)
    labels = np.arange(200) % 5
    images = rng.integers(0, 60, (200, 8, 16, 1)) + (labels * 38)[:, None, None, None]
    np.savez(home / "wide.npz", images=images.astype(np.uint8), labels=labels)
    measured(own_model.space(str(options.model), input_shape=(1, 8, 16), classes=5))
    told: list[str] = []
    asked = replace(options, data=f"npz:{home / 'wide.npz'}", input_shape=(1, 8, 16), images=1500)
    body = search(asked, lambda kind, fields: told.append(str(fields.get("text", ""))))
    assert any("the head 4.2 of 10 outputs was replaced by one of 5" in text for text in told)
    assert body["within_budget"]
    assert body["accuracy"]["test"] > 0.5
    module = hwnas.load_model(body["run"], source=options.model)
    assert module(torch.zeros(2, 1, 8, 16)).shape == (2, 5)
    assert f"--model {options.model}" in export_command(body["run"])


def by_hand(module: torch.nn.Module, order: OwnTraining) -> torch.nn.Module:
    """A loop of the user's: one step on as many images as are allowed."""
    assert order.teacher is not None
    assert not order.teacher.training
    at = torch.arange(min(order.images, 64))
    optimiser = torch.optim.SGD(module.parameters(), lr=0.01)
    scores = module(order.dataset.train.normalised(at))
    torch.autograd.backward(torch.nn.functional.cross_entropy(scores, order.dataset.train.labels[at]))
    optimiser.step()
    order.progress(len(at), 1.0)
    return module


def another(module: torch.nn.Module, order: OwnTraining) -> torch.nn.Module:
    return torch.nn.Linear(1, 1)


def test_several_budgets_and_a_loop_of_the_users_own(
    options: SearchOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "own_loop", sys.modules[__name__])
    told: list[tuple[str, dict[str, Any]]] = []
    asked = replace(options, trainer="own_loop:by_hand", latency_budget="60%:model,85%:model")
    body = search(asked, lambda kind, fields: told.append((kind, dict(fields))))
    assert [target["within_budget"] for target in body["targets"]] == [True, True]
    small, large = (target["best"]["predicted_ms"] for target in body["targets"])
    assert small <= large  # a piece that is not missed at all is dropped for either
    assert any(fields.get("note") == "loss 1.000" for kind, fields in told if kind == "progress")
    assert options.out is not None
    with pytest.raises(TrainingFailed, match="--trainer"):
        search(replace(asked, trainer="own_loop:another", out=options.out.with_name("other")))
    with pytest.raises(InputError, match="--trainer"):
        search(replace(asked, trainer="own_loop:nothing", out=options.out.with_name("none")))


def test_a_model_is_a_network_for_predict_too(options: SearchOptions) -> None:
    assert options.model is not None
    body = predict(PredictOptions((options.model,), device="fake"))
    assert body["networks"][0]["extrapolated"] == []
    assert body["networks"][0]["latency_ms"] > 0


@needs_sigkill
def test_killed_is_as_unbroken(options: SearchOptions, tmp_path: Path) -> None:
    whole = search(replace(options, out=tmp_path / "whole"))
    assert options.out is not None
    killed(search, options, when=partial(has_event, options.out, "trial"))
    again = search(options)
    assert again["best"]["accuracy"] == whole["best"]["accuracy"]
    for name in ("weights.safetensors", "network.json"):
        assert (options.out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
