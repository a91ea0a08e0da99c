"""Cells of two inputs: their shapes, their counts, and how they are joined."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from pydantic import ValidationError

from hwnas.errors import InputError
from hwnas.nets.build import Block, fresh, weights
from hwnas.nets.count import count_block
from hwnas.nets.onnx import chain, network
from hwnas.nets.stagewise.space import CellSpace, nasnet_cifar
from hwnas.spec import BlockSpec, NetworkSpec

SPACE = nasnet_cifar(input_shape=(3, 32, 32), classes=10)


def separable(filters: int, kernel: int) -> int:
    """Stored parameters of a separable convolution applied twice, each with its batch norm."""
    return 2 * (filters * kernel**2 + filters**2 + 4 * filters)


def test_normal_cell_by_hand() -> None:
    # 32 filters; input 192 and second input 192 are each squeezed by a 1x1 convolution and batch norm.
    cell = SPACE.express((3, 1, 1)).stages[0][2]
    assert (cell.c_in, cell.c_skip, cell.size_skip, cell.c_out) == (192, 192, 32, 192)
    squeezes = 2 * (192 * 32 + 4 * 32)
    branches = 2 * separable(32, 5) + 3 * separable(32, 3)
    assert count_block(cell, "keras").params == squeezes + branches
    # The first cell finds 32 channels at both inputs; the second input needs no convolution.
    first = SPACE.express((3, 1, 1)).stages[0][0]
    assert count_block(first, "keras").params == 32 * 32 + 4 * 32 + branches


def test_cell_after_a_reduction_by_hand() -> None:
    # 64 filters; second input 192 at 32x32 goes through two 1x1 convolutions of stride 2 to 32 each.
    cell = SPACE.express((2, 2, 1)).stages[1][1]
    assert (cell.c_in, cell.size_in, cell.c_skip, cell.size_skip) == (256, 16, 192, 32)
    squeezes = 256 * 64 + 4 * 64 + 2 * (192 * 32 + 4 * 32)
    assert count_block(cell, "keras").params == squeezes + 2 * separable(64, 5) + 3 * separable(64, 3)


def test_reduction_cell_by_hand() -> None:
    # 64 filters, squeezed at 32x32: 1x1 convolutions from 192 for both inputs; separable 5, 7, 7, 5, 3.
    cell = SPACE.express((2, 2, 1)).stages[1][0]
    assert (cell.c_in, cell.size_in, cell.c_out, cell.size_out) == (192, 32, 256, 16)
    squeezes = 2 * (192 * 64 + 4 * 64)
    branches = 2 * separable(64, 5) + 2 * separable(64, 7) + separable(64, 3)
    assert count_block(cell, "keras").params == squeezes + branches
    # At 32x32 the squeezes, at 16x16 the rest: the first of two depthwise convolutions has the stride.
    macs = 2 * 192 * 64 * 1024 + 256 * sum(2 * (64 * k * k + 64 * 64) for k in (5, 7, 7, 5, 3))
    assert count_block(cell).macs == macs
    # At the second squeeze: the input, which the next cell needs, its activated copy, and both squeezed.
    assert count_block(cell).activation_bytes == 4 * 1024 * (192 + 192 + 64 + 64)


def test_second_inputs_follow_when_a_stage_grows() -> None:
    spec = SPACE.express((1, 1, 1))
    assert spec.stages[1][0].c_skip == 32  # the stem, two blocks before
    grown = spec.grow(0, 2)
    assert grown.key == SPACE.express((3, 1, 1)).key
    assert grown.stages[1][0].c_skip == 192
    assert SPACE.numbers(grown) == (3, 1, 1)


def test_wrong_second_inputs_are_refused() -> None:
    spec = SPACE.express((2, 1, 1))
    body = spec.model_dump()
    body["stages"][0][1]["c_skip"] = 64
    with pytest.raises(ValidationError, match="the block two places before gives 32x32x32"):
        NetworkSpec.model_validate(body)
    cell = {"kind": "nasnet_normal", "c_in": 8, "c_out": 48, "size_in": 8}
    for wrong, words in (
        ({}, "needs a second input"),
        ({"c_skip": 8, "size_skip": 32}, "needs a second input of that size or twice it"),
        ({"c_skip": 8, "size_skip": 8, "c_out": 50}, "multiples of 12"),
        ({"c_skip": 8, "size_skip": 8, "stride": 2}, "stride 1"),
        ({"kind": "basic", "c_skip": 8, "size_skip": 8}, "has no second input"),
    ):
        with pytest.raises(ValidationError, match=words):
            BlockSpec.model_validate(cell | wrong)


def test_keys_of_other_kinds_are_untouched() -> None:
    block = BlockSpec(kind="basic", c_in=16, c_out=16, size_in=32)
    assert block.key == "basic-16x16-k3s1e1-relu@32"
    assert "c_skip" not in json.loads(block.model_dump_json())
    cell = SPACE.express((2, 1, 1)).stages[0][1]
    assert cell.key.endswith("@32+32@32")
    assert BlockSpec.model_validate_json(cell.model_dump_json()) == cell


def test_the_space_refuses_what_it_does_not_hold() -> None:
    with pytest.raises(InputError, match=r"3 stages of 1 to 12 cells, not \[1, 0, 1\]"):
        SPACE.express((1, 0, 1))
    with pytest.raises(InputError, match="images with pixels, not 3x0x8"):
        CellSpace((3, 0, 8), 10)


def test_odd_pixels_are_sampled() -> None:
    """The factorised halving of a 5x5 image sees pixels 0, 2, 4 and 1, 3 and a zero."""
    cell = BlockSpec(kind="nasnet_normal", c_in=2, c_out=12, size_in=3, c_skip=1, size_skip=5)
    block = Block(cell, "keras").eval()
    with torch.no_grad():
        for half in ("even", "odd"):
            block.get_submodule(f"adjust_{half}").weight.fill_(1.0)  # type: ignore[operator]  # torch: an attribute of a module may be a module
        ops = {op.name: op for op in block.recipe.ops}
        image = torch.arange(1.0, 26).reshape(1, 1, 5, 5)
        shifted = ops["adjust_shift"].run([image], block._layer)
        even = ops["adjust_even"].run([image], block._layer)
        odd = ops["adjust_odd"].run([shifted], block._layer)
    scale = (1 + 1e-5) ** -0.5  # batch norm at its initial statistics
    assert torch.allclose(even[0, 0] / scale, torch.tensor([[1.0, 3, 5], [11, 13, 15], [21, 23, 25]]))
    assert torch.allclose(odd[0, 0] / scale, torch.tensor([[7.0, 9, 0], [17, 19, 0], [0, 0, 0]]))


def test_chain_that_begins_with_a_cell() -> None:
    spec = SPACE.express((1, 2, 1))
    cells = spec.stages[1][1:]  # after the reduction: second input at twice the resolution
    model = onnx.load_from_string(chain([*cells, cells[-1].repeated()], batch=2))
    onnx.checker.check_model(model, full_check=True)
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    assert len(model.graph.input) == 1
    assert shape == [2, 256 * 16 * 16 + 192 * 32 * 32]
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    given = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    assert session.run(None, {"input": given})[0].shape == (2, 384, 16, 16)
    with pytest.raises(InputError, match="its second input would be"):
        chain([cells[0], cells[0].repeated(), cells[0].repeated()])


def test_chain_and_network_wire_cells_alike() -> None:
    spec = CellSpace((3, 8, 8), 4, filters=4).express((2, 2, 1))
    net = fresh(spec, seed=1).eval()
    images = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        # By hand, without `Network.forward`.
        before = now = net.stem(images)
        for place, _ in list(spec.walk())[1:-1]:
            before, now = now, net.get_submodule(place)(now, before)
        expected = net.head(now).numpy()
        assert np.array_equal(net(images).numpy(), expected)
    session = onnxruntime.InferenceSession(network(spec, weights(net)), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"input": images.numpy()})[0], expected, atol=1e-5)
