"""Weights to files and back, ONNX graphs for timing, and the errors of both."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from hwnas.errors import DataFormatError, InputError
from hwnas.nets import spaces
from hwnas.nets.build import build, load_weights, read_weights, save, weights
from hwnas.nets.onnx import chain, network
from hwnas.spec import BlockSpec

SPEC = spaces.make("mbv2-cifar", input_shape=(3, 8, 8)).smallest()


def graph(model: bytes) -> onnx.GraphProto:
    loaded = onnx.load_from_string(model)
    onnx.checker.check_model(loaded, full_check=True)
    return loaded.graph


def test_same_seed_same_weights() -> None:
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    first, again, other = (weights(build(SPEC, seed=seed)) for seed in (3, 3, 4))
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first["stem.conv.weight"], other["stem.conv.weight"])


def test_names_start_with_the_places_of_walk() -> None:
    places = [place for place, _ in SPEC.walk()]
    names = weights(build(SPEC, seed=0))
    assert {"stem.conv.weight", "stages.1.0.depth_norm.running_var", "head.linear.bias"} <= set(names)
    assert all(any(name.startswith(f"{place}.") for place in places) for name in names)


def test_residual_branches_start_at_zero() -> None:
    spec = spaces.make("resnet-cifar").smallest().grow(1)
    net = build(spec, seed=0)
    state = weights(net)
    assert not state["stages.1.1.conv2_norm.weight"].any()
    assert state["stages.1.0.conv2_norm.weight"].all()  # its shortcut is no identity
    # He et al. 2015, fan-out: standard deviation sqrt(2 / (64 * 9)) over 36,864 draws.
    std = state["stages.2.0.conv2.weight"].std()
    assert abs(std / (2 / 576) ** 0.5 - 1) < 0.02


def test_weights_survive_a_file(tmp_path: Path) -> None:
    net = build(SPEC, seed=0)
    save(tmp_path / "w.safetensors", net)
    other = build(SPEC, seed=1)
    load_weights(other, read_weights(tmp_path / "w.safetensors"))
    for name, value in net.state_dict().items():
        assert torch.equal(value, other.state_dict()[name])
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]


def test_damaged_weights(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="do not exist"):
        read_weights(tmp_path / "none.safetensors")
    save(tmp_path / "w.safetensors", build(SPEC, seed=0))
    whole = (tmp_path / "w.safetensors").read_bytes()
    (tmp_path / "w.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataFormatError, match="damaged"):
        read_weights(tmp_path / "w.safetensors")


def test_weights_of_another_network() -> None:
    mapping = weights(build(SPEC, seed=0))
    larger = spaces.make("mbv2-cifar", input_shape=(3, 8, 8)).grow(SPEC)[0].spec
    with pytest.raises(DataFormatError, match="to another network: missing"):
        load_weights(build(larger, seed=0), mapping)
    with pytest.raises(DataFormatError, match="no 'stages"):
        network(larger, mapping)
    wrong = mapping | {"stem.conv.weight": np.zeros((16, 3, 5, 5), np.float32)}
    for use in (lambda: load_weights(build(SPEC, seed=0), wrong), lambda: network(SPEC, wrong)):
        with pytest.raises(DataFormatError, match=r"'stem\.conv\.weight' has shape"):
            use()


def test_names_versions_and_batch() -> None:
    model = onnx.load_from_string(network(SPEC, batch=4))
    assert model.ir_version <= 10
    assert [o.version for o in model.opset_import] == [17]
    (given,), (scores,) = model.graph.input, model.graph.output
    assert (given.name, [d.dim_value for d in given.type.tensor_type.shape.dim]) == ("input", [4, 3, 8, 8])
    assert (scores.name, [d.dim_value for d in scores.type.tensor_type.shape.dim]) == ("scores", [4, 10])
    open_batch = onnx.load_from_string(network(SPEC, batch=None)).graph.input[0]
    assert open_batch.type.tensor_type.shape.dim[0].dim_param == "batch"
    ends = [node.op_type for node in model.graph.node][-3:]
    assert ends == ["GlobalAveragePool", "Flatten", "Gemm"]
    assert not any(node.op_type == "BatchNormalization" for node in model.graph.node)


def test_random_weights_are_seeded_and_not_zero() -> None:
    assert network(SPEC, seed=1) == network(SPEC, seed=1) != network(SPEC, seed=2)
    for tensor in graph(network(SPEC)).initializer:
        if tensor.dims:
            values = onnx.numpy_helper.to_array(tensor)
            assert np.count_nonzero(values) == values.size
            assert len(np.unique(values)) > 0.9 * min(values.size, 65537)


def test_random_weights_keep_deep_networks_in_range() -> None:
    import onnxruntime

    for name in ("resnet-cifar", "mbv2-cifar"):
        deepest = spaces.make(name, input_shape=(3, 16, 16)).uniform()[-1]
        session = onnxruntime.InferenceSession(network(deepest), providers=["CPUExecutionProvider"])
        images = np.random.default_rng(0).standard_normal((1, 3, 16, 16), dtype=np.float32)
        scores = session.run(None, {"input": images})[0]
        assert 1e-4 < np.abs(scores).max() < 1e4  # far from denormals and from fp16's 65504


def test_chain_of_blocks() -> None:
    first = BlockSpec(kind="mbconv", c_in=8, c_out=16, kernel=5, stride=2, expand=3, se=0.25, size_in=15)
    made = graph(chain([first, first.repeated()], batch=2))
    assert [d.dim_value for d in made.input[0].type.tensor_type.shape.dim] == [2, 8, 15, 15]
    assert [d.dim_value for d in made.output[0].type.tensor_type.shape.dim] == [2, 16, 8, 8]
    head = BlockSpec(kind="classifier", c_in=16, c_out=10, kernel=1, act="none", size_in=8)
    made = graph(chain([first, head]))
    assert [d.dim_value for d in made.output[0].type.tensor_type.shape.dim] == [1, 10]


def test_chain_errors() -> None:
    block = BlockSpec(kind="conv", c_in=8, c_out=16, size_in=8)
    with pytest.raises(InputError, match="at least one"):
        chain([])
    with pytest.raises(InputError, match="cannot follow"):
        chain([block, block])
