"""``hwnas model inspect``: blocks of a network of the user's own, and what is wrong with what was given."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import save_file

from hwnas_cli.main import cli

CODE = """
import torch
from torch import nn

class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(16, 24, 3, padding=1), nn.Conv2d(24, 16, 3, padding=1)
    def forward(self, x):
        return x + self.b(torch.relu(self.a(x)))

class Net(nn.Module):
    def __init__(self, classes=4):
        super().__init__()
        self.stem, self.block, self.head = nn.Conv2d(3, 16, 3), Residual(), nn.Linear(16, classes)
    def forward(self, x):
        return self.head(self.block(self.stem(x)).mean((2, 3)))

def build():
    return Net()

def flat():
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 6 * 10, 2))

def needs(classes):
    return Net(classes)

def text():
    return "net"

def broken():
    raise RuntimeError("no such disk")
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(CODE)
    return path


def call(*words: object) -> Result:
    return CliRunner().invoke(cli, ["model", "inspect", *map(str, words)])


def state(file: Path) -> dict[str, torch.Tensor]:
    found: dict[str, object] = {}
    exec(compile(CODE, str(file), "exec"), found)
    made = found["build"]()  # type: ignore[operator]
    return {name: value.clone() for name, value in made.state_dict().items()}


def test_blocks_in_json(file: Path, tmp_path: Path) -> None:
    weights = tmp_path / "w.safetensors"
    save_file(state(file), weights)
    found = call(f"{file}:build", "--input", "3x6x10", "--weights", weights, "--json")
    assert found.exit_code == 0, found.output
    body = json.loads(found.stdout)
    assert body["schema"] == "hwnas.model.inspect/1"
    assert body["input"] == [3, 6, 10]
    assert body["params"] == sum(v.numel() for v in state(file).values())
    assert [b["name"] for b in body["blocks"]] == ["stem", "block", "head"]
    block = body["blocks"][1]
    assert (block["droppable"], block["repeatable"], block["widths"]) == (True, True, [8, 16])
    assert block["macs"] == 2 * 16 * 24 * 9 * 4 * 8  # both convolutions, on 4 x 8 places
    assert body["leaves"] == []


def test_table_names_the_blocks_and_says_why_not(file: Path) -> None:
    found = call(f"{file}:build", "--input", "3x6x10")
    assert found.exit_code == 0, found.output
    assert "24 or 16, 8" in found.stdout
    assert "Not dropped (its output has another shape): stem, head" in found.stdout


def test_nothing_to_change_is_said(file: Path) -> None:
    body = json.loads(call(f"{file}:flat", "--input", "3x6x10", "--json").stdout)
    assert "can be dropped, narrowed or repeated" in body["notes"][-1]


@pytest.mark.parametrize(
    ("model", "status", "words"),
    [
        ("{file}:bild", 2, "build"),
        ("{file}", 2, "names no function"),
        ("{folder}/none.py:build", 2, "does not exist"),
        ("{file}:needs", 2, "needs arguments"),
        ("{file}:text", 2, "returned a str"),
        ("{file}:broken", 2, "RuntimeError: no such disk"),
        ("no_such_package.models:build", 2, "no Python module"),
        ("torchvision:resnet19", 2, "resnet18"),
        ("resnet-mine", 2, "is not known"),
        ("{folder}/network.json", 2, "does not exist"),
    ],
)
def test_a_model_that_is_not_there(file: Path, model: str, status: int, words: str) -> None:
    found = call(model.format(file=file, folder=file.parent), "--input", "3x6x10")
    assert found.exit_code == status, found.output
    assert words in found.output
    assert "Traceback" not in found.output


def test_the_size_of_the_images_is_asked_for(file: Path) -> None:
    found = call(f"{file}:build")
    assert found.exit_code == 2
    assert "--input CxHxW" in found.output
    small = call(f"{file}:build", "--input", "3x2x2")
    assert small.exit_code == 2
    assert "does not take images of (3, 2, 2)" in small.output


def test_weights_that_do_not_fit_are_named(file: Path, tmp_path: Path) -> None:
    good = state(file)
    cases = {
        "lacks head.bias": {k: v for k, v in good.items() if k != "head.bias"},
        "has besides extra": {**good, "extra": torch.zeros(1)},
        "stem.weight is (8, 3, 3, 3)": {**good, "stem.weight": torch.zeros(8, 3, 3, 3)},
        "head.bias are NaN": {**good, "head.bias": torch.full((4,), float("nan"))},
    }
    for words, tensors in cases.items():
        path = tmp_path / "w.safetensors"
        save_file(tensors, path)
        found = call(f"{file}:build", "--input", "3x6x10", "--weights", path)
        assert found.exit_code == 6, found.output
        assert words in " ".join(found.output.split())


def test_a_head_of_other_classes_is_put_in_and_said(file: Path, tmp_path: Path) -> None:
    tensors = {**state(file), "head.weight": torch.zeros(9, 16), "head.bias": torch.zeros(9)}
    path = tmp_path / "w.pt"
    torch.save({"state_dict": {f"module.{k}": v for k, v in tensors.items()}}, path)
    body = json.loads(call(f"{file}:build", "--input", "3x6x10", "--weights", path, "--json").stdout)
    assert body["blocks"][-1]["out"] == [9]
    assert "the head head of 4 outputs was replaced by one of 9" in body["notes"][0]


def test_a_pickle_of_a_module_is_not_read(file: Path, tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    torch.save(torch.nn.Linear(2, 2), path)
    found = call(f"{file}:build", "--input", "3x6x10", "--weights", path)
    assert found.exit_code == 6
    assert "state_dict()" in found.output
