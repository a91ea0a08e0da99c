"""What is special to OpenVINO: it must compute in the precision that it says."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest

from hwnas.backends.openvino import OpenVino
from hwnas.errors import BackendUnavailable, InputError
from hwnas.nets import onnx
from hwnas.spec import BlockSpec

pytestmark = pytest.mark.skipif(find_spec("openvino") is None, reason="openvino is not installed")
MODEL = onnx.chain([BlockSpec(kind="basic", c_in=32, c_out=32, size_in=8)] * 3)
IMAGES = np.random.default_rng(0).standard_normal((1, 32, 8, 8), dtype=np.float32)


def test_fp32_is_fp32() -> None:
    engine = OpenVino().build(MODEL, OpenVino().setting("cpu", "fp32", 1, 1))
    compiled = engine._compiled
    assert "32" in compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    assert compiled.get_property("NUM_STREAMS") in (1, "1")
    assert int(compiled.get_property("INFERENCE_NUM_THREADS")) == 1


def test_bf16_is_bf16_or_an_error() -> None:
    exact = OpenVino().build(MODEL, OpenVino().setting("cpu", "fp32", 1, 1)).run(IMAGES)
    try:
        rounded = OpenVino().build(MODEL, OpenVino().setting("cpu", "bf16", 1, 1)).run(IMAGES)
    except BackendUnavailable as exc:
        pytest.skip(str(exc))
    # bfloat16 keeps eight bits: errors of that size, and not of single precision's.
    error = np.abs(rounded - exact).max() / np.abs(exact).max()
    assert 1e-4 < error < 0.1


def test_precisions_that_it_would_replace() -> None:
    with pytest.raises(InputError, match="fp16"):
        OpenVino().setting("cpu", "fp16", 1, 1)


def test_bf16_needs_units_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hwnas.backends.openvino.cpu_flags", lambda: frozenset({"avx2"}))
    with pytest.raises(BackendUnavailable, match=r"no bfloat16 units.*--precision fp32 or int8"):
        OpenVino().setting("cpu", "bf16", 1, 1)
    monkeypatch.setattr("hwnas.backends.openvino.cpu_flags", lambda: frozenset({"avx512_bf16"}))
    assert OpenVino().setting("cpu", "bf16", 1, 1).precision == "bf16"


def test_running_keeps_the_timed_input() -> None:
    engine = OpenVino().build(MODEL, OpenVino().setting("cpu", "fp32", 1, 1))
    images = IMAGES.copy()
    first = engine.run(images)
    images *= 0
    engine.time(1)
    np.testing.assert_array_equal(engine.run(IMAGES), first)
