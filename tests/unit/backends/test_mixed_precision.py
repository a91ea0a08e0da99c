"""int8 graphs with nodes in float, and the blocks of a graph, by hand."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hwnas.arrays import Float32s
from hwnas.backends import calibrate, forms, quantize, quantize_plan, segments
from hwnas.backends.onnx_format import TypedOnnx
from hwnas.errors import BuildError
from hwnas.nets import onnx as writer
from hwnas.protocols import Int8Form
from hwnas.spec import BlockSpec, NetworkSpec

SPEC = NetworkSpec(
    stem=BlockSpec(kind="conv", c_in=3, c_out=8, size_in=8),
    stages=((BlockSpec(kind="basic", c_in=8, c_out=8, size_in=8),) * 2,),
    head=BlockSpec(kind="classifier", c_in=8, c_out=4, size_in=8),
)
PLACES = [place for place, _ in SPEC.walk()]


def two_convolutions() -> bytes:
    """``input`` (1, 1, 2, 2) times 3, the largest of 2 x 2, times 5: ``scores``."""
    nodes = [
        helper.make_node("Conv", ["input", "three"], ["a"], name="a"),
        helper.make_node("MaxPool", ["a"], ["p"], name="p", kernel_shape=[2, 2]),
        helper.make_node("Conv", ["p", "five"], ["scores"], name="b"),
    ]
    graph = helper.make_graph(
        nodes,
        "two",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 1, 2, 2])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 1, 1, 1])],
        [
            numpy_helper.from_array(np.full((1, 1, 1, 1), value, np.float32), name)
            for name, value in (("three", 3.0), ("five", 5.0))
        ],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    data: bytes = made.SerializeToString()
    return data


def run(model: bytes, images: Float32s) -> Float32s:
    backend = TypedOnnx()
    engine = backend.build(model, backend.setting("cpu", "fp32", 1, 1))
    try:
        return np.concatenate([engine.run(images[i : i + 1]) for i in range(len(images))])
    finally:
        engine.close()


def quantized(model: bytes) -> set[str]:
    """Outputs of the convolutions that read dequantized values and weights."""
    graph = onnx.load_model_from_string(model).graph
    back = {n.output[0] for n in graph.node if n.op_type == "DequantizeLinear"}
    return {
        n.output[0] for n in graph.node if n.op_type in quantize_plan.WEIGHTED and set(n.input[:2]) <= back
    }


def test_a_convolution_in_float_by_hand() -> None:
    """Input up to 1.02 in steps of 0.004: 0.501 is read as 0.5, times 3 = 1.5 in float, times 5 = 7.5 from
    a pair of its own, whose range is that of what the pool moved.
    """
    model, form = two_convolutions(), forms.onnx_runtime()[0]
    images = np.array([[[[0.501, 0.0], [0.0, 0.0]]]], np.float32)
    ranges = {"input": (0.0, 1.02), "a": (0.0, 3.06)}  # steps of 0.004 and 0.012
    first = quantize.to_int8(model, ranges, form, floats={"scores"})
    assert quantized(first) == {"a"}
    # 0.501 -> 0.5 (125 steps), 1.5 -> 125 steps of 0.012, times 5 in float.
    assert run(first, images).item() == pytest.approx(7.5, abs=1e-5)
    second = quantize.to_int8(model, ranges, form, floats={"a", "p"})
    assert quantized(second) == {"scores"}
    # 0.501 * 3 = 1.503 in float -> 125.25 -> 125 steps of 0.012 = 1.5, times 5.
    assert run(second, images).item() == pytest.approx(7.5, abs=1e-5)
    # 0.509 * 3 = 1.527 -> 127.25 -> 127 steps = 1.524, times 5 = 7.62; in int8 before, 0.508 -> the same.
    assert run(second, images + 0.008).item() == pytest.approx(7.62, abs=1e-5)


def test_all_in_float_is_refused() -> None:
    with pytest.raises(BuildError, match="but those that stay in float, so nothing is quantized"):
        quantize.to_int8(
            two_convolutions(), {"input": (0.0, 1.0)}, forms.onnx_runtime()[0], floats={"a", "p", "scores"}
        )


@pytest.mark.parametrize("form", [*forms.onnx_runtime(), *forms.openvino(), forms.TENSORRT])
def test_every_block_alone_and_every_block_left_out(form: Int8Form) -> None:
    """Each mix runs, and is nearer to the float network than all in int8, by its mean error over images."""
    model = writer.network(SPEC, batch=1)
    images = np.random.default_rng(0).standard_normal((16, 3, 8, 8), dtype=np.float32)
    found = calibrate.calibrate(model, images, form, "minmax")
    blocks = segments.by_place(model, PLACES)
    assert list(blocks) == PLACES
    exact = run(model, images)

    def error(int8: set[str]) -> float:
        floats = frozenset[str]().union(*(names for place, names in blocks.items() if place not in int8))
        made = quantize.to_int8(model, found.ranges, form, found.means, floats)
        outside = {out for out in quantized(made) if out in floats}
        assert not outside
        return float(np.abs(run(made, images) - exact).mean())

    whole = error(set(PLACES))
    assert all(0 < error({place}) < whole for place in PLACES[:-1])
    assert all(error(set(PLACES) - {place}) < 2 * whole for place in PLACES)


def test_blocks_by_place() -> None:
    blocks = segments.by_place(writer.network(SPEC, batch=1), PLACES)
    assert blocks["stem"] == {"stem.conv", "stem.act_out"}
    assert blocks["stages.0.1"] == {
        f"stages.0.1.{name}" for name in ("conv1", "act1", "conv2", "add", "act_out")
    }
    assert "scores" in blocks["head"]


def test_blocks_by_cut() -> None:
    """A sum of two branches is one part; what has no weights goes along with the part before."""
    blocks = segments.by_cut(writer.network(SPEC, batch=1))
    assert list(blocks) == ["stem.conv", "stages.0.0.conv1", "stages.0.1.conv1", "head.linear"]
    assert (
        blocks["stages.0.0.conv1"] == segments.by_place(writer.network(SPEC, batch=1), PLACES)["stages.0.0"]
    )
    assert blocks["head.linear"] == {"scores"}
    assert segments.by_cut(two_convolutions()) == {"a": {"a", "p"}, "b": {"scores"}}


def test_no_more_parts_than_can_be_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "MOST", 2)
    model = writer.network(SPEC, batch=1)
    blocks = segments.by_cut(model)
    assert list(blocks) == ["stem.conv", "stages.0.1.conv1"]
    every = {out for node in onnx.load_model_from_string(model).graph.node for out in node.output}
    assert frozenset[str]().union(*blocks.values()) == every
