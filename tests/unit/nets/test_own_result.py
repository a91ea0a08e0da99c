"""A changed network in files, and back: without pickle, and without running anything that a file names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hwnas
from hwnas.errors import DataFormatError, InputError
from hwnas.nets.model.bases import read_state
from hwnas.nets.model.edits import Edits
from hwnas.nets.model.parent import Parent, parent
from hwnas.nets.model.result import save_result
from hwnas.nets.model.sources import load

EXAMPLE = str(Path(__file__).resolve().parents[3] / "examples" / "networks" / "resnet20.json")
CODE = """
import pathlib
from torch import nn
pathlib.Path(__file__).with_name("ran").touch()
def build():
    return nn.Sequential(nn.Conv2d(3, 24, 3), nn.ReLU(), nn.Conv2d(24, 4, 3), nn.Flatten())
input_shape = (3, 6, 6)
"""


def changed(whole: Parent, folder: Path) -> nn.Module:
    """Drop one block, narrow the others, repeat the last one; save; give the module."""
    drop = [p.name for p in whole.pieces if p.droppable][:1]
    repeat = {p.name: 2 for p in whole.pieces if p.repeatable and p.name not in drop}
    edits = Edits(
        frozenset(drop),
        {p.name: p.widths[0] for p in whole.pieces if p.widths and p.name not in drop},
        dict(list(repeat.items())[-1:]),
    )
    made = whole.variant(edits).module()
    with torch.no_grad():
        for value in made.parameters():  # as after training: not what the original's weights give
            value.add_(0.01)
    save_result(folder, whole, edits, made)
    return made


def images(whole: Parent) -> Tensor:
    return torch.randn(2, *whole.own.input_shape, generator=torch.Generator().manual_seed(1))


def same(a: nn.Module, b: nn.Module, given: Tensor) -> None:
    with torch.no_grad():
        torch.testing.assert_close(a(given), b(given))


def test_of_our_own_networks(tmp_path: Path) -> None:
    whole = parent(load(EXAMPLE, classes=5))
    made = changed(whole, tmp_path)
    again = hwnas.load_model(tmp_path)
    assert list(again.state_dict()) == list(made.state_dict())
    same(again, made, images(whole))


def test_of_a_library_and_changed_once_more(tmp_path: Path) -> None:
    whole = parent(load("torchvision:squeezenet1_1", classes=6, input_shape=(3, 32, 32)))
    made = changed(whole, tmp_path / "one")
    same(hwnas.load_model(tmp_path / "one"), made, images(whole))
    second = parent(load(str(tmp_path / "one")))
    assert second.params == sum(p.numel() for p in made.parameters())
    twice = changed(second, tmp_path / "two")
    same(hwnas.load_model(tmp_path / "two"), twice, images(whole))


def test_code_of_the_user_runs_only_where_it_is_named(tmp_path: Path) -> None:
    file, run = tmp_path / "mine.py", tmp_path / "run"
    file.write_text(CODE)
    whole = parent(load(f"{file}:build"))
    made = changed(whole, run)
    (tmp_path / "ran").unlink()
    with pytest.raises(InputError, match="source="):
        hwnas.load_model(run)
    assert not (tmp_path / "ran").exists()
    same(hwnas.load_model(run, source=f"{file}:build"), made, images(whole))
    file.write_text(CODE + "\n")
    with pytest.raises(DataFormatError, match="SHA-256"):
        hwnas.load_model(run, source=f"{file}:build")


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    source = f"{tmp_path / 'mine.py'}:build"
    (tmp_path / "mine.py").write_text(CODE)
    changed(parent(load(source)), tmp_path)
    body = json.loads((tmp_path / "network.json").read_text())
    body.pop("checksum", None)
    changes: tuple[dict[str, Any], ...] = (
        {"edits": {"dropped": ["no.such"]}},
        {"edits": []},
        {"base": None},
        {"base": {**body["base"], "kind": "pickle"}},
        {"base": {**body["base"], "kind": "network", "spec": {}}},
        {"base": {**body["base"], "head": "none"}},
        {"structure": "0" * 16},
    )
    for wrong in changes:
        (tmp_path / "network.json").write_text(json.dumps({**body, **wrong}))
        with pytest.raises(DataFormatError):
            hwnas.load_model(tmp_path, source)
    (tmp_path / "network.json").write_text(json.dumps(body))
    (tmp_path / "weights.safetensors").write_bytes(b"no")
    with pytest.raises(DataFormatError):
        hwnas.load_model(tmp_path, source)
    with pytest.raises(InputError, match=r"no network\.json"):
        hwnas.load_model(tmp_path / "none")


class Holder(nn.Module):
    """A module that a careless user saves whole."""


@pytest.mark.parametrize(
    ("held", "words"),
    [
        (b"abc", "are damaged"),
        (b"# A page", "no file of torch.save"),
        (Holder(), "hold more than tensors and are not read"),
    ],
)
def test_weights_that_are_no_state_dict(held: object, words: str, tmp_path: Path) -> None:
    """Three bytes are damaged weights; a whole module would run code, and how to save it is said."""
    file = tmp_path / "w.pt"
    if isinstance(held, bytes):
        file.write_bytes(held)
    else:
        torch.save(held, file)
    with pytest.raises(DataFormatError, match=words):
        read_state(file)
