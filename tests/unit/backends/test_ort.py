"""What is special to ONNX Runtime: threads, affinity, precision, its file formats, fallback."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest

from hwnas.backends.base import bound, cores
from hwnas.backends.ort import PROVIDER, Ort, check_provider, is_ort_format
from hwnas.errors import BackendUnavailable, BuildError, InputError
from hwnas.nets import onnx
from hwnas.spec import BlockSpec

MODEL = onnx.chain([BlockSpec(kind="basic", c_in=8, c_out=8, size_in=8)])
IMAGES = np.random.default_rng(0).standard_normal((1, 8, 8, 8), dtype=np.float32)


def test_setting_records_threads_and_spinning() -> None:
    one = Ort().setting("cpu", "fp32", 1, 1)
    assert (one.threads, one.spin, one.affinity) == (1, False, None)
    if len(cores()) > 1:
        assert Ort().setting("cpu", "fp32", 1, 2).spin is True


def test_other_precisions_are_refused_in_words() -> None:
    for precision in ("fp16", "bf16"):
        with pytest.raises(InputError, match=f"--precision {precision}.*fp32"):
            Ort().setting("cpu", precision, 1, 1)


def test_other_devices_are_refused() -> None:
    with pytest.raises(BackendUnavailable, match="not on 'titanxp'"):
        Ort().setting("titanxp", "fp32", 1, 1)


@pytest.mark.skipif(len(cores()) < 2, reason="needs two cores")
@pytest.mark.parametrize("spin", [False, True])
def test_two_threads_compute_the_same(spin: bool) -> None:
    setting = Ort().setting("cpu", "fp32", 1, 2).model_copy(update={"spin": spin})
    one = Ort().build(MODEL, Ort().setting("cpu", "fp32", 1, 1))
    two = Ort().build(MODEL, setting)
    np.testing.assert_allclose(two.run(IMAGES), one.run(IMAGES), atol=1e-5)
    assert two.time(3).cpu_ms is not None


@pytest.mark.skipif(len(cores()) < 2 or not Path("/proc/self/task").is_dir(), reason="needs two cores, Linux")
def test_threads_are_as_many_as_asked_for() -> None:
    def threads() -> int:
        return len(list(Path("/proc/self/task").iterdir()))

    before = threads()
    one = Ort().build(MODEL, Ort().setting("cpu", "fp32", 1, 1))
    assert threads() == before  # the calling thread is the only one
    two = Ort().build(MODEL, Ort().setting("cpu", "fp32", 1, 2))
    assert threads() == before + 1
    one.close()
    two.close()


def test_cpu_time_is_that_of_the_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU clock is read around the calls, and it is the calling thread's."""
    engine = Ort().build(MODEL, Ort().setting("cpu", "fp32", 1, 1))
    before = time.thread_time()
    times = engine.time(200)
    whole_ms = (time.thread_time() - before) * 1e3
    # No faster than the wall, no longer than everything around it; nothing here depends on others' load.
    assert times.cpu_ms is not None
    assert 0 < times.cpu_ms <= whole_ms
    assert times.cpu_ms <= times.wall_ms.sum() + 20  # some kernels tick in hundredths
    clock = iter([1.0, 1.25])
    monkeypatch.setattr(time, "thread_time", lambda: next(clock))
    assert engine.time(1).cpu_ms == pytest.approx(250.0)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="binding needs Linux")
def test_affinity_binds_while_timing_only() -> None:
    before = os.sched_getaffinity(0)
    core = max(before)
    with bound((core,)):
        assert os.sched_getaffinity(0) == {core}
    assert os.sched_getaffinity(0) == before
    setting = Ort().setting("cpu", "fp32", 1, 1).model_copy(update={"affinity": (core,)})
    assert len(Ort().build(MODEL, setting).time(2).wall_ms) == 2
    assert os.sched_getaffinity(0) == before


def test_affinity_must_fit() -> None:
    setting = Ort().setting("cpu", "fp32", 1, 1)
    with pytest.raises(InputError, match="one core for each"):
        Ort().build(MODEL, setting.model_copy(update={"affinity": (0, 1)}))
    engine = Ort().build(MODEL, setting.model_copy(update={"affinity": (4095,)}))
    with pytest.raises(InputError, match="may use only"):
        engine.time(1)


def test_saved_file_is_its_own_format_and_onnx_loads_too(tmp_path: Path) -> None:
    setting = Ort().setting("cpu", "fp32", 1, 1)
    engine = Ort().build(MODEL, setting)
    engine.save(tmp_path / "a.ort")
    assert is_ort_format((tmp_path / "a.ort").read_bytes())
    assert not is_ort_format(MODEL)
    Ort().load(tmp_path / "a.ort", setting).save(tmp_path / "b.ort")
    assert (tmp_path / "b.ort").read_bytes() == (tmp_path / "a.ort").read_bytes()
    (tmp_path / "c.onnx").write_bytes(MODEL)
    np.testing.assert_array_equal(Ort().load(tmp_path / "c.onnx", setting).run(IMAGES), engine.run(IMAGES))


def test_fallback_is_an_error() -> None:
    check_provider([PROVIDER], PROVIDER)
    with pytest.raises(BackendUnavailable, match="asked for CUDAExecutionProvider and gave CPUExecution"):
        check_provider([PROVIDER], "CUDAExecutionProvider")


def test_build_error_has_the_runtimes_words() -> None:
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("NoSuchOperator", ["input"], ["scores"])],
        "g",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 4])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with pytest.raises(BuildError, match=r"ONNX Runtime .* refused the model: .*NoSuchOperator"):
        Ort().build(model.SerializeToString(), Ort().setting("cpu", "fp32", 1, 1))
