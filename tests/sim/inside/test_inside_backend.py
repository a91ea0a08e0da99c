"""The backend `trt` on a simulated machine, through TensorRT's real bindings."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from driver_state import by_pycuda, driver_counts

from hwnas.arrays import Float32s
from hwnas.backends import images, typed
from hwnas.backends.cuda import gpus
from hwnas.backends.cuda import opening as cuda
from hwnas.backends.cuda.driver import GpuError, GpuOutOfMemory
from hwnas.backends.trt import compat
from hwnas.backends.trt.backend import Trt
from hwnas.backends.trt.build import TrtOptions, cache_path
from hwnas.backends.trt.compat import Layer
from hwnas.backends.trt.engine import TrtEngine
from hwnas.errors import (
    BackendUnavailable,
    BuildError,
    DataFormatError,
    DeviceUnavailable,
    HwnasError,
    InputError,
)
from hwnas.nets import onnx as writer
from hwnas.records import Precision, Setting
from hwnas.spec import BlockSpec

MACHINE = os.environ["HWNAS_SIM_MACHINE"]
MAJOR = {"titanxp": 8, "rtx2080ti": 10, "rtx3090": 11}[MACHINE]
BATCH = 4
BLOCKS = [
    BlockSpec(kind="conv", c_in=3, c_out=8, size_in=16),
    BlockSpec(kind="basic", c_in=8, c_out=8, size_in=16),
    BlockSpec(kind="mbconv", c_in=8, c_out=16, stride=2, expand=4, se=0.25, act="hswish", size_in=16),
    BlockSpec(kind="classifier", c_in=16, c_out=10, size_in=8),
]
MODEL = writer.chain(BLOCKS, batch=BATCH)
IMAGES = np.random.default_rng(0).standard_normal((BATCH, 3, 16, 16), dtype=np.float32)
PRECISIONS = {8: ["fp32", "int8"], 10: ["fp32", "fp16", "int8"], 11: ["fp32", "fp16", "int8"]}[MAJOR]


def on_cpu(model: bytes, images: Float32s) -> Float32s:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    scores: Float32s = session.run(None, {"input": images})[0]
    return scores


def settings(backend: Trt, precision: Precision = "fp32", batch: int = BATCH) -> Setting:
    return backend.setting(MACHINE, precision, batch, 1)


def plan_head(plan: bytes) -> dict[str, Any]:
    """What the simulated builder noted in its plan."""
    head: dict[str, Any] = json.loads(plan[plan.index(b"{") : plan.index(b"\0")])
    return head


@pytest.fixture
def backend() -> Trt:
    return Trt()


def built(backend: Trt, model: bytes = MODEL, precision: Precision = "fp32", batch: int = BATCH) -> TrtEngine:
    return backend.build(model, settings(backend, precision, batch))


def test_it_is_available_and_knows_where_it_is(backend: Trt) -> None:
    assert backend.unavailable() is None
    assert backend.version.split(".")[0] == str(MAJOR)
    setting = settings(backend)
    (gpu,) = gpus.gpus()
    assert gpu.name in setting.device_arch
    assert gpu.compute_capability in setting.device_arch
    assert (setting.backend_version, setting.driver) == (backend.version, gpu.driver)
    assert setting.power_limit_w == 250.0


@pytest.mark.parametrize("precision", PRECISIONS)
def test_scores_are_those_of_the_graph_that_it_was_given(backend: Trt, precision: Precision) -> None:
    engine = built(backend, precision=precision)
    scores = engine.run(IMAGES)
    engine.close()
    reference = on_cpu(MODEL, IMAGES)
    tolerance = {"fp32": 1e-5, "fp16": 2e-3, "int8": 0.1}[precision] * np.abs(reference).max()
    assert scores.shape == (BATCH, 10)
    assert np.abs(scores - reference).max() <= tolerance


@pytest.mark.parametrize("precision", PRECISIONS)
def test_each_version_is_asked_in_its_own_way(backend: Trt, precision: Precision) -> None:
    engine = built(backend, precision=precision)
    head = plan_head(engine._plan)
    engine.close()
    explicit_batch = {8: 1, 10: 0, 11: 0}[MAJOR]
    assert head["network_flags"] == explicit_batch
    # On a card that is fast in fp16, layers that are not quantized may be half precision.
    int8 = ["INT8"] if MACHINE == "titanxp" else ["FP16", "INT8"]
    by_flag = {"fp16": ["FP16"], "int8": int8, "fp32": []}[precision] if MAJOR < 11 else []
    tf32 = [] if precision == "fp32" else ["TF32"]  # on by default; fp32 means IEEE float32
    assert head["flags"] == sorted([*by_flag, *tf32])
    # TensorRT 11 takes half precision from the graph: all of an fp16 one, what int8 leaves of the other.
    casts = [kind for _, kind in head["layers"]].count("Cast")
    assert casts == (2 if precision != "fp32" and MAJOR == 11 else 0)
    assert ("QuantizeLinear" in [kind for _, kind in head["layers"]]) == (precision == "int8")
    assert "HardSwish" not in [kind for _, kind in head["layers"]]


def test_the_builder_is_configured_as_the_options_say() -> None:
    engine = built(Trt(TrtOptions(workspace=0.3, level=2, timings=5)))
    head = plan_head(engine._plan)
    engine.close()
    assert head["workspace"] == int(0.3 * (1024 << 20))
    assert (head["level"], head["timings"], head["streams"]) == (2, 5, 0)
    assert head["detailed"] is True


def test_a_precision_that_does_not_pay_is_refused_in_words(backend: Trt) -> None:
    cases: dict[int, tuple[Precision, str]] = {
        8: ("fp16", "does not compute faster in it"),
        10: ("bf16", "does not compute faster in it"),
        11: ("bf16", "no bf16"),
    }
    precision, words = cases[MAJOR]
    with pytest.raises(InputError, match=words):
        settings(backend, precision)


def test_an_open_batch_takes_any_size_up_to_the_settings(backend: Trt) -> None:
    model = writer.chain(BLOCKS, batch=None)
    engine = built(backend, model)
    assert engine.shape == (0, 3, 16, 16)
    for count in (1, 3, BATCH):
        assert np.abs(engine.run(IMAGES[:count]) - on_cpu(model, IMAGES[:count])).max() < 1e-5
    assert len(engine.time(2).wall_ms) == 2  # at the full batch again
    with pytest.raises(InputError, match="at most 4"):
        engine.run(np.concatenate([IMAGES, IMAGES]))
    engine.close()


def test_a_fixed_batch_must_be_the_settings(backend: Trt) -> None:
    with pytest.raises(InputError, match="has batch 4"):
        built(backend, batch=2)
    engine = built(backend)
    with pytest.raises(InputError, match="4x3x16x16"):
        engine.run(IMAGES[:1])
    engine.close()


def test_bytes_are_prepared_on_the_gpu_as_on_the_host(backend: Trt) -> None:
    engine = built(backend)
    mean, std = np.array([0.5, 0.4, 0.3], np.float32), np.array([0.2, 0.3, 0.4], np.float32)
    for shape, swap in (((BATCH, 16, 16, 3), False), ((BATCH, 33, 21, 3), True), ((BATCH, 16, 16, 3), False)):
        pictures = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
        ready = images.prepare(pictures, (16, 16), mean, std, swap_channels=swap)
        assert np.array_equal(engine.run_bytes(pictures, mean, std, swap_channels=swap), engine.run(ready))
    with pytest.raises(InputError, match="takes 4 at a time"):
        engine.run_bytes(pictures[:1], mean, std)
    with pytest.raises(InputError, match="one value for each channel"):
        engine.run_bytes(pictures, mean[:1], std)
    engine.close()


def test_times_are_single_calls_and_cold_ones_are_flushed(backend: Trt) -> None:
    engine = built(backend)
    hot = engine.time(7)
    assert hot.wall_ms.shape == (7,)
    assert (hot.wall_ms > 0).all()
    assert hot.cpu_ms is None
    assert len(engine.time(200).wall_ms) == 200  # several batches
    launches = driver_launches()
    engine.flush()
    assert len(engine.time(3).wall_ms) == 3
    assert driver_launches() - launches == 1 + 3 + 1  # delay, a flush before each call, comparison
    engine.time(1)
    assert driver_launches() - launches == 7  # one flush() serves one time()
    engine.close()


@pytest.mark.parametrize("wrong", [1.0, np.nan])
def test_timed_calls_that_give_other_scores_are_an_error(
    backend: Trt, simulation: Any, monkeypatch: pytest.MonkeyPatch, wrong: float
) -> None:
    engine = built(backend)
    engine.time(1)
    state = next(o for o in simulation.objects.values() if o.kind == "ICudaEngine" and not o.dead)
    real, calls = state.session, []

    class Unstable:
        def run(self, names: Any, feed: Any) -> list[Any]:
            calls.append(1)
            return [real.run(names, feed)[0] * (1 if len(calls) == 1 else 1 + wrong)]

    state.session = Unstable()
    with pytest.raises(GpuError, match="different scores than the first"):
        engine.time(3)
    engine.close()


def driver_launches() -> int:
    return driver_counts()["launches"]


def test_a_gpu_that_waited_for_the_host_is_timed_again(backend: Trt, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = built(backend)
    engine.time(3)
    delays: list[int] = []
    delay = engine._timer.kernels.delay

    def noted(delay_ns: int, stream: int) -> None:
        delays.append(delay_ns)
        delay(delay_ns, stream)

    monkeypatch.setattr(engine._timer.kernels, "delay", noted)
    engine._timer.delay_ns = 100_000
    monkeypatch.setenv("FAKECUDA_EAGER", "1")  # everything runs when it is queued: the GPU always waits
    monkeypatch.setattr("hwnas.backends.trt.timer.LONGEST_DELAY_NS", 400_000)
    assert len(engine.time(3).wall_ms) == 3  # gives up hiding the host, ends all the same
    assert delays[:3] == [100_000, 200_000, 400_000]
    engine.close()


def test_save_and_load(backend: Trt, tmp_path: Path) -> None:
    engine = built(backend)
    scores = engine.run(IMAGES)
    path = tmp_path / "net.engine"
    engine.save(path)
    engine.close()
    again = Trt().load(path, settings(backend))
    assert np.array_equal(again.run(IMAGES), scores)
    again.close()
    with pytest.raises(InputError, match="does not exist"):
        backend.load(tmp_path / "none.engine", settings(backend))


@pytest.mark.parametrize(
    ("field", "value", "word"),
    [("backend_version", "9.9.9", "TensorRT '9.9.9'"), ("device_arch", "NVIDIA H100", "NVIDIA H100")],
)
def test_a_plan_of_elsewhere_is_refused_before_tensorrt_sees_it(
    backend: Trt, tmp_path: Path, simulation: Any, field: str, value: str, word: str
) -> None:
    path = tmp_path / "net.engine"
    engine = built(backend)
    engine.save(path)
    engine.close()
    seen = sum(o.kind == "Runtime" for o in simulation.objects.values())
    with pytest.raises(BackendUnavailable, match=word):
        backend.load(path, settings(backend).model_copy(update={field: value}))
    assert sum(o.kind == "Runtime" for o in simulation.objects.values()) == seen


def test_another_device_is_refused(backend: Trt, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DeviceUnavailable, match="'a100' is not in this machine"):
        backend.setting("a100", "fp32", 1, 1)
    other = gpus.GpuInfo(name="NVIDIA A100", compute_capability="8.0", memory_bytes=1, driver="1")
    monkeypatch.setattr("hwnas.backends.trt.backend.gpus", lambda: (*gpus.gpus(), other))
    with pytest.raises(BackendUnavailable, match="CUDA_VISIBLE_DEVICES"):
        backend.setting("a100", "fp32", 1, 1)
    assert backend.setting("gpu", "fp32", 1, 1).device == "gpu"
    with pytest.raises(InputError, match="--threads 2"):
        backend.setting("gpu", "fp32", 1, 2)


@pytest.mark.parametrize("damage", ["cut", "foreign"])
def test_a_damaged_plan_is_refused_with_tensorrts_words(backend: Trt, tmp_path: Path, damage: str) -> None:
    path = tmp_path / "net.engine"
    engine = built(backend)
    engine.save(path)
    engine.close()
    path.write_bytes(path.read_bytes()[:20] if damage == "cut" else b"not a plan")
    with pytest.raises(DataFormatError, match="magicTag"):
        backend.load(path, settings(backend))


def test_what_the_parser_says_reaches_the_user_with_the_blocks_name(backend: Trt) -> None:
    proto = onnx.load_model_from_string(writer.chain(BLOCKS[:1], batch=BATCH))
    proto.graph.node[-1].op_type = "Nonsense"
    with pytest.raises(BuildError, match="conv-3x8-k3s1e1-relu@16"):
        built(backend, proto.SerializeToString())
    with pytest.raises(BuildError, match="not an ONNX model"):
        built(backend, b"nonsense")


def test_a_node_without_importer_is_named(backend: Trt, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(typed, "plain", lambda model: model)  # leave HardSwish in
    with pytest.raises(BuildError, match="No importer registered for op: HardSwish"):
        built(backend)


FAULTS = {
    "create_Runtime": (BuildError, "cannot start"),
    "build": (BuildError, "out of memory while timing kernels"),
    "deserialize": (BuildError, "not compatible"),
    "context": (GpuOutOfMemory, "out of memory for activations"),
    "input_shape": (BuildError, "refused the input shape"),
    "address": (BuildError, "refused the address"),
    "enqueue": (GpuError, "illegal memory access"),
    "set_timing_cache": (BuildError, "timing cache"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_refusal_becomes_an_error_and_nothing_leaks(
    backend: Trt, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    error, words = FAULTS[fault]
    monkeypatch.setenv("TRTSIM_FAULT", fault)
    with pytest.raises(error, match=words) as caught:
        build_and_run(backend)
    assert isinstance(caught.value, HwnasError)


def test_b6_int8_without_kernels_for_depthwise_falls_back_to_float_there(backend: Trt) -> None:
    """8.6 does not build DwConv + Swish in int8; the other layers stay quantized."""
    engine = built(backend, precision="int8")
    proto = onnx.load_model_from_string(engine._plan[engine._plan.index(b"\0") + 1 :])
    engine.close()
    (depthwise,) = (
        n.name
        for n in proto.graph.node
        if n.op_type == "Conv" and any(a.name == "group" and a.i > 1 for a in n.attribute)
    )
    weighted = {n.name for n in proto.graph.node if n.op_type in ("Conv", "Gemm")}
    spared = {depthwise} if MAJOR == 8 else set()
    assert typed.quantized_layers(proto.SerializeToString()) == weighted - spared  # the gate's among them
    assert set(engine.float_layers) == spared


def test_b6_what_no_precision_builds_is_refused_in_the_first_words(
    backend: Trt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRTSIM_FAULT", "build")
    words = "implementation for node" if MAJOR == 8 else "out of memory while timing"
    with pytest.raises(BuildError, match=words):
        built(backend, precision="int8")


@pytest.mark.parametrize("precision", [p for p in PRECISIONS if p != "fp32"])
def test_m5_a_block_has_the_ends_that_it_has_within_a_network(backend: Trt, precision: Precision) -> None:
    """Half precision between blocks where the card is fast in it; an image and scores are float32."""
    block = writer.chain(BLOCKS[1:2], batch=BATCH)
    engine = built(backend, block, precision)
    half = {p["name"]: p["type"] == onnx.TensorProto.FLOAT16 for p in plan_head(engine._plan)["ports"]}
    maps = np.random.default_rng(0).standard_normal((BATCH, 8, 16, 16), dtype=np.float32)
    found, reference = engine.run(maps), on_cpu(block, maps)
    assert len(engine.time(3).wall_ms) == 3
    with pytest.raises(InputError, match="part of a network" if MAJOR > 8 else "takes"):
        engine.run_bytes(np.zeros((2, 16, 16, 3), np.uint8), np.zeros(3, np.float32), np.ones(3, np.float32))
    engine.close()
    assert half == {"input": MAJOR > 8, "scores": MAJOR > 8}
    assert found.dtype == np.float32
    assert np.abs(found - reference).max() <= (0.1 if precision == "int8" else 2e-3) * np.abs(reference).max()
    for part, ends in (
        (BLOCKS[:1], (False, MAJOR > 8)),
        (BLOCKS[3:], (MAJOR > 8, False)),
        (BLOCKS, (False, False)),
    ):
        engine = built(backend, writer.chain(part, batch=BATCH), precision)
        ports = plan_head(engine._plan)["ports"]
        engine.close()
        assert tuple(p["type"] == onnx.TensorProto.FLOAT16 for p in ports) == ends


def test_m6_one_builder_serves_every_build(backend: Trt, simulation: Any) -> None:
    built(backend).close()
    before = sum(o.kind == "Builder" for o in simulation.objects.values())
    for seed in (5, 6):
        built(backend, writer.chain(BLOCKS, batch=BATCH, seed=seed)).close()
    assert sum(o.kind == "Builder" for o in simulation.objects.values()) == before


def test_m6_a_builder_that_does_not_start_is_an_error(backend: Trt, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRTSIM_FAULT", "create_Builder")
    compat.builder.cache_clear()
    with pytest.raises(BuildError, match="cannot start"):
        built(backend, writer.chain(BLOCKS, batch=BATCH, seed=7))


@pytest.mark.parametrize("answer", ['{"Layers": [1]}', '{"Layers": null}', "[]", '{"Schichten": []}'])
def test_b7_another_shape_of_the_inspectors_answer_is_an_error_in_words(
    backend: Trt, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    engine = built(backend)
    monkeypatch.setenv("TRTSIM_INSPECTOR", answer)
    try:
        with pytest.raises(BuildError, match="unexpected answer"):
            engine.layers()
    finally:
        engine.close()


def test_b7_a_context_that_cannot_be_entered_is_an_error_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = by_pycuda()

    class Dead:
        def push(self) -> None:
            raise driver._cuda.LogicError("cuCtxPushCurrent failed: invalid device context")

    monkeypatch.setattr(driver, "_context", Dead())
    with pytest.raises(GpuError, match="entering the context failed: cuCtxPushCurrent"):
        driver.__enter__()
    monkeypatch.undo()


def test_b4_a_slice_and_an_edition_are_the_device_that_they_are_part_of(
    backend: Trt, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {
        "titanxp": "NVIDIA TITAN Xp COLLECTORS EDITION",
        "rtx2080ti": "NVIDIA GeForce RTX 2080 Ti MIG 1g.5gb",
        "rtx3090": "NVIDIA GeForce RTX 3090 MIG 1g.5gb+me",
    }
    real = cuda.open_driver()
    properties = dataclasses.replace(real.properties, name=names[MACHINE])
    monkeypatch.setattr(real, "properties", properties)
    setting = backend.setting(MACHINE, "fp32", 1, 1)
    assert names[MACHINE] in setting.device_arch  # its times are not those of the whole card
    assert setting.driver == gpus.gpus()[0].driver


def test_b4_nvml_tells_whether_a_gpu_is_cut_into_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    told = []
    for mode in (None, "0", "1"):  # most GPUs refuse to say
        if mode is not None:
            monkeypatch.setenv("FAKENVML_MIG", mode)
        found = gpus._ask_nvml()
        assert found is not None
        told.append(found[0].slices)
    assert told == [False, False, True]


def build_and_run(backend: Trt) -> None:
    engine = built(backend)
    try:
        engine.run(IMAGES)
    finally:
        engine.close()


def test_a_refused_profile_is_an_error(backend: Trt, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRTSIM_FAULT", "add_profile")
    with pytest.raises(BuildError, match="batch sizes 1 to 4"):
        built(backend, writer.chain(BLOCKS, batch=None))


def test_a_failing_enqueue_is_seen_while_timing_too(backend: Trt, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = built(backend)
    monkeypatch.setenv("TRTSIM_FAULT", "enqueue")
    with pytest.raises(GpuError, match="illegal memory access"):
        engine.time(3)
    with pytest.raises(GpuError, match="illegal memory access"):
        engine.layer_ms(2)
    engine.close()


def test_out_of_memory_is_said_and_leaves_nothing(backend: Trt) -> None:
    large = 1 << 18  # 768 MiB of images and 1 GiB of memory in all, filled by two engines
    model = writer.chain(BLOCKS, batch=large)
    first = built(backend, model, batch=large)
    with pytest.raises(GpuOutOfMemory, match="not enough memory for an allocation"):
        built(backend, model, batch=large)
    first.close()


def test_the_timing_cache_is_kept_and_is_the_devices_own(
    backend: Trt, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = cache_path(settings(backend))
    path.unlink(missing_ok=True)
    built(backend).close()
    first = path.read_bytes()
    assert first.startswith(b"CACHE")
    assert MACHINE in path.name.replace("-", "")
    built(Trt()).close()
    assert path.read_bytes() == first  # nothing new to learn
    built(Trt(), writer.chain(BLOCKS[:2], batch=BATCH)).close()
    assert path.read_bytes().startswith(first)
    assert len(path.read_bytes()) > len(first)
    path.write_bytes(b"CACHE of another card\n")
    built(Trt()).close()
    assert path.read_bytes() == first  # the foreign one was dropped
    path.unlink()
    built(Trt(TrtOptions(cache=False))).close()
    assert not path.exists()


def test_a_second_build_of_the_same_model_opens_the_same_plan(backend: Trt, simulation: Any) -> None:
    first = built(backend)
    second = built(backend)
    assert first._plan is second._plan
    first.close()
    second.close()
    other = built(backend, writer.chain(BLOCKS, batch=BATCH, seed=1))
    assert other._plan != first._plan
    other.close()


def test_layers_in_both_forms_of_the_inspector(backend: Trt) -> None:
    engine = built(Trt(TrtOptions(detailed=False)))
    plain = engine.layers()
    assert plain[0] == Layer("0.conv")
    ms = engine.layer_ms(4)
    assert set(ms) == {layer.name for layer in plain}
    assert ms["0.conv"] == pytest.approx(0.01)
    engine.close()
    engine = built(backend)
    words = "Float" if MAJOR == 11 else "Row major linear FP32"
    assert engine.layers()[0] == Layer("0.conv", "Conv", "sim", (words,))
    engine.close()


def test_the_details_of_layers_are_not_marked_at_each_call(backend: Trt, simulation: Any) -> None:
    engine = built(backend)
    contexts = [o for o in simulation.objects.values() if o.kind == "IExecutionContext" and not o.dead]
    assert [o.marks_details for o in contexts] == [False]
    del contexts
    engine.close()


def test_what_disturbs_a_timing_is_named(backend: Trt, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = built(backend)
    engine.time(1)
    assert engine.watch() == ()
    monkeypatch.setenv("FAKENVML_REASONS", str(0x40 | 0x4))
    monkeypatch.setenv("FAKENVML_SM_MHZ", "1400")  # 93 % of what was seen before
    monkeypatch.setenv("FAKENVML_OTHERS", "1")
    assert engine.watch() == (
        "throttle:HwThermalSlowdown",
        "throttle:SwPowerCap",
        "clock",
        "gpu-shared",
    )
    engine.close()


def test_a_closed_engine_holds_nothing_refuses_and_closes_again(backend: Trt, simulation: Any) -> None:
    engine = built(backend)
    engine.close()
    assert simulation.alive("ICudaEngine", "IExecutionContext") == 0
    engine.close()
    for call in (lambda: engine.run(IMAGES), lambda: engine.time(1), engine.layers):
        with pytest.raises(InputError, match="closed"):
            call()
    with pytest.raises(InputError, match="closed"):
        engine.save(Path("x"))
