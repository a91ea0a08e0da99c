"""What every registered backend promises (`hwnas.protocols.Backend` and `Engine`)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hwnas import backends, plugins
from hwnas.arrays import Float32s
from hwnas.errors import BackendUnavailable, BuildError, DataFormatError, HwnasError, InputError
from hwnas.protocols import Backend, Engine
from hwnas.records import Setting

onnx = pytest.importorskip("onnx")


def small_model(batch: int | str = 1, seed: int = 1) -> bytes:
    """Convolution, ReLU, residual add, depthwise convolution, pooling, linear: 3x8x8 to 4 scores."""
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(seed)
    weights = {
        "w0": rng.normal(0, 0.3, (6, 3, 3, 3)),
        "b0": rng.normal(0, 0.3, 6),
        "w1": rng.normal(0, 0.3, (6, 6, 1, 1)),
        "w2": rng.normal(0, 0.3, (6, 1, 3, 3)),
        "w3": rng.normal(0, 0.3, (4, 6)),
        "b3": rng.normal(0, 0.3, 4),
    }
    nodes = [
        helper.make_node("Conv", ["input", "w0", "b0"], ["c0"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c0"], ["r0"]),
        helper.make_node("Conv", ["r0", "w1"], ["c1"]),
        helper.make_node("Add", ["c1", "r0"], ["a1"]),
        helper.make_node("Conv", ["a1", "w2"], ["c2"], pads=[1, 1, 1, 1], strides=[2, 2], group=6),
        helper.make_node("GlobalAveragePool", ["c2"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "w3", "b3"], ["scores"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [batch, 3, 8, 8])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [batch, 4])],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    data: bytes = model.SerializeToString()
    return data


def reference(model: bytes, images: Float32s) -> Float32s:
    """The scores by onnx's own reference implementation: numpy, no runtime of ours."""
    from onnx.reference import ReferenceEvaluator

    scores: Float32s = ReferenceEvaluator(onnx.load_model_from_string(model)).run(None, {"input": images})[0]
    return scores


def images(batch: int = 1) -> Float32s:
    return np.random.default_rng(5).standard_normal((batch, 3, 8, 8), dtype=np.float32)


@pytest.fixture(params=plugins.names("backends"))
def backend(request: pytest.FixtureRequest) -> Backend:
    try:
        return backends.get(request.param)
    except BackendUnavailable as exc:
        pytest.skip(str(exc))  # a runtime or GPU that this machine lacks; the reason names it


@pytest.fixture
def setting(backend: Backend) -> Setting:
    return backend.setting(backend.devices[0], "fp32", 1, 1)


@pytest.fixture
def engine(backend: Backend, setting: Setting) -> Engine:
    return backend.build(small_model(), setting)


def test_keeps_the_protocols(backend: Backend, engine: Engine) -> None:
    assert isinstance(backend, Backend)
    assert isinstance(engine, Engine)
    assert backend.suffix.startswith(".")


def test_setting_says_the_conditions(backend: Backend, setting: Setting, engine: Engine) -> None:
    assert setting.backend == backend.name
    assert setting.backend_version
    assert setting.device_arch
    assert (setting.precision, setting.batch, setting.threads) == ("fp32", 1, 1)
    assert setting.provenance == "measured"
    assert engine.setting == setting
    assert backend.setting(backend.devices[0], "fp32", 1, 1) == setting


def test_outputs_are_the_references(engine: Engine) -> None:
    np.testing.assert_allclose(engine.run(images()), reference(small_model(), images()), atol=1e-4)


@pytest.mark.parametrize("batch", [1, 3])
def test_dynamic_batch(backend: Backend, batch: int) -> None:
    setting = backend.setting(backend.devices[0], "fp32", batch, 1)
    engine = backend.build(small_model("N"), setting)
    np.testing.assert_allclose(
        engine.run(images(batch)), reference(small_model("N"), images(batch)), atol=1e-4
    )
    assert len(engine.time(2).wall_ms) == 2


def test_time_gives_every_call(engine: Engine) -> None:
    times = engine.time(20)
    assert times.wall_ms.shape == (20,)
    assert times.wall_ms.dtype == np.float64
    assert (times.wall_ms > 0).all()
    assert times.cpu_ms is None or times.cpu_ms > 0


def test_running_does_not_depend_on_timing(engine: Engine) -> None:
    before = engine.run(images())
    engine.time(3)
    np.testing.assert_array_equal(engine.run(images()), before)


def test_saved_engine_is_the_same_engine(
    backend: Backend, engine: Engine, setting: Setting, tmp_path: Path
) -> None:
    path = tmp_path / f"net{backend.suffix}"
    engine.save(path)
    loaded = backend.load(path, setting)
    np.testing.assert_allclose(loaded.run(images()), engine.run(images()), atol=1e-6)
    assert loaded.time(2).wall_ms.shape == (2,)
    again = tmp_path / f"again{backend.suffix}"
    loaded.save(again)
    np.testing.assert_allclose(backend.load(again, setting).run(images()), engine.run(images()), atol=1e-6)
    assert backends.for_file(path).name == backend.name


def test_closed_engine_refuses(engine: Engine, tmp_path: Path) -> None:
    engine.close()
    engine.close()
    for use in (lambda: engine.run(images()), lambda: engine.time(1), lambda: engine.save(tmp_path / "x")):
        with pytest.raises(InputError, match="closed"):
            use()


@pytest.mark.parametrize("shape", [(1, 3, 8, 9), (2, 3, 8, 8), (3, 8, 8), (1, 4, 8, 8)])
def test_wrong_images_are_refused(engine: Engine, shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="1x3x8x8"):
        engine.run(np.zeros(shape, np.float32))


def test_no_calls_is_an_error(engine: Engine) -> None:
    with pytest.raises(InputError, match="at least one call"):
        engine.time(0)


def test_rubbish_does_not_build(backend: Backend, setting: Setting) -> None:
    with pytest.raises(BuildError):
        backend.build(b"this is no model", setting)


def test_batch_of_model_and_setting_must_agree(backend: Backend) -> None:
    with pytest.raises((InputError, BuildError), match="batch"):
        backend.build(small_model(2), backend.setting(backend.devices[0], "fp32", 1, 1))


def test_damaged_engine_file(backend: Backend, setting: Setting, engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / f"net{backend.suffix}"
    with pytest.raises(InputError, match="does not exist"):
        backend.load(path, setting)
    engine.save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataFormatError, match=path.name):
        backend.load(path, setting)


def test_impossible_settings_are_refused(backend: Backend) -> None:
    with pytest.raises(HwnasError):
        backend.setting("toaster", "fp32", 1, 1)
    with pytest.raises(HwnasError):
        backend.setting(backend.devices[0], "fp32", 1, 1000)


@pytest.mark.parametrize("name", plugins.names("backends"))
def test_asking_whether_it_is_there_imports_no_runtime(name: str) -> None:
    code = (
        "import sys; from hwnas import backends, plugins\n"
        f"plugins.load('backends', {name!r})().unavailable()\n"
        "print([m for m in ('torch', 'onnx', 'onnxruntime', 'openvino', 'tensorrt') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_describe_lists_every_backend() -> None:
    rows = {row["name"]: row for row in backends.describe()}
    assert sorted(rows) == plugins.names("backends")
    for row in rows.values():
        assert row["available"] == (row["reason"] is None)
        assert not row["available"] or row["version"]
    assert rows["fake"]["available"]


def test_unknown_names() -> None:
    with pytest.raises(InputError, match="did you mean 'ort'"):
        backends.get("orrt")
    with pytest.raises(InputError, match=r"\.ort \(ort\)"):
        backends.for_file(Path("net.xyz"))
