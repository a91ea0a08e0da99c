"""What a user may ask of an engine besides: several batch sizes, streams, other machines, a Jetson's DLA."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_inside_backend import BLOCKS, IMAGES, MACHINE, MAJOR, on_cpu, plan_head, settings

from hwnas.backends.trt.backend import FORMAT, Trt
from hwnas.backends.trt.engine import TrtEngine
from hwnas.errors import BackendUnavailable, BuildError, DataFormatError, InputError
from hwnas.nets import onnx as writer
from hwnas.records import BuildChoices, Compatible, Precision, Setting

OPEN = writer.chain(BLOCKS, batch=None)
FIXED = writer.chain(BLOCKS, batch=4)
CAPABILITY = {"titanxp": (6, 1), "rtx2080ti": (7, 5), "rtx3090": (8, 6)}[MACHINE]


def chosen(precision: Precision = "fp32", batch: int = 4, **asked: Any) -> Setting:
    backend = Trt()
    return backend.chosen(settings(backend, precision, batch), BuildChoices(**asked))


# ---- several batch sizes ----


def test_each_size_has_a_profile_and_the_next_one_is_taken(simulation: Any) -> None:
    engine = Trt().build(OPEN, chosen(batches=(1, 2, 4)))
    head = plan_head(engine._plan)
    # Lowest, best and highest batch of each profile: together they take every number up to 4.
    bounds = [[shapes["input"][key][0] for key in "012"] for shapes in head["profiles"]]
    assert bounds == [[1, 1, 1], [2, 2, 2], [3, 4, 4]]
    for count in (4, 1, 2, 3, 1):
        assert np.abs(engine.run(IMAGES[:count]) - on_cpu(OPEN, IMAGES[:count])).max() < 1e-5
    used = [o.profile for o in simulation.objects.values() if o.kind == "IExecutionContext" and not o.dead]
    assert sorted(used) == [0, 1, 2]
    assert len(engine.time(3).wall_ms) == 3  # at the largest
    with pytest.raises(InputError, match="at most 4"):
        engine.run(np.concatenate([IMAGES, IMAGES]))
    pictures = np.random.default_rng(1).integers(0, 256, (4, 20, 20, 3), dtype=np.uint8)
    mean = std = np.full(3, 0.5, np.float32)
    whole = engine.run_bytes(pictures, mean, std)
    np.testing.assert_allclose(engine.run_bytes(pictures[:2], mean, std), whole[:2], atol=1e-5)
    with pytest.raises(InputError, match="takes 1 or 2 or 4 at a time"):
        engine.run_bytes(pictures[:3], mean, std)
    engine.close()


def test_a_smaller_size_of_the_same_engine_is_timed_by_itself() -> None:
    setting = chosen(batches=(1, 4))
    engine = Trt().build(OPEN, setting)
    plan = engine._plan
    engine.close()
    driver = engine._driver
    small = TrtEngine(plan, setting.model_copy(update={"batch": 1}), driver)
    assert small.run(IMAGES[:1]).shape == (1, 10)
    assert len(small.time(2).wall_ms) == 2
    with pytest.raises(InputError, match="at most 1"):
        small.run(IMAGES)
    small.close()


def test_sizes_that_do_not_fit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="must end with the largest batch"):
        chosen(batches=(1, 2))
    engine = Trt().build(OPEN, chosen(batches=(1, 4)))
    plan, driver = engine._plan, engine._driver
    engine.close()
    with pytest.raises(BuildError, match="has 2 optimisation profiles"):
        TrtEngine(plan, chosen(batches=(1, 2, 4)), driver)
    if MAJOR < 10:
        return  # 8.6's bindings raise without holding Python's lock, which ends the process
    monkeypatch.setenv("TRTSIM_FAULT", "profile")
    with pytest.raises(BuildError, match="refused the profile of 4 images"):
        TrtEngine(plan, chosen(batches=(1, 4)), driver)


def test_layers_and_streams_share_the_profile_of_an_open_batch() -> None:
    """Before TensorRT 10 two contexts have one only if the builder was asked for it."""
    engine = Trt().build(OPEN, chosen())
    assert engine.layer_ms(1)
    assert engine.in_streams(2, 0.05).streams == 2
    engine.close()


# ---- streams ----


def test_calls_in_several_streams_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A card that has room for two calls side by side: two streams give twice the images, four no more."""
    monkeypatch.setenv("FAKECUDA_CLOCK", "32")
    monkeypatch.setenv("TRTSIM_CALL_US", "20000")
    monkeypatch.setenv("FAKECUDA_BESIDE", "2")
    monkeypatch.setenv("FAKECUDA_HOST_NS", "1000")
    engine = Trt().build(FIXED, settings(Trt()))
    found = {n: engine.in_streams(n, 0.5) for n in (1, 2, 4)}
    engine.close()
    rate = {n: times.images_per_s for n, times in found.items()}
    median_ms = {n: float(np.median(times.wall_ms)) for n, times in found.items()}
    # 4 images in 20 ms are 200 a second; what the host takes by its simulated clock comes off.
    assert rate[1] == pytest.approx(200, rel=0.02)
    assert rate[2] == pytest.approx(400, rel=0.02)
    assert rate[4] == pytest.approx(400, rel=0.1)
    assert median_ms[1] == pytest.approx(20.0, rel=0.02)
    assert median_ms[4] >= 20.0


def test_streams_are_given_back_where_one_has_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Trt().build(FIXED, settings(Trt()))
    engine.time(1)
    monkeypatch.setenv("TRTSIM_FAULT", "context")
    with pytest.raises(BuildError, match="cannot make an execution context"):
        engine.in_streams(3, 0.1)
    monkeypatch.delenv("TRTSIM_FAULT")
    with pytest.raises(InputError, match="expected at least one"):
        engine.in_streams(0, 0.1)
    engine.close()


# ---- other machines ----


@pytest.mark.parametrize("asked", [("version",), ("ampere",), ("capability",), ("version", "capability")])
def test_a_plan_for_other_machines_is_asked_for_by_name(asked: tuple[Compatible, ...]) -> None:
    refused = ("ampere" in asked and CAPABILITY < (8, 0)) or ("capability" in asked and MAJOR < 10)
    if refused:
        with pytest.raises(InputError, match=r"--compatible .*(8\.0 or later|TensorRT 10 or later)"):
            chosen(compatible=asked)
        return
    engine = Trt().build(FIXED, chosen(compatible=asked))
    head = plan_head(engine._plan)
    engine.close()
    assert ("VERSION_COMPATIBLE" in head["flags"]) == ("version" in asked)
    level = {"ampere": "AMPERE_PLUS", "capability": "SAME_COMPUTE_CAPABILITY"}
    assert head["hardware"] == next((level[one] for one in asked if one in level), "NONE")


def test_a_plan_for_later_versions_is_read_by_them_and_by_nobody_else(tmp_path: Path) -> None:
    backend, setting = Trt(), chosen(compatible=("version",))
    engine = backend.build(FIXED, setting)
    engine.save(tmp_path / "plan.engine")
    engine.close()
    # As if a version of before had built it, from which the simulated card can only be told by the manifest.
    older = setting.model_copy(update={"backend_version": "8.6.0"})
    backend.load(tmp_path / "plan.engine", older).close()
    for version, compatible in (("99.0", ("version",)), ("8.5.3", ("version",)), ("8.6.0", ())):
        wrong = setting.model_copy(update={"backend_version": version, "compatible": compatible})
        with pytest.raises(BackendUnavailable, match="was built for TensorRT"):
            backend.load(tmp_path / "plan.engine", wrong)
    # Its own code runs only for who says that it was asked for.
    plain = setting.model_copy(update={"compatible": ()})
    with pytest.raises(DataFormatError, match="not allowed"):
        backend.load(tmp_path / "plan.engine", plain)


def test_a_plan_for_other_gpus_is_bound_to_what_it_says(tmp_path: Path) -> None:
    here = chosen()
    there = here.model_copy(update={"device_arch": "NVIDIA A100, compute capability 8.0"})
    assert FORMAT.binds(there, here) == ("backend_version", "device_arch")
    ampere = there.model_copy(update={"compatible": ("ampere",)})
    assert ("device_arch" in FORMAT.binds(ampere, here)) == (CAPABILITY < (8, 0))
    alike = here.model_copy(update={"compatible": ("capability",)})
    assert FORMAT.binds(alike, here) == ("backend_version",)
    assert FORMAT.binds(there.model_copy(update={"compatible": ("capability",)}), here) == FORMAT.bound_to


def test_ampere_and_capability_exclude_each_other() -> None:
    with pytest.raises(InputError, match="exclude each other"):
        chosen(compatible=("ampere", "capability"))


# ---- DLA ----


def test_a_network_for_a_dla(monkeypatch: pytest.MonkeyPatch, simulation: Any, tmp_path: Path) -> None:
    monkeypatch.setenv("TRTSIM_DLA_CORES", "2")
    setting = chosen("int8", dla=1)
    backend = Trt()
    engine = backend.build(FIXED, setting)
    head = plan_head(engine._plan)
    assert (head["dla"], "GPU_FALLBACK" in head["flags"]) == (1, True)
    engine.save(tmp_path / "plan.engine")
    engine.close()
    loaded = backend.load(tmp_path / "plan.engine", setting)
    opened = [o for o in simulation.objects.values() if o.kind == "ICudaEngine" and not o.dead]
    assert [o.dla for o in opened] == [1]
    loaded.close()
    assert "DLA core 1" in setting.describe()


def test_a_dla_is_refused_where_it_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackendUnavailable, match="no deep-learning accelerator here"):
        chosen("int8", dla=0)
    monkeypatch.setenv("TRTSIM_DLA_CORES", "2")
    for wrong, words in (
        ({"precision": "int8", "dla": 2}, "the cores 0 to 1"),
        ({"precision": "fp32", "dla": 0}, "fp16 and int8 only"),
        ({"precision": "int8", "dla": 0, "batches": (1, 4)}, "one batch size"),
        ({"precision": "int8", "dla": 0, "compatible": ("version",)}, "its own machine's plan"),
    ):
        with pytest.raises(InputError, match=words):
            chosen(**wrong)  # type: ignore[arg-type]


def test_settings_of_before_are_read() -> None:
    body = chosen().model_dump()
    for name in (field.name for field in dataclasses.fields(BuildChoices)):
        del body[name]
    assert Setting(**body) == chosen()
