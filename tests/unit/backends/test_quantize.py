"""int8 graphs by hand, and their scores against the float graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from hwnas import backends
from hwnas.arrays import Float32s
from hwnas.backends import calibrate, forms, int8_steps, quantize, quantize_plan
from hwnas.errors import BuildError, InputError
from hwnas.nets import onnx as writer
from hwnas.protocols import Activations, Int8Form, Sums
from hwnas.spec import BlockSpec

BLOCKS = [
    BlockSpec(kind="conv", c_in=3, c_out=16, size_in=16),
    BlockSpec(kind="basic", c_in=16, c_out=16, size_in=16),
    BlockSpec(kind="mbconv", c_in=16, c_out=24, stride=2, expand=3, se=0.25, act="relu6", size_in=16),
    BlockSpec(kind="classifier", c_in=24, c_out=10, size_in=8),
]


@pytest.fixture(scope="module")
def model() -> bytes:
    return writer.chain(BLOCKS, batch=1)


@pytest.fixture(scope="module")
def images() -> Float32s:
    return np.random.default_rng(0).standard_normal((12, 3, 16, 16), dtype=np.float32)


def one_convolution(weight: Float32s, bias: Float32s | None = None, after: str = "") -> bytes:
    """``input`` (1, C, 2, 2), a 1x1 convolution, perhaps an activation, ``scores``."""
    tensors = [numpy_helper.from_array(weight, "w")]
    operands = ["input", "w"]
    if bias is not None:
        tensors.append(numpy_helper.from_array(bias, "b"))
        operands.append("b")
    nodes = [helper.make_node("Conv", operands, ["c" if after else "scores"])]
    if after:
        nodes.append(helper.make_node(after, ["c"], ["scores"]))
    graph = helper.make_graph(
        nodes,
        "one",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, weight.shape[1], 2, 2])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, weight.shape[0], 2, 2])],
        tensors,
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    data: bytes = made.SerializeToString()
    return data


def constants(model: bytes) -> dict[str, NDArray[np.generic]]:
    return {t.name: numpy_helper.to_array(t) for t in onnx.load_model_from_string(model).graph.initializer}


def rounded(limits: tuple[float, float], activations: Activations) -> tuple[float, int, type[Any]]:
    scale, zero, kind = int8_steps.step(limits, activations)
    return round(scale, 6), zero, kind


def test_steps_by_hand() -> None:
    # uint8: 255 steps from -1 to 4.1 are 0.02 each, and 0 is level 50.
    assert rounded((-1.0, 4.1), "uint8") == (0.02, 50, np.uint8)
    assert rounded((0.5, 5.1), "uint8") == (0.02, 0, np.uint8)  # 0 always is a level
    assert rounded((-1.27, 0.3), "int8") == (0.01, 0, np.int8)
    assert rounded((0.0, 0.0), "uint8") == (1.0, 0, np.uint8)
    # By sign: all 255 steps where nothing is negative, else 127 on each side, both without a zero point.
    assert rounded((0.0, 5.1), "by sign") == (0.02, 0, np.uint8)
    assert rounded((-1.27, 0.3), "by sign") == (0.01, 0, np.int8)


def test_weights_and_bias_by_hand() -> None:
    # Largest weight by channel 63, 31.5 and none: steps of 1, 0.5 and any (1) at 63 levels. The input
    # reaches 255, so its step is 1 and the bias counts in steps of 1, 0.5 and 1.
    weight = np.array([63.0, -31.5, 0.0], np.float32).reshape(3, 1, 1, 1)
    data = one_convolution(weight, np.array([7.0, 3.0, -2.0], np.float32))
    form = Int8Form(weight_levels=63)
    small = quantize.to_int8(data, {"input": (0.0, 255.0)}, form)
    made = constants(small)
    assert made["w.scale"].tolist() == pytest.approx([1.0, 0.5, 1.0])
    assert made["w.int8"].ravel().tolist() == [63, -63, 0]
    assert made["scores.bias.int32"].tolist() == [7, 6, -2]
    assert made["scores.bias.int32"].dtype == np.int32
    assert not {"w", "b"} & set(made)  # the float ones are gone


def test_steps_are_never_zero() -> None:
    # 1e-44 / 255 is less than half of the least float32 (1.4e-45): such values are 0 in any step.
    assert rounded((0.0, 1e-44), "uint8") == (1.0, 0, np.uint8)
    assert rounded((-1e-44, 0.0), "int8") == (1.0, 0, np.int8)
    tiny = np.array([1e-44, 1.27], np.float32).reshape(2, 1)
    assert int8_steps.weight_scale(tiny, 0, 127).tolist() == pytest.approx([1.0, 0.01])


def test_a_bias_that_32_bits_do_not_hold_stays_in_float() -> None:
    # Inputs up to 255e-9 in steps of 1e-9, weights in steps of 1: 3 would be 3e9 steps, and 2**31 are 2.1e9.
    data = one_convolution(np.full((1, 1, 1, 1), 127.0, np.float32), np.array([3.0], np.float32))
    small = quantize.to_int8(data, {"input": (0.0, 255e-9)}, Int8Form(weight_levels=127))
    node = next(n for n in onnx.load_model_from_string(small).graph.node if n.op_type == "Conv")
    assert constants(small)[node.input[2]].tolist() == [3.0]
    image = np.full((1, 1, 2, 2), 1e-9, np.float32)
    session = ort.InferenceSession(small, providers=["CPUExecutionProvider"])
    assert session.run(None, {"input": image})[0] == pytest.approx(3.0, rel=1e-6)


def test_bias_takes_up_what_rounding_moves() -> None:
    # Weights (1, 0.4) of two channels at one level a side round to (1, 0): with inputs of mean 2 and 5
    # the output falls by 0.4 * 5 = 2, which the bias gives back.
    weight = np.array([[1.0, 0.4]], np.float32).reshape(1, 2, 1, 1)
    data = one_convolution(weight)
    form = Int8Form(weight_levels=1)
    means = {"input": np.array([2.0, 5.0], np.float32)}
    made = constants(quantize.to_int8(data, {"input": (0.0, 255.0)}, form, means))
    bias = made["scores.bias.int32"].astype(np.float64) * made["scores.bias.scale"].astype(np.float64)
    assert bias == pytest.approx([2.0], abs=0.5)


def test_activation_is_part_of_the_kernel() -> None:
    """A ReLU is applied by the convolution before it: no pair between the two."""
    data = one_convolution(np.ones((4, 3, 1, 1), np.float32), after="Relu")
    assert quantize_plan.points(data, Int8Form()) == ["input"]  # "scores" leaves as float
    chain = writer.chain(BLOCKS[:2], batch=1)
    names = quantize_plan.points(chain, Int8Form())
    producers = {n.output[0]: n.op_type for n in onnx.load_model_from_string(chain).graph.node}
    # Of the stem and the first convolution of the block their ReLU; of the second what the sum reads;
    # the sum's own ReLU is the output.
    assert [producers.get(name, name) for name in names] == ["input", "Relu", "Relu", "Conv"]


def test_which_tensors_a_form_quantizes() -> None:
    """Of two residual blocks of one width: what convolutions read alone, what sums read as well, or what
    sums give, too.
    """
    chain = writer.chain([*BLOCKS[:2], BLOCKS[1]], batch=1)
    producers = {n.output[0]: n.op_type for n in onnx.load_model_from_string(chain).graph.node}

    def found(sums: Sums) -> list[str]:
        return [producers.get(name, name) for name in quantize_plan.points(chain, Int8Form(sums=sums))]

    # Stem, then each block: relu(conv), conv, relu(sum). The last sum's is the output.
    assert found("none") == ["input", "Relu", "Relu", "Relu", "Relu"]
    assert found("inputs") == ["input", "Relu", "Relu", "Conv", "Relu", "Relu", "Conv"]
    assert found("all") == found("inputs")


def test_depthwise_convolutions_may_stay_in_float() -> None:
    """Of the MBConv block the depthwise convolution reads and gives floats; all others are in int8."""
    data, form = writer.chain(BLOCKS, batch=1), Int8Form(sums="none", depthwise=False)
    small = onnx.load_model_from_string(
        quantize.to_int8(data, dict.fromkeys(quantize_plan.points(data, form), (-1.0, 1.0)), form)
    )
    made_by = {name: node.op_type for node in small.graph.node for name in node.output}
    groups = {
        node.name: [a.i for a in node.attribute if a.name == "group"] == [48]  # 16 x 3 channels
        for node in small.graph.node
        if node.op_type == "Conv"
    }
    assert sum(groups.values()) == 1
    for node in small.graph.node:
        if node.op_type == "Conv":
            reads = [made_by.get(name) == "DequantizeLinear" for name in node.input[:2]]
            assert reads == [not groups[node.name]] * 2, node.name


def test_bfloat16_beside_int8_is_for_processors_that_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["", "by sign", "sums", "all"]
    for flags, more in (({"avx2"}, []), ({"avx512_bf16", "avx512_vnni"}, ["beside bf16"])):
        monkeypatch.setattr(forms, "cpu_flags", lambda flags=flags: frozenset(flags))
        assert [form.name for form in forms.openvino()] == [*names, *more]
    assert forms.openvino()[-1].rest == "bf16"
    assert not forms.openvino()[-1].depthwise


def test_a_backend_without_the_form_says_so() -> None:
    runtime = backends.get("ort")
    assert forms.form_of(runtime) == forms.onnx_runtime()[0]
    with pytest.raises(InputError, match=r"no int8 graphs in the form 'sums' \(known: none with a name\)"):
        forms.form_of(runtime, "sums")
    assert forms.form_of(backends.get("fake")) is None


@pytest.mark.parametrize("form", [*forms.onnx_runtime(), *forms.openvino(), forms.TENSORRT])
def test_scores_stay_close(model: bytes, images: Float32s, form: Int8Form) -> None:
    """Run by onnx's own reference implementation: numpy, no runtime of ours."""
    from onnx.reference import ReferenceEvaluator

    found = calibrate.calibrate(model, images, form)
    small = quantize.to_int8(model, found.ranges, form, found.means)
    onnx.checker.check_model(onnx.load_model_from_string(small), full_check=True)
    graphs = [onnx.load_model_from_string(m) for m in (model, small)]
    for graph in graphs:
        graph.opset_import[0].version = 19  # the first for which it has the pairs; nothing else changed
    a, b = (ReferenceEvaluator(g).run(None, {"input": images[:1]})[0].ravel() for g in graphs)
    assert float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)) > 0.99


@pytest.mark.parametrize(
    ("name", "form"), [(n, f) for n in ("ort", "openvino") for f in backends.get(n).forms()]
)
def test_runtimes_give_the_references_scores(
    model: bytes, images: Float32s, name: str, form: Int8Form
) -> None:
    """Seven bits in the weights where products saturate: eight would be off by far more than a step."""
    if reason := {row["name"]: row["reason"] for row in backends.describe()}[name]:
        pytest.skip(reason)
    backend = backends.get(name)
    found = calibrate.calibrate(model, images, form)
    small = quantize.to_int8(model, found.ranges, form, found.means)
    engine = backend.build(small, backend.setting("cpu", "int8", 1, 1))
    float_engine = backend.build(model, backend.setting("cpu", "fp32", 1, 1))
    for image in images[:4]:
        a, b = (e.run(image[None]).ravel() for e in (float_engine, engine))
        assert float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)) > 0.99


def test_every_convolution_fuses_in_onnx_runtime(model: bytes) -> None:
    """The graph after the runtime's own optimisation: integer kernels only, no pair left inside."""
    kinds = _optimised_kinds(calibrate.for_timing(model, forms.onnx_runtime()[0]))
    assert not {"Conv", "Add", "Relu", "Clip", "Gemm", "FusedConv", "GlobalAveragePool"} & set(kinds)
    assert kinds.count("QLinearConv") == 8  # stem 1, basic 2, mbconv 3 and its gate 2
    assert kinds.count("QuantizeLinear") == 1  # of the input


def hard(op: str, **slope: float) -> bytes:
    """``input`` (1, 1, 2, 2), a convolution by 1, then `op` and a convolution by 1."""
    tensors = [numpy_helper.from_array(np.ones((1, 1, 1, 1), np.float32), name) for name in ("w", "v")]
    nodes = [
        helper.make_node("Conv", ["input", "w"], ["x"]),
        helper.make_node(op, ["x"], ["y"], **slope),
        helper.make_node("Conv", ["y", "v"], ["scores"]),
    ]
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 1, 2, 2]) for n in ("input", "scores")]
    graph = helper.make_graph(nodes, "hard", ports[:1], ports[1:], tensors)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    data: bytes = made.SerializeToString()
    return data


@pytest.mark.parametrize(
    ("op", "slope", "wanted"),
    # clip(0.2 x + 0.5), clip(0.5 x), and x clip(x / 6 + 0.5) of -5, -1, 2 and 5, by hand.
    [
        ("HardSigmoid", {}, [0.0, 0.3, 0.9, 1.0]),
        ("HardSigmoid", {"alpha": 0.5, "beta": 0.0}, [0.0, 0.0, 1.0, 1.0]),
        ("HardSwish", {}, [0.0, -1 / 3, 5 / 3, 5.0]),
    ],
)
def test_a_hard_activation_is_a_sum_that_its_steps_cut(
    op: str, slope: dict[str, float], wanted: list[float]
) -> None:
    data, form = hard(op, **slope), Int8Form(weight_levels=63)
    images = np.array([-5.0, -1.0, 2.0, 5.0], np.float32).reshape(1, 1, 2, 2)
    small = quantize.to_int8(data, calibrate.calibrate(data, images, form, "minmax").ranges, form)
    kinds = _optimised_kinds(small)
    assert "QLinearAdd" in kinds
    assert not {"HardSigmoid", "HardSwish", "Add", "Mul"} & set(kinds)
    ort = backends.get("ort")
    scores = ort.build(small, ort.setting("cpu", "int8", 1, 1)).run(images)
    # A step of x is 10 / 255, of x * y no more.
    assert scores.ravel().tolist() == pytest.approx(wanted, abs=0.06)
    # Nodes that stay in float stay as they are.
    mixed = onnx.load_model_from_string(
        quantize.to_int8(data, {"input": (-5.0, 5.0), "x": (-5.0, 5.0)}, form, None, {"y", "scores"})
    )
    assert op in [node.op_type for node in mixed.graph.node]


def _optimised_kinds(model: bytes) -> list[str]:
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.optimized_model_filepath = str(Path(folder) / "optimised.onnx")
        ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        return [n.op_type for n in onnx.load_model(options.optimized_model_filepath).graph.node]


@pytest.mark.parametrize("method", calibrate.METHODS)
def test_ranges_do_not_depend_on_the_batch(images: Float32s, method: calibrate.Method) -> None:
    by_batch = [
        calibrate.calibrate(writer.chain(BLOCKS, batch=batch), images, Int8Form(), method)
        for batch in (1, 5, None)
    ]
    for other in by_batch[1:]:
        for name, ends in by_batch[0].ranges.items():
            assert other.ranges[name] == pytest.approx(ends, rel=1e-3, abs=1e-3)
        for name, mean in by_batch[0].means.items():
            assert other.means[name] == pytest.approx(mean, rel=1e-4, abs=1e-4)


def test_rules_by_hand() -> None:
    # 9,998 values of 0 and one at each end: 99.99 % leave half of one value out at each end.
    counts = np.zeros(2048, np.int64)
    counts[0] = counts[-1] = 1
    counts[1024] = 9998
    found = calibrate.Histogram(counts, -10.24, 10.24)
    low, high = calibrate.percentile(found)
    assert (low, high) == pytest.approx((-10.235, 10.235))  # half into the outer bins
    # Values spread evenly: cutting loses more than finer steps gain.
    flat = calibrate.Histogram(np.full(2048, 5, np.int64), 0.0, 1.0)
    low, high = calibrate.mse(flat)
    assert low == 0.0
    assert high == pytest.approx(1.0, abs=0.011)
    # A far outlier among a million small values is cut.
    counts = np.zeros(2048, np.int64)
    counts[:200], counts[-1] = 5000, 1
    assert calibrate.mse(calibrate.Histogram(counts, 0.0, 1.0))[1] < 0.5
    assert calibrate.entropy(calibrate.Histogram(counts, 0.0, 1.0))[1] < 0.5


def test_says_what_is_wrong(model: bytes, images: Float32s) -> None:
    with pytest.raises(
        InputError, match=r"calibration images are \(12, 3, 8, 8\); this model takes \(n, 3, 16"
    ):
        calibrate.calibrate(model, images[:, :, :8, :8], Int8Form())
    with pytest.raises(InputError, match="n of at least 1"):
        calibrate.calibrate(model, images[:0], Int8Form())
    with pytest.raises(InputError, match="unknown calibration 'best'"):
        calibrate.calibrate(model, images, Int8Form(), "best")  # type: ignore[arg-type]  # what is tried here is wrong
    with pytest.raises(BuildError, match="not finite"):
        calibrate.calibrate(model, np.full_like(images, np.nan), Int8Form())
    relu = helper.make_graph(
        [helper.make_node("Relu", ["input"], ["scores"])],
        "none",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 3])],
    )
    nothing = helper.make_model(relu, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with pytest.raises(BuildError, match="no convolution or linear layer"):
        quantize.to_int8(nothing.SerializeToString(), {}, Int8Form())


def test_levels_follow_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    def levels(machine: str, *flags: str) -> int:
        monkeypatch.setattr(forms, "cpu_flags", lambda: frozenset(flags))
        monkeypatch.setattr("platform.machine", lambda: machine)
        return forms.weight_levels()

    assert levels("x86_64", "avx2", "fma") == 63
    assert levels("x86_64", "avx512f", "avx512_vnni") == 127
    assert levels("AMD64") == 63  # Windows does not tell
    assert levels("aarch64", "asimd") == 127


def test_what_folding_takes_apart_is_one_operator_again() -> None:
    """ONNX Runtime writes HardSwish as x * HardSigmoid(x); OpenVINO fuses it in one piece only."""
    from hwnas.backends.foreign import ready

    data = hard("HardSwish")
    kinds = [n.op_type for n in onnx.load_model_from_string(ready(data)).graph.node]
    assert "HardSwish" in kinds
    assert "HardSigmoid" not in kinds
    # Of another slope it is none.
    other = [n.op_type for n in onnx.load_model_from_string(ready(hard("HardSigmoid", alpha=0.2))).graph.node]
    assert "HardSigmoid" in other


@pytest.mark.parametrize("broken", ["w", "b"])
def test_weights_that_are_not_finite_are_refused(broken: str) -> None:
    weight, bias = np.ones((2, 3, 1, 1), np.float32), np.ones(2, np.float32)
    (weight if broken == "w" else bias)[0] = np.nan
    with pytest.raises(BuildError, match=f"weight '{broken}' holds values that are not finite"):
        quantize_plan.points(one_convolution(weight, bias), Int8Form())
