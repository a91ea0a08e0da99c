"""Prices of the fake device, worked out by hand from its figures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from hwnas.backends.fake_price import FakeDevice, price_ms
from hwnas.errors import BuildError

# 1 MAC a nanosecond, 1 byte a nanosecond from the cache, a tenth of that from memory.
PLAIN = FakeDevice(
    gmacs_per_s=1.0,
    cache_gb_per_s=1.0,
    memory_gb_per_s=0.1,
    cache_bytes=1 << 20,
    op_overhead_us=0.0,
    call_overhead_us=0.0,
    lane=8,
    depthwise_efficiency=0.25,
    thread_exponent=1.0,
)


def model(
    nodes: list[object], weights: dict[str, tuple[int, ...]], shape: tuple[int, ...], out: str
) -> bytes:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, list(shape))],
        [helper.make_tensor_value_info(out, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.ones(s, np.float32), n) for n, s in weights.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    data: bytes = made.SerializeToString()
    return data


def gemm(m: int, n: int) -> bytes:
    """A vector of m to n scores: two-dimensional, so that no layout is converted."""
    return model([helper.make_node("Gemm", ["input", "w"], ["y"])], {"w": (m, n)}, (1, m), "y")


def test_linear_layer_is_bound_by_bytes() -> None:
    # 64 x 32: 2048 MACs = 2048 ns; bytes (64 + 2048 + 32) x 4 = 8576 ns. The larger one counts.
    assert price_ms(gemm(64, 32), PLAIN, "fp32", 1, 1) == pytest.approx(8576e-6)


def test_linear_layer_is_bound_by_arithmetic() -> None:
    slow = replace(PLAIN, gmacs_per_s=0.1)
    # 2048 MACs at 10 ns each.
    assert price_ms(gemm(64, 32), slow, "fp32", 1, 1) == pytest.approx(20480e-6)


def test_half_precision_halves_bytes_and_doubles_the_peak() -> None:
    assert price_ms(gemm(64, 32), PLAIN, "fp16", 1, 1) == pytest.approx(8576e-6 / 2)
    slow = replace(PLAIN, gmacs_per_s=0.1)
    assert price_ms(gemm(64, 32), slow, "fp16", 1, 1) == pytest.approx(20480e-6 / 2)


def test_threads_divide_the_time() -> None:
    assert price_ms(gemm(64, 32), PLAIN, "fp32", 1, 4) == pytest.approx(8576e-6 / 4)


def test_overheads() -> None:
    slow = replace(PLAIN, op_overhead_us=2.0, call_overhead_us=6.0)
    assert price_ms(gemm(64, 32), slow, "fp32", 1, 1) == pytest.approx(8576e-6 + 8e-3)


def conv(c_in: int, c_out: int, groups: int = 1, tail: tuple[str, ...] = ()) -> bytes:
    """A 3x3 convolution of 4x4 pixels, element-wise operators behind it, pooled to two dimensions."""
    nodes = [helper.make_node("Conv", ["input", "w"], ["c"], pads=[1, 1, 1, 1], group=groups)]
    last = "c"
    for i, kind in enumerate(tail):
        nodes.append(helper.make_node(kind, [last], [f"e{i}"]))
        last = f"e{i}"
    nodes += [helper.make_node("GlobalAveragePool", [last], ["p"]), helper.make_node("Flatten", ["p"], ["y"])]
    return model(nodes, {"w": (c_out, c_in // groups, 3, 3)}, (1, c_in, 4, 4), "y")


def compute_only() -> FakeDevice:
    """Bytes cost nothing here."""
    return replace(PLAIN, cache_gb_per_s=1e12, memory_gb_per_s=1e12)


def test_channels_are_padded_to_lanes() -> None:
    # 16 pixels x 9 x 8 x 16 MACs; nine output channels cost as much as sixteen.
    expected = 16 * 9 * 8 * 16 * 1e-6
    assert price_ms(conv(8, 9), compute_only(), "fp32", 1, 1) == pytest.approx(expected)
    assert price_ms(conv(8, 16), compute_only(), "fp32", 1, 1) == pytest.approx(expected)


def test_depthwise_convolution_is_inefficient() -> None:
    # 16 pixels x 8 channels x 9 MACs at a quarter of the peak.
    assert price_ms(conv(8, 8, groups=8), compute_only(), "fp32", 1, 1) == pytest.approx(16 * 8 * 9 * 4e-6)


def test_activation_is_fused_and_costs_nothing() -> None:
    device = replace(PLAIN, op_overhead_us=5.0)
    assert price_ms(conv(8, 8, tail=("Relu",)), device, "fp32", 1, 1) == pytest.approx(
        price_ms(conv(8, 8), device, "fp32", 1, 1)
    )


def test_second_activation_is_not_fused() -> None:
    device = replace(PLAIN, op_overhead_us=5.0)
    one, two = (price_ms(conv(8, 8, tail=("Sigmoid",) * n), device, "fp32", 1, 1) for n in (1, 2))
    # Its overhead, and 8 x 4 x 4 values of 4 bytes read and written.
    assert two - one == pytest.approx(5e-3 + 2 * 8 * 16 * 4e-6)


def test_weights_beyond_the_cache_are_streamed() -> None:
    # 64 x 32 weights are 8192 bytes; a cache of 4096 holds half of them.
    small = replace(PLAIN, cache_bytes=4096)
    expected = (64 + 32) * 4 + 4096 + 4096 * 10
    assert price_ms(gemm(64, 32), small, "fp32", 1, 1) == pytest.approx(expected * 1e-6)


def test_price_is_not_additive() -> None:
    """Two halves apart pay for the layout twice and keep their weights in the cache."""
    whole = price_ms(conv(8, 8), FakeDevice(), "fp32", 1, 1)
    assert 2 * whole != pytest.approx(
        price_ms(conv(8, 8, tail=("Sigmoid", "Sigmoid")), FakeDevice(), "fp32", 1, 1)
    )


def test_batch_scales_the_work_and_not_the_weights() -> None:
    # Per image 64 + 32 values; the weights once.
    four = model([helper.make_node("Gemm", ["input", "w"], ["y"])], {"w": (64, 32)}, (4, 64), "y")
    assert price_ms(four, PLAIN, "fp32", 4, 1) == pytest.approx((4 * 96 + 2048) * 4e-6)


def test_unreadable_model() -> None:
    with pytest.raises(BuildError, match="cannot read"):
        price_ms(b"rubbish", PLAIN, "fp32", 1, 1)
