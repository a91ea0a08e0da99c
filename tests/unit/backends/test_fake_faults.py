"""The faults that can be planted on the fake device, and that they do what they say."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from hwnas import plugins
from hwnas.backends.fake import Fake, FakeEngine, FakeFaults, faulty
from hwnas.errors import BuildError, DataFormatError
from hwnas.spec import Act, BlockSpec


def graph(act: Act = "relu") -> bytes:
    from hwnas.nets import onnx

    return onnx.chain([BlockSpec(kind="basic", c_in=16, c_out=16, size_in=16, act=act)])


def engine(device: Fake) -> FakeEngine:
    return device.build(graph(), device.setting("fake", "fp32", 1, 1))


def test_without_faults_every_call_costs_the_price() -> None:
    one = engine(Fake())
    times = one.time(50)
    assert set(times.wall_ms) == {one.price_ms}
    assert times.cpu_ms == pytest.approx(50 * one.price_ms)
    assert engine(Fake()).price_ms == one.price_ms


def test_clock_moves_by_what_was_timed() -> None:
    device = Fake()
    one = engine(device)
    spent_ms = one.time(20).wall_ms.sum()
    assert device.clock() == pytest.approx(spent_ms / 1e3)


def test_neighbour_takes_wall_time_and_no_cpu_time() -> None:
    one = engine(faulty(neighbour=0.5))
    times = one.time(2000)
    # Half of the time is the neighbour's: the work takes twice as long by the wall.
    assert times.wall_ms.sum() == pytest.approx(2 * 2000 * one.price_ms, rel=0.05)
    assert times.cpu_ms == pytest.approx(2000 * one.price_ms)
    # Most calls run between two slices of 3 ms and see nothing.
    assert np.median(times.wall_ms) == one.price_ms


def test_drift_and_throttle() -> None:
    device = faulty(drift_per_s=0.1, throttle=2.0, throttle_window=(1.0, 1.5))
    one = engine(device)
    assert one.time(1).wall_ms[0] == one.price_ms
    device.clock.now_s = 1.0
    assert one.time(1).wall_ms[0] == pytest.approx(one.price_ms * 1.1 * 2.0)
    device.clock.now_s = 2.0
    assert one.time(1).wall_ms[0] == pytest.approx(one.price_ms * 1.2)


def test_noise_only_slows_down_and_has_a_seed() -> None:
    device = faulty(noise=0.02, seed=7)
    one = engine(device)
    first = one.time(500).wall_ms
    assert first.min() >= one.price_ms
    # The mean of |normal| is sqrt(2 / pi) = 0.798.
    assert first.mean() == pytest.approx(one.price_ms * (1 + 0.02 * 0.798), rel=0.002)
    np.testing.assert_array_equal(engine(faulty(noise=0.02, seed=7)).time(500).wall_ms, first)
    assert engine(faulty(noise=0.02, seed=8)).time(500).wall_ms[0] != first[0]


def test_builds_differ_and_a_saved_one_stays_what_it_is(tmp_path: Path) -> None:
    device = faulty(build_spread=0.1)
    prices = {engine(device).price_ms for _ in range(5)}
    assert len(prices) == 5
    one = engine(device)
    one.save(tmp_path / "a.fake")
    loaded = [device.load(tmp_path / "a.fake", one.setting).price_ms for _ in range(3)]
    assert loaded == [one.price_ms] * 3


def test_refused_operator() -> None:
    device = faulty(refuse=("HardSwish",))
    device.build(graph("relu"), device.setting("fake", "fp32", 1, 1))
    with pytest.raises(BuildError, match="does not support the operator HardSwish"):
        device.build(graph("hswish"), device.setting("fake", "fp32", 1, 1))


def test_cold_caches_cost_more() -> None:
    one = engine(Fake())
    hot = one.time(1).wall_ms[0]
    one.flush()
    cold = one.time(2).wall_ms
    assert cold[0] > hot
    assert cold[1] == hot


def test_tampered_engine(tmp_path: Path) -> None:
    one = engine(Fake())
    path = tmp_path / "a.fake"
    one.save(path)
    path.write_bytes(path.read_bytes().replace(b"price_ms", b"price_us"))
    with pytest.raises(DataFormatError, match="not an engine"):
        Fake().load(path, one.setting)


def test_half_precision_rounds(tmp_path: Path) -> None:
    device = Fake()
    images = np.random.default_rng(0).standard_normal((1, 16, 16, 16), dtype=np.float32)
    full = engine(device).run(images)
    half = device.build(graph(), device.setting("fake", "fp16", 1, 1))
    error = np.abs(half.run(images) - full).max()
    assert 1e-7 < error < 1e-2
    assert half.price_ms < engine(device).price_ms


def test_faults_are_frozen_and_checked() -> None:
    with pytest.raises(TypeError):
        FakeFaults(nois=0.1)  # type: ignore[call-arg]  # what is tried here is wrong
    with pytest.raises(dataclasses.FrozenInstanceError):
        FakeFaults().noise = 1.0  # type: ignore[misc]  # what is tried here is wrong
    assert "fake" in plugins.names("backends")
