"""ONNX Runtime on a GPU: what can be tried where only its CPU provider is installed."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from ort_provider import CPU, CUDA, REAL, TENSORRT, Provider, cache_names, in_tf32

from hwnas.backends import ort_gpu
from hwnas.backends.cuda.gpus import GpuInfo
from hwnas.backends.ort_gpu import OrtCuda, OrtGpuEngine, OrtTrt, session
from hwnas.errors import BackendUnavailable, BuildError, DataFormatError, DeviceUnavailable, InputError
from hwnas.nets import onnx as writer
from hwnas.records import Setting
from hwnas.spec import BlockSpec

onnxruntime = pytest.importorskip("onnxruntime")
MODEL = writer.chain([BlockSpec(kind="conv", c_in=3, c_out=8, size_in=16)], batch=2)
IMAGES = np.random.default_rng(0).standard_normal((2, 3, 16, 16), dtype=np.float32)
AMPERE = GpuInfo(name="NVIDIA A100-SXM4-40GB", compute_capability="8.0", memory_bytes=40 << 30, driver="580")
PASCAL = GpuInfo(name="NVIDIA TITAN Xp", compute_capability="6.1", memory_bytes=12 << 30, driver="580")
SETTING = Setting(device="gpu", backend="ort-cuda", batch=2)


@pytest.fixture(params=[OrtCuda, OrtTrt])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> OrtCuda | OrtTrt:
    monkeypatch.setattr(ort_gpu, "gpus", lambda: (AMPERE,))
    made: OrtCuda | OrtTrt = request.param()
    return made


def test_a_session_that_would_run_on_the_cpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackendUnavailable, match="has no CUDAExecutionProvider here"):
        session(MODEL, "CUDAExecutionProvider", {})
    # As where onnxruntime-gpu is installed and its CUDA libraries do not load.
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", CPU])
    with pytest.warns(UserWarning, match="CUDAExecutionProvider"), pytest.raises(BackendUnavailable) as told:
        session(MODEL, "CUDAExecutionProvider", {})
    assert "would run this on the CPU" in str(told.value)


def test_a_session_of_another_provider_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Fallen:
        def __init__(self, *_args: object, **_kwargs: object) -> None:
            pass

        def get_providers(self) -> list[str]:
            return [CPU]

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", CPU])
    monkeypatch.setattr(onnxruntime, "InferenceSession", Fallen)
    with pytest.raises(BackendUnavailable, match="asked for CUDAExecutionProvider and gave CPU"):
        session(MODEL, "CUDAExecutionProvider", {})


def test_what_is_missing_is_said(backend: OrtCuda | OrtTrt, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort_gpu, "gpus", lambda: ())
    assert "no NVIDIA GPU" in str(backend.unavailable())
    monkeypatch.setattr(ort_gpu, "gpus", lambda: (AMPERE,))
    versions = {"onnxruntime-gpu": "", "onnxruntime": "1.32.0"}
    monkeypatch.setattr(ort_gpu, "package_version", lambda name: versions[name])
    assert "onnxruntime-gpu is not installed: pip uninstall -y onnxruntime" in str(backend.unavailable())
    versions["onnxruntime-gpu"] = "1.32.0"
    assert "overwrite each other" in str(backend.unavailable())
    versions["onnxruntime"] = ""
    missing = backend.unavailable()
    assert missing is None if backend.name == "ort-cuda" else "tensorrt-cu13<11" in str(missing)


def test_settings(backend: OrtCuda | OrtTrt, monkeypatch: pytest.MonkeyPatch) -> None:
    setting = backend.setting("a100", "fp16", 8, 1)
    assert setting.device_arch == "NVIDIA A100-SXM4-40GB, compute capability 8.0"
    assert (setting.backend, setting.precision, setting.batch) == (backend.name, "fp16", 8)
    with pytest.raises(InputError, match="bf16"):
        backend.setting("gpu", "bf16", 1, 1)
    with pytest.raises(InputError, match="--threads 4"):
        backend.setting("gpu", "fp32", 1, 4)
    with pytest.raises(DeviceUnavailable, match="titanxp"):
        backend.setting("titanxp", "fp32", 1, 1)
    monkeypatch.setattr(ort_gpu, "gpus", lambda: (PASCAL,))
    with pytest.raises(InputError, match="does not compute faster"):
        backend.setting("titanxp", "fp16", 1, 1)


def test_of_different_gpus_cuda_says_which_is_first(
    backend: OrtCuda | OrtTrt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ort_gpu, "gpus", lambda: (PASCAL, AMPERE))
    monkeypatch.setattr("hwnas.backends.ort_gpu.cuda.installed", lambda: None)
    with pytest.raises(BackendUnavailable, match="several GPUs"):
        backend.setting("gpu", "fp32", 1, 1)
    shown = SimpleNamespace(name=AMPERE.name, capability=(8, 0), memory_bytes=40 << 30)
    opened = SimpleNamespace(properties=shown)
    monkeypatch.setattr("hwnas.backends.ort_gpu.cuda.installed", lambda: "cuda-python")
    monkeypatch.setattr("hwnas.backends.ort_gpu.cuda.open_driver", lambda: opened)
    assert "A100" in backend.setting("gpu", "fp32", 1, 1).device_arch
    with pytest.raises(BackendUnavailable, match="CUDA_VISIBLE_DEVICES"):
        backend.setting("titanxp", "fp32", 1, 1)


def test_b4_a_slice_is_timed_under_its_own_name(
    backend: OrtCuda | OrtTrt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NVML tells of the whole GPU, CUDA of the slice: a table of one must not be taken for the other's."""
    monkeypatch.setattr(ort_gpu, "gpus", lambda: (AMPERE.model_copy(update={"slices": True}),))
    shown = SimpleNamespace(name=f"{AMPERE.name} MIG 1g.5gb", capability=(8, 0), memory_bytes=5 << 30)
    monkeypatch.setattr("hwnas.backends.ort_gpu.cuda.installed", lambda: "cuda-python")
    opened = SimpleNamespace(properties=shown)
    monkeypatch.setattr("hwnas.backends.ort_gpu.cuda.open_driver", lambda: opened)
    setting = backend.setting("a100", "fp32", 1, 1)
    assert setting.device_arch == "NVIDIA A100-SXM4-40GB MIG 1g.5gb, compute capability 8.0"
    monkeypatch.setattr("hwnas.backends.ort_gpu.cuda.installed", lambda: None)
    with pytest.raises(BackendUnavailable, match=r"slices \(MIG\).*pip install cuda-python"):
        backend.setting("a100", "fp32", 1, 1)


def test_provider_options_follow_the_setting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HWNAS_HOME", str(tmp_path))
    assert OrtCuda().options(SETTING, MODEL)["use_tf32"] == "0"
    flags = {
        precision: (given["trt_fp16_enable"], given["trt_int8_enable"])
        for precision in ("fp32", "fp16", "int8")
        for given in [OrtTrt().options(SETTING.model_copy(update={"precision": precision}), MODEL)]
    }
    assert flags == {"fp32": ("False", "False"), "fp16": ("True", "False"), "int8": ("False", "True")}
    given = OrtTrt().options(SETTING, MODEL)
    assert given["trt_auxiliary_streams"] == "0"
    assert given["trt_engine_cache_path"].startswith(str(tmp_path))


def test_b3_kept_engines_are_named_by_content(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HWNAS_HOME", str(tmp_path))
    block = BlockSpec(kind="conv", c_in=3, c_out=8, size_in=16)
    models = [MODEL, writer.chain([block], batch=2, seed=1), writer.chain([block], batch=4)]
    assert len({cache_names(model) for model in models}) == 1  # one name for three different networks
    prefixes = [OrtTrt().options(SETTING, model)["trt_engine_cache_prefix"] for model in models]
    half = SETTING.model_copy(update={"precision": "fp16"})
    prefixes.append(OrtTrt().options(half, MODEL)["trt_engine_cache_prefix"])
    assert len(set(prefixes)) == 4
    assert OrtTrt().options(SETTING, MODEL)["trt_engine_cache_prefix"] == prefixes[0]
    monkeypatch.setattr(ort_gpu, "WORKSPACE_BYTES", 1 << 30)  # as a later version of hwnas may ask
    prefixes.append(OrtTrt().options(SETTING, MODEL)["trt_engine_cache_prefix"])
    assert len(set(prefixes)) == 5


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Provider:
    """A machine with ONNX Runtime's TensorRT provider, simulated."""
    made = Provider()
    monkeypatch.setenv("HWNAS_HOME", str(tmp_path))
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "")  # undone after the test, which may set it
    monkeypatch.setattr(OrtGpuEngine, "memory", "cpu")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [TENSORRT, CUDA, CPU])
    monkeypatch.setattr(onnxruntime, "InferenceSession", made)
    return made


def test_b3_an_engine_computes_its_own_network_whatever_was_kept(provider: Provider) -> None:
    """Other weights, then another precision and batch, under the very names that were kept before."""
    block = BlockSpec(kind="conv", c_in=3, c_out=8, size_in=16)
    for seed in (0, 1):
        model = writer.chain([block], batch=2, seed=seed)
        expected = REAL(model, providers=[CPU]).run(None, {"input": IMAGES})[0]
        engine = OrtTrt().build(model, SETTING.model_copy(update={"backend": "ort-trt"}))
        assert np.array_equal(engine.run(IMAGES), expected)
        engine.close()
    four = SETTING.model_copy(update={"batch": 4})
    engine = OrtTrt().build(writer.chain([block], batch=4), four)
    assert engine.run(np.concatenate([IMAGES, IMAGES])).shape[0] == 4
    engine.close()
    assert provider.loaded == []
    OrtTrt().build(writer.chain([block], batch=4), four).close()
    assert len(provider.loaded) == 1  # the same network again is what the cache is for


def test_m5_fp32_is_no_tf32_where_only_the_environment_can_say_so(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    expected = REAL(MODEL, providers=[CPU]).run(None, {"input": IMAGES})[0]
    rounded = REAL(in_tf32(MODEL), providers=[CPU]).run(None, {"input": IMAGES})[0]
    assert not np.array_equal(rounded, expected)
    half = SETTING.model_copy(update={"precision": "fp16"})
    OrtTrt().build(MODEL, half).close()  # the libraries look at it now, and never again
    engine = OrtTrt().build(MODEL, SETTING)
    assert np.array_equal(engine.run(IMAGES), expected)
    engine.close()


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"silent": True}, "would run this on the CPU"),
        ({"lacks": ("Conv",)}, "would run this on the CPU"),
        ({"problem": "libnvinfer.so.10: cannot open shared object file"}, r"libnvinfer\.so\.10"),
    ],
)
def test_b7_a_provider_that_falls_back_is_an_error_with_its_reason(
    provider: Provider, fault: dict[str, object], words: str
) -> None:
    for name, value in fault.items():
        setattr(provider, name, value)
    with pytest.raises((BackendUnavailable, BuildError), match=words):
        OrtTrt().build(MODEL, SETTING)


def test_b7_pythons_own_fallback_is_off_and_pips_libraries_are_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[object] = []

    class Failing:
        def __init__(self, *_args: object, **given: object) -> None:
            asked.append(given["enable_fallback"])
            raise RuntimeError("libcudnn.so.9: cannot open shared object file")

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", CPU])
    monkeypatch.setattr(onnxruntime, "InferenceSession", Failing)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: asked.append("preloaded"), raising=False)
    monkeypatch.setattr(ort_gpu, "package_version", lambda *_: "1.31.1")
    ort_gpu.preload.cache_clear()
    for _ in range(2):
        with pytest.raises(BuildError, match=r"libcudnn\.so\.9"):
            session(MODEL, "CUDAExecutionProvider", {})
    ort_gpu.preload.cache_clear()
    assert asked == ["preloaded", 0, 0]


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[OrtGpuEngine]:
    """The engine's own code on the provider that is here."""
    monkeypatch.setattr(OrtGpuEngine, "memory", "cpu")
    made = OrtGpuEngine(MODEL, SETTING, CPU, {})
    yield made
    made.close()


def test_it_runs_times_and_saves(engine: OrtGpuEngine, tmp_path: Path) -> None:
    expected = onnxruntime.InferenceSession(MODEL, providers=[CPU]).run(None, {"input": IMAGES})[0]
    assert np.array_equal(engine.run(IMAGES), expected)
    times = engine.time(3)
    assert times.wall_ms.shape == (3,)
    assert (times.wall_ms > 0).all()
    assert times.cpu_ms is None
    engine.save(tmp_path / "net.cuda.onnx")
    assert (tmp_path / "net.cuda.onnx").read_bytes() == MODEL
    engine.close()
    with pytest.raises(InputError, match="closed"):
        engine.run(IMAGES)


def test_models_and_files_that_do_not_fit(
    engine: OrtGpuEngine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="batch 2, the setting has batch 1"):
        OrtGpuEngine(MODEL, SETTING.model_copy(update={"batch": 1}), CPU, {})
    with pytest.raises(BuildError, match="refused"):
        OrtGpuEngine(b"rubbish", SETTING, CPU, {})
    backend = OrtCuda()
    monkeypatch.setattr(backend, "provider", CPU)
    monkeypatch.setattr(backend, "options", lambda *_: {})
    with pytest.raises(InputError, match="does not exist"):
        backend.load(tmp_path / "none", SETTING)
    (tmp_path / "bad").write_bytes(b"rubbish")
    with pytest.raises(DataFormatError, match="bad"):
        backend.load(tmp_path / "bad", SETTING)
    assert backend.build(MODEL, SETTING).run(IMAGES).shape == (2, 8, 16, 16)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_graphs_are_typed_for_the_provider(precision: str) -> None:
    import onnx

    setting = SETTING.model_copy(update={"precision": precision})
    kinds = {
        backend.name: {
            node.op_type for node in onnx.load_model_from_string(backend.typed(MODEL, setting)).graph.node
        }
        for backend in (OrtCuda(), OrtTrt())
    }
    if precision == "fp16":
        assert "Cast" in kinds["ort-cuda"]
        assert "Cast" not in kinds["ort-trt"]  # TensorRT's provider is asked by a flag
    else:
        assert "QuantizeLinear" in kinds["ort-trt"]
