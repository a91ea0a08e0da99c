"""ONNX files as networks that can be changed: the same numbers, the same blocks, refusals by name."""

from __future__ import annotations

from pathlib import Path

import onnx
import own_networks as nets
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

import hwnas
from hwnas.errors import DataFormatError, InputError
from hwnas.nets.model.edits import Edits
from hwnas.nets.model.parent import parent
from hwnas.nets.model.result import save_result
from hwnas.nets.model.sources import load
from hwnas.nets.model.to_onnx import module_onnx


class Various(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 1, 1), nn.Hardswish(), nn.MaxPool2d(3, 2, 1))
        self.block = nn.Sequential(nn.Conv2d(16, 24, 1), nn.LeakyReLU(0.1), nn.Conv2d(24, 16, 1))
        self.pool, self.head = nn.AvgPool2d(2), nn.Linear(128, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = self.pool(torch.clamp(x + self.block(x), -1.0, 2.0))
        y: torch.Tensor = self.head(torch.cat([x, x * 0.5], 1).reshape(x.shape[0], 128).softmax(1))
        return y


@pytest.mark.parametrize(
    ("module", "batch"),
    [(nets.Plain(), 1), (nets.Wrapped(nets.Gated()), None), (nets.Wrapped(nets.Dense()), 1), (Various(), 1)],
)
def test_the_same_numbers_and_blocks(module: nn.Module, batch: int | None, tmp_path: Path) -> None:
    nets.settle(module)
    (tmp_path / "m.onnx").write_bytes(module_onnx(module.eval(), (3, 8, 8), batch))
    whole = parent(load(str(tmp_path / "m.onnx")))
    images = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(whole.graph(images), module(images))
    before = nets.own(module)
    assert [(p.name, p.droppable, p.widths) for p in whole.pieces] == [
        (p.name, p.droppable, p.widths) for p in before.pieces
    ]


def test_changed_and_loaded_again_from_the_file(tmp_path: Path) -> None:
    file = tmp_path / "m.onnx"
    file.write_bytes(module_onnx(nets.settle(nets.Plain()).eval(), (3, 8, 8)))
    whole = parent(load(str(file)))
    edits = Edits(frozenset(["body.0"]), {"body.1": 8})
    made = whole.variant(edits).module()
    save_result(tmp_path / "run", whole, edits, made)
    images = torch.zeros(2, 3, 8, 8)
    torch.testing.assert_close(hwnas.load_model(tmp_path / "run", str(file))(images), made(images))


def test_an_operator_that_is_not_read_is_named(tmp_path: Path) -> None:
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])
    graph = helper.make_graph([helper.make_node("NonZero", ["x"], ["y"], name="odd")], "g", [image], [image])
    graph.output[0].name = "y"
    file = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph), file)
    with pytest.raises(InputError, match=r"NonZero odd is not read.*FILE\.py:function"):
        load(str(file))
    file.write_bytes(b"no model")
    with pytest.raises(DataFormatError, match="not an ONNX model"):
        load(str(file))
    with pytest.raises(InputError, match="does not exist"):
        load(str(tmp_path / "none.onnx"))


def test_a_program_of_torch_export_is_read_as_well(tmp_path: Path) -> None:
    """The same numbers at another batch, the user's own names of blocks; damaged files are refused."""
    module, file = nets.settle(nets.Plain()).eval(), tmp_path / "m.pt2"
    shapes = {"x": {0: torch.export.Dim("batch")}}
    torch.export.save(torch.export.export(module, (torch.zeros(2, 3, 8, 8),), dynamic_shapes=shapes), file)
    whole = parent(load(str(file)))
    images = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(whole.graph(images), module(images))
    assert [p.name for p in whole.pieces if p.droppable] == ["body.0", "body.1"]
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(DataFormatError, match=r"m\.pt2 is no program of torch\.export"):
        load(str(file))
