"""``hwnas bench`` over networks, models and engines."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from hwnas import backends
from hwnas.errors import DataFormatError, DeviceUnavailable, InputError
from hwnas.jobs.bench import BenchOptions, bench
from hwnas.jobs.benchmark import BenchmarkOptions, benchmark
from hwnas.jobs.resolve.networks import examples
from hwnas.measure import device
from hwnas.nets import onnx
from hwnas.store import read_network

KEYS = {"path", "kind", "setting", "floor_ms", "se_ms", "median_ms", "p10_ms", "p90_ms", "p95_ms", "p99_ms"}
KEYS |= {"samples", "sessions", "gates", "relative", "differs", "wall_cpu_ratio"}


def quiet(kind: str, fields: Mapping[str, Any]) -> None:
    pass


def fake(*paths: str, **options: Any) -> dict[str, Any]:
    return bench(BenchOptions(paths, device="fake", preset="quick", **options), quiet).as_json()


def test_networks_against_each_other() -> None:
    body = json.loads(json.dumps(fake("resnet20", "resnet32", "resnet20")))
    rows = body["networks"]
    assert [row["path"] for row in rows] == ["resnet20", "resnet32", "resnet20"]
    assert set(rows[0]) >= KEYS
    # Without noise the same network takes the same time, a deeper one longer.
    assert rows[2]["floor_ms"] == rows[0]["floor_ms"]
    assert [row["differs"] for row in rows] == [False, True, False]
    assert rows[1]["relative"] > 1.4
    assert rows[0]["setting"]["device"] == "fake"


def test_batch_sizes_against_each_other() -> None:
    rows = fake("resnet20", batch=1, batches=(8, 32))["networks"]
    assert [row["setting"]["batch"] for row in rows] == [1, 8, 32]
    for row in rows:
        assert row["images_per_s"] == pytest.approx(row["setting"]["batch"] / row["floor_ms"] * 1e3)
    assert rows[2]["floor_ms"] > rows[0]["floor_ms"]


def test_batch_is_passed_on() -> None:
    one, four = (fake("resnet20", batch=n)["networks"][0] for n in (1, 4))
    assert four["setting"]["batch"] == 4
    assert 2.0 < four["floor_ms"] / one["floor_ms"] < 4.0


def test_model_and_engine_files(tmp_path: Path) -> None:
    model = onnx.network(read_network(examples()["resnet20"]))
    (tmp_path / "net.onnx").write_bytes(model)
    backend = backends.get("fake")
    backend.build(model, backend.setting("fake", "fp32", 1, 1)).save(tmp_path / "net.fake")
    rows = fake("resnet20", str(tmp_path / "net.onnx"), str(tmp_path / "net.fake"))["networks"]
    assert [row["kind"] for row in rows] == ["network", "onnx", "engine"]
    assert len({row["floor_ms"] for row in rows}) == 1


def test_on_this_cpu() -> None:
    """Numbers of a real runtime: ordered percentiles, and more work takes longer."""
    rows = bench(BenchOptions(("resnet20", "resnet56"), device="cpu", preset="quick"), quiet)["networks"]
    for row in rows:
        assert 0 < row["p10_ms"] <= row["median_ms"] <= row["p90_ms"] <= row["p95_ms"] <= row["p99_ms"]
        assert row["setting"]["backend"] == "ort"
    assert rows[1]["relative"] > 1.8  # 125 against 41 million multiply-accumulates


def test_dry_run_measures_nothing() -> None:
    body = fake("resnet20", "resnet32", dry_run=True)
    assert body["measurements"] == 2 * 3
    assert "floor_ms" not in body["networks"][0]


def test_cold_caches() -> None:
    hot, cold = (fake("resnet20", cache=mode)["networks"][0]["floor_ms"] for mode in ("hot", "cold"))
    assert cold > hot


def test_engine_with_a_manifest_brings_its_conditions(tmp_path: Path) -> None:
    from hwnas.deploy import engine
    from hwnas.errors import DataFormatError
    from hwnas.nets import build

    spec = read_network(examples()["resnet20"])
    backend = backends.get("ort")
    setting = backend.setting("cpu", "fp32", 2, 1)
    engine.export(spec, build.weights(build.build(spec, seed=0)), backend, setting, tmp_path)
    path = next(tmp_path.glob("*.ort"))
    row = fake(str(path))["networks"][0]
    assert (row["setting"]["backend"], row["setting"]["batch"], row["kind"]) == ("ort", 2, "engine")
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(DataFormatError):
        fake(str(path))


def own(path: Path, nodes: Sequence[NodeProto], kind: int = TensorProto.FLOAT, **constants: list[int]) -> str:
    """An ONNX file that no exporter of ours writes."""
    known = [numpy_helper.from_array(np.array(v, np.int64), name) for name, v in constants.items()]
    shape = helper.make_tensor_value_info("x", kind, (1, 3, 4, 4))
    end = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(list(nodes), "own", [shape], [end], known)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return str(path)


@pytest.mark.parametrize("backend", ["ort", "openvino", "fake"])
def test_a_model_that_the_runtime_refuses_is_the_files_fault(tmp_path: Path, backend: str) -> None:
    """Exit 6 and the file's name, whether it is refused when built or only when it runs."""
    if backend == "openvino":
        pytest.importorskip("openvino", reason="needs hwnas[openvino]")
    device = "fake" if backend == "fake" else "cpu"
    make = helper.make_node
    doubled = [
        make("Shape", ["x"], ["s"]),
        make("Mul", ["s", "two"], ["d"]),
        make("Reshape", ["x", "d"], ["y"]),
    ]
    paths = [
        own(tmp_path / "unknown.onnx", [make("Blah", ["x"], ["y"])]),
        own(tmp_path / "run.onnx", doubled, two=[2]),  # 48 values do not fill 768 places
        own(tmp_path / "int.onnx", [make("Cast", ["x"], ["y"], to=1)], TensorProto.INT64),
    ]
    for path in paths if backend != "fake" else paths[:1]:  # which prices a graph and does not run it
        with pytest.raises(DataFormatError, match=re.escape(f"{path} cannot be used: ")) as caught:
            bench(BenchOptions((path,), device, backend, preset="quick", patience_s=0.0), quiet)
        assert "\n" not in str(caught.value)


def test_the_table_of_runtimes_names_a_file_that_cannot_run(tmp_path: Path) -> None:
    make = helper.make_node
    path = own(tmp_path / "run.onnx", [make("Gather", ["x", "i"], ["y"], axis=0)], i=[5])  # of one image
    with pytest.raises(DataFormatError, match=r"run\.onnx cannot be used: .*out of data bounds"):
        benchmark(BenchmarkOptions(path, device="cpu", backends=("ort",)))
    path = own(tmp_path / "int.onnx", [make("Cast", ["x"], ["y"], to=1)], TensorProto.INT64)
    with pytest.raises(InputError, match="the model takes int64 values"):
        benchmark(BenchmarkOptions(path, device="cpu", backends=("ort",)))


def test_wrong_requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="nothing to measure"):
        fake()
    with pytest.raises(InputError, match="did you mean 'resnet20'"):
        fake("resnet-20")
    (tmp_path / "net.bin").write_bytes(b"x")
    with pytest.raises(InputError, match="no backend reads files with this suffix"):
        fake(str(tmp_path / "net.bin"))
    (tmp_path / "net.onnx").write_bytes(b"rubbish")
    with pytest.raises(DataFormatError, match="not a readable ONNX model"):
        fake(str(tmp_path / "net.onnx"))
    monkeypatch.setattr(device, "gpus", tuple)
    with pytest.raises(DeviceUnavailable):
        bench(BenchOptions(("resnet20",), device="gpu"), quiet)
