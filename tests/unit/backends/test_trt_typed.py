"""The graphs that TensorRT gets, run by ONNX Runtime against the float32 original."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from hwnas.backends import calibrate, quantize, quantize_plan, typed
from hwnas.backends.forms import TENSORRT
from hwnas.errors import BuildError
from hwnas.nets import onnx as writer
from hwnas.spec import BlockSpec

BLOCKS = [
    BlockSpec(kind="conv", c_in=3, c_out=8, size_in=16),
    BlockSpec(kind="basic", c_in=8, c_out=8, size_in=16),
    BlockSpec(kind="mbconv", c_in=8, c_out=16, stride=2, expand=4, se=0.25, act="hswish", size_in=16),
    BlockSpec(kind="mbconv", c_in=16, c_out=16, expand=3, kernel=5, act="relu6", size_in=8),
    BlockSpec(kind="classifier", c_in=16, c_out=10, size_in=8),
]


@pytest.fixture(scope="module")
def model() -> bytes:
    return writer.chain(BLOCKS, batch=2)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((8, 3, 16, 16), dtype=np.float32)


def scores(model: bytes, images: np.ndarray) -> np.ndarray:
    import onnxruntime as ort

    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"input": images[i : i + 2]})[0] for i in range(0, 8, 2)])


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float((a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b))


def ops(model: bytes) -> list[str]:
    return [node.op_type for node in onnx.load_model_from_string(model).graph.node]


def test_hard_swish_is_written_out(model: bytes, images: np.ndarray) -> None:
    plain = typed.plain(model)
    assert "HardSwish" in ops(model)
    assert "HardSwish" not in ops(plain)
    onnx.checker.check_model(onnx.load_model_from_string(plain), full_check=True)
    assert np.allclose(scores(plain, images), scores(model, images), atol=1e-5)


def test_half_graph_has_float_ends_and_half_weights(model: bytes, images: np.ndarray) -> None:
    half = typed.to_half(typed.plain(model))
    proto = onnx.load_model_from_string(half)
    onnx.checker.check_model(proto, full_check=True)
    ends = [*proto.graph.input, *proto.graph.output]
    assert {v.type.tensor_type.elem_type for v in ends} == {TensorProto.FLOAT}
    assert {t.data_type for t in proto.graph.initializer} == {TensorProto.FLOAT16}
    assert ops(half).count("Cast") == 2
    assert cosine(scores(half, images), scores(model, images)) > 0.9999


def test_half_refuses_what_it_cannot_say(model: bytes) -> None:
    proto = onnx.load_model_from_string(model)
    big = np.full(proto.graph.initializer[0].dims, 1e6, np.float32)
    proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(big, proto.graph.initializer[0].name))
    with pytest.raises(BuildError, match="beyond float16"):
        typed.to_half(proto.SerializeToString())
    proto = onnx.load_model_from_string(model)
    proto.graph.node[0].op_type = "LSTM"
    with pytest.raises(BuildError, match="LSTM"):
        typed.to_half(proto.SerializeToString())


def in_int8(model: bytes, images: np.ndarray) -> bytes:
    return quantize.to_int8(model, calibrate.calibrate(model, images, TENSORRT).ranges, TENSORRT)


def test_int8_graph_is_symmetric_by_channel_and_close(model: bytes, images: np.ndarray) -> None:
    small = in_int8(model, images)
    proto = onnx.load_model_from_string(small)
    onnx.checker.check_model(proto, full_check=True)
    assert quantize_plan.is_quantized(small)
    assert not quantize_plan.is_quantized(model)
    zeros = [numpy_helper.to_array(t) for t in proto.graph.initializer if t.name.endswith(".zero")]
    assert zeros
    assert all(z.dtype == np.int8 and not z.any() for z in zeros)
    weighted = [n for n in ops(model) if n in quantize_plan.WEIGHTED]
    activations = len(quantize_plan.points(model, TENSORRT))
    assert ops(small).count("QuantizeLinear") == len(weighted) + activations
    assert cosine(scores(small, images), scores(model, images)) > 0.99


def test_residual_sums_read_the_quantized_values(model: bytes, images: np.ndarray) -> None:
    proto = onnx.load_model_from_string(in_int8(model, images))
    first_sum = next(n for n in proto.graph.node if n.op_type == "Add")
    assert any(name.endswith(".dequantized") for name in first_sum.input)


def test_refuses_what_does_not_fit(model: bytes, images: np.ndarray) -> None:
    with pytest.raises(BuildError, match="no calibrated range"):
        quantize.to_int8(model, {}, TENSORRT)
    with pytest.raises(BuildError, match="already"):
        quantize.to_int8(in_int8(model, images), {}, TENSORRT)
    with pytest.raises(BuildError, match="not an ONNX model"):
        typed.to_half(b"nonsense")


def test_m5_what_int8_leaves_is_half_precision_with_the_pairs(model: bytes, images: np.ndarray) -> None:
    """For TensorRT 11, which computes in the types of the graph."""
    small = in_int8(typed.plain(model), images)
    half = typed.to_half(small)
    proto = onnx.load_model_from_string(half)
    onnx.checker.check_model(proto, full_check=True)
    assert proto.opset_import[0].version == 19  # the first whose pairs may have float16 scales
    assert {t.data_type for t in proto.graph.initializer} == {TensorProto.FLOAT16, TensorProto.INT8}
    assert ops(half).count("QuantizeLinear") == ops(small).count("QuantizeLinear")
    assert cosine(scores(half, images), scores(model, images)) > 0.99


def test_m5_a_scale_that_half_precision_does_not_hold_is_refused(model: bytes, images: np.ndarray) -> None:
    proto = onnx.load_model_from_string(in_int8(model, images))
    scale = next(t for t in proto.graph.initializer if t.name.endswith(".scale"))
    scale.CopyFrom(numpy_helper.from_array(np.float32(1e-6), scale.name))
    with pytest.raises(BuildError, match="below what float16 holds"):
        typed.to_half(proto.SerializeToString())


def test_m5_inner_ends_are_feature_maps_of_parts() -> None:
    network_like = onnx.load_model_from_string(writer.chain(BLOCKS[1:2], batch=2))
    network_like.graph.doc_string = ""
    found = [
        typed.inner_ends(writer.chain(blocks)) for blocks in (BLOCKS, BLOCKS[:1], BLOCKS[1:3], BLOCKS[-1:])
    ]
    assert found == [set(), {"scores"}, {"input", "scores"}, {"input"}]
    assert typed.inner_ends(network_like.SerializeToString()) == set()
    half = typed.to_half(typed.plain(writer.chain(BLOCKS[1:3])), {"input", "scores"})
    ends = onnx.load_model_from_string(half).graph
    assert {v.type.tensor_type.elem_type for v in (*ends.input, *ends.output)} == {TensorProto.FLOAT16}
    assert "Cast" not in ops(half)


def test_b6_layers_are_spared_one_by_one(model: bytes, images: np.ndarray) -> None:
    small = in_int8(typed.plain(model), images)
    layers = typed.quantized_layers(small)
    # Of each MBConv the depthwise convolution; of the first also the two of its gate.
    hard = typed.hard_to_quantize(small)
    assert len(hard) == 4
    assert hard < layers
    one = min(hard)
    spared = typed.spare(small, {one})
    assert typed.quantized_layers(spared) == layers - {one}
    assert ops(small).count("QuantizeLinear") - ops(spared).count("QuantizeLinear") == 2  # input and weight
    assert cosine(scores(spared, images), scores(model, images)) > 0.99
