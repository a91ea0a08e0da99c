"""One network in everything that works here; users' ONNX files in int8."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from hwnas.errors import BackendUnavailable, BuildError, DataFormatError, InputError
from hwnas.jobs import benchmark as jobs
from hwnas.jobs.bench import BenchOptions, bench
from hwnas.jobs.benchmark import BenchmarkOptions, Row, benchmark
from hwnas.jobs.own_onnx import Subject, in_int8, own_model
from hwnas.measure.candidates import RuntimeCandidate, candidates
from hwnas.nets import onnx as writer
from hwnas.records import Measurement, Setting
from hwnas.spec import BlockSpec

BLOCKS = [
    BlockSpec(kind="conv", c_in=3, c_out=8, stride=2, size_in=32),
    BlockSpec(kind="basic", c_in=8, c_out=8, size_in=16),
    BlockSpec(kind="classifier", c_in=8, c_out=10, size_in=16),
]


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "own.onnx"
    path.write_bytes(writer.chain(BLOCKS, batch=1))
    return path


def unfolded(opset: int) -> bytes:
    """A convolution and the batch norm beside it, as exporters leave them, weights in a Constant node."""
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    weight = rng.normal(0, 0.3, (4, 3, 3, 3)).astype(np.float32)
    norm = {n: np.full(4, v, np.float32) for n, v in zip(("s", "b", "m", "v"), (2.0, 1.0, 0.0, 1.0))}
    nodes = [
        helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(weight, "w")),
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c", *norm], ["n"]),
        helper.make_node("Relu", ["n"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Flatten", ["p"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "own",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
        [numpy_helper.from_array(v, n) for n, v in norm.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=7)
    data: bytes = made.SerializeToString()
    return data


def test_a_network_on_the_fake_device() -> None:
    out = benchmark(BenchmarkOptions("resnet20", device="fake"))
    assert [(e["backend"], e["precision"], e["error"]) for e in out["engines"]] == [
        ("fake", "fp32", None),
        ("fake", "fp16", None),
    ]
    # Half the bytes of a device that is bound by memory and arithmetic alike: fp16 is the faster one.
    assert out["engines"][1]["floor_ms"] < out["engines"][0]["floor_ms"]
    assert out["fastest"] == 1
    assert any("no weights" in note for note in out["notes"])


def test_own_file_in_every_runtime(own: Path) -> None:
    out = benchmark(BenchmarkOptions(str(own), device="cpu", data="digits", images=40))
    lines = {(e["backend"], e["precision"]): e for e in out["engines"]}
    assert ("ort", "int8") in lines
    for line in lines.values():
        assert line["error"] is None
        assert line["bytes"] > 0
        assert 0 < line["floor_ms"] <= line["p95_ms"]
        assert line["top1_agreement"] > 0.5
    assert lines["ort", "fp32"]["passed"] is True
    assert out["images"] == 40
    assert 0 <= out["accuracy"] <= 1  # of random weights: ten outputs, ten classes
    assert any("digits" in note for note in out["notes"])


def test_what_is_named_must_be_here(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackendUnavailable, match="'trt' is not available") as missing:
        benchmark(BenchmarkOptions(str(own), device="cpu", backends=("trt",)))
    with pytest.raises(InputError, match="--precision fp16") as wrong:
        benchmark(BenchmarkOptions(str(own), device="cpu", backends=("ort",), precisions=("fp16",)))
    assert (missing.value.exit_status, wrong.value.exit_status) == (4, 2)
    pytest.importorskip("openvino")
    for module in ("openvino", "forms"):
        monkeypatch.setattr(f"hwnas.backends.{module}.cpu_flags", lambda: frozenset({"avx2"}))
    with pytest.raises(BackendUnavailable, match="no bfloat16 units") as lacking:
        candidates("cpu", ("openvino",), ("bf16",))
    assert lacking.value.exit_status == 4
    forms = ("openvino int8", "openvino int8 (by sign)", "openvino int8 (sums)", "openvino int8 (all)")
    assert tuple(c.name for c in candidates("cpu", ("openvino",))) == ("openvino fp32", *forms)


def test_data_of_another_shape_are_refused(tmp_path: Path) -> None:
    flat = [BlockSpec(kind="classifier", c_in=5, c_out=10, size_in=4)]
    with pytest.raises(InputError, match="the images have 1 channel, which cannot become 5") as refused:
        own_model(writer.chain(flat, batch=1), "digits", 8, 1, 0)
    assert refused.value.exit_status == 2
    with pytest.raises(InputError, match="the model has batch 1, --batch is 2"):
        own_model(writer.chain(BLOCKS, batch=1), None, 8, 2, 0)


def test_foreign_file_is_folded_before_it_is_quantized() -> None:
    from hwnas import backends

    ort = backends.get("ort")
    for opset in (11, 17):
        model = unfolded(opset)
        small, note = in_int8(model, ort, None, 1)
        kinds = [n.op_type for n in onnx.load_model_from_string(small).graph.node]
        assert "BatchNormalization" not in kinds
        assert "random images" in note
        images = np.random.default_rng(1).standard_normal((1, 3, 8, 8), dtype=np.float32)
        exact = ort.build(model, ort.setting("cpu", "fp32", 1, 1)).run(images)
        near = ort.build(small, ort.setting("cpu", "int8", 1, 1)).run(images)
        assert np.abs(exact - near).max() < 0.05 * np.abs(exact).max()


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A file without weights: it runs, and nothing of it can be quantized."""
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["r"]), helper.make_node("Flatten", ["r"], ["y"])],
        "none",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 48])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = tmp_path / "bare.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def test_a_model_without_weights_cannot_be_quantized(bare: Path) -> None:
    from hwnas import backends

    with pytest.raises(BuildError, match="no convolution or linear layer"):
        in_int8(bare.read_bytes(), backends.get("ort"), None, 1)
    # Where other precisions work, the line says why this one does not.
    out = benchmark(BenchmarkOptions(str(bare), device="cpu", backends=("ort",)))
    assert [e["precision"] for e in out["engines"] if e["error"] is None] == ["fp32"]
    assert "no convolution or linear layer" in next(e["error"] for e in out["engines"] if e["error"])
    assert out["fastest"] == [e["precision"] for e in out["engines"]].index("fp32")
    # Where nothing is left, there is no table.
    with pytest.raises(DataFormatError, match="ort int8: the graph has no convolution") as refused:
        benchmark(BenchmarkOptions(str(bare), device="cpu", backends=("ort",), precisions=("int8",)))
    assert refused.value.exit_status == 6


def test_bench_times_own_files_in_int8(own: Path) -> None:
    options = BenchOptions((str(own),), device="cpu", precision="int8", preset="quick", max_time_s=0.0)
    row = bench(options, lambda *_: None)["networks"][0]
    assert row["setting"]["precision"] == "int8"
    assert "random images" in row["note"]


def measured(floor_ms: float) -> Measurement:
    return Measurement(
        floor_ms=floor_ms,
        median_ms=floor_ms,
        p10_ms=floor_ms,
        p90_ms=floor_ms,
        p95_ms=floor_ms,
        p99_ms=floor_ms,
        se_ms=0.0,
        samples=1,
        session_ms=(floor_ms,),
    )


def test_the_fastest_that_keeps_accuracy() -> None:
    """0.5 % of 200 images is one image: two more wrong are too many, one is not."""
    from hwnas.deploy.manifest import Parity

    def row(floor_ms: float, top1: float, precision: Any = "int8") -> Row:
        setting = Setting(device="cpu", backend="ort", precision=precision)
        found = Parity(
            images=200,
            data="",
            max_abs_err=0.1,
            scale=1.0,
            cosine_min=1.0,
            top1_agreement=0.9,
            top1_reference=0.9,
            top1_engine=top1,
        )
        return Row(RuntimeCandidate(None, setting), parity=found, measured=measured(floor_ms))  # type: ignore[arg-type]  # only what is asked for

    rows = [row(1.0, 0.9, "fp32"), row(0.5, 0.895), row(0.4, 0.89)]
    subject = Subject(b"", np.zeros((1, 1, 1, 1), np.float32), np.zeros((1, 1, 1, 1), np.float32), True)
    assert jobs._fastest(rows) == 2
    assert jobs._fastest(rows, lambda r: jobs._keeps(r, subject, 0.005)) == 1
    blind = Subject(b"", subject.images, subject.images, False)
    assert jobs._fastest(rows, lambda r: jobs._keeps(r, blind, 0.005)) == 0  # random images show nothing


def brightness(threshold: float, sharp: float) -> bytes:
    """Class 1 where the mean pixel is above a threshold: right on the scale that the threshold is of."""
    from onnx import TensorProto, helper, numpy_helper

    weights = {"t": np.array([[-threshold]], np.float32), "w": np.array([[-sharp, sharp]], np.float32)}
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Add", ["f", "t"], ["d"]),
        helper.make_node("MatMul", ["d", "w"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "own",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2])],
        [numpy_helper.from_array(v, n) for n, v in weights.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    data: bytes = made.SerializeToString()
    return data


def test_a_file_of_the_user_s_gets_pixels_on_the_scale_that_it_was_trained_on(tmp_path: Path) -> None:
    """Dark squares of 0 to 89 of 255 and light ones of 110 to 199; the file thinks in [0, 255]."""
    rng = np.random.default_rng(0)
    labels = np.arange(200) % 2
    images = (rng.integers(0, 90, (200, 4, 4, 1)) + 110 * labels[:, None, None, None]).astype(np.uint8)
    np.savez(tmp_path / "squares.npz", images=images, labels=labels)
    data = f"npz:{tmp_path / 'squares.npz'}"
    found = own_model(brightness(100.0, 0.1), data, 8, 1, 0)
    assert any("pixels on the scale bytes" in note for note in found.notes)
    assert 0 <= found.images.min() < 30 < 150 < found.images.max() <= 199
    assert 0 <= found.calibration.min() < 30 < 150 < found.calibration.max() <= 199
    # One that knows nothing gets the statistics of the data.
    blind = own_model(brightness(100.0, 0.0), data, 8, 1, 0)
    assert any("statistics of the data" in note for note in blind.notes)
    assert abs(float(blind.calibration.mean())) < 0.3
