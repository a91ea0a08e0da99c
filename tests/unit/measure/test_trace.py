"""Recorded calls and their replay: times stand in the trace; damaged files are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hwnas.backends.fake import Fake
from hwnas.errors import DataFormatError, InputError
from hwnas.measure.patience import Patience
from hwnas.measure.promise import keep
from hwnas.measure.timing import TimingOptions, measure
from hwnas.measure.trace import IN_TURN, Replay, Trace, TraceOver, record
from hwnas.nets import onnx
from hwnas.spec import BlockSpec

BASE_MS = (1.0, 4.0)


def made(seconds: float, spell: tuple[float, float], slower: float = 1.2) -> Trace:
    """Two engines in turn, one call each; all calls within the spell are slower alike."""
    start, network, wall, now = [], [], [], 0.0
    while now < seconds:
        for at, base_ms in enumerate(BASE_MS):
            ms = base_ms * (slower if spell[0] <= now < spell[1] else 1.0)
            start.append(now)
            network.append(at)
            wall.append(ms)
            now += ms / 1e3
    wall_ms = np.array(wall)
    return Trace(("guard", "net"), "made", np.array(network), np.array(start), wall_ms, wall_ms.copy())


def test_calls_are_those_from_the_moment_on() -> None:
    replay = Replay(made(1.0, (0.5, 0.75)))
    engine = replay.engine("net")()
    times = engine.time(3)
    # guard 0-1 ms, net 1-5, guard 5-6, net 6-10, guard 10-11, net 11-15.
    assert times.wall_ms.tolist() == [4.0, 4.0, 4.0]
    assert times.cpu_ms == pytest.approx(12.0)
    assert replay() == pytest.approx(0.015)
    replay.sleep(0.5)
    assert engine.time(1).wall_ms.tolist() == [pytest.approx(4.8)]
    replay.sleep(0.4)
    with pytest.raises(TraceOver, match="ends at 1 s"):
        engine.time(100)


def test_measuring_works_on_it() -> None:
    replay = Replay(made(30.0, (0.0, 0.0)))
    options = TimingOptions(sessions=3, sessions_max=3, repeats=0, target=1.0)
    found = measure(
        {"net": replay.engine("net")},
        options,
        rng=np.random.default_rng(0),
        sentinel=replay.engine("guard"),
        refer=True,
        clock=replay,
    )
    assert found["net"].floor_ms == pytest.approx(4.0)
    assert found["net"].gates == ()


def test_patience_works_on_it() -> None:
    replay = Replay(made(40.0, (0.5, 15.0)))
    promise, _ = keep(
        replay.engine("net"),
        4.2,
        sentinel=replay.engine("guard"),
        patience=Patience(60.0, clock=replay, sleep=replay.sleep),
        clock=replay,
    )
    assert promise.verdict == "kept"
    assert 15.0 < replay() < 20.0


def test_a_file_gives_the_same_calls(tmp_path: Path) -> None:
    trace = made(0.2, (0.1, 0.2))
    trace.save(tmp_path / "t.npz")
    again = Trace.load(tmp_path / "t.npz")
    assert (again.names, again.conditions) == (trace.names, trace.conditions)
    np.testing.assert_array_equal(again.network, trace.network)
    np.testing.assert_allclose(again.start_s, trace.start_s)
    np.testing.assert_allclose(again.wall_ms, trace.wall_ms, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("wall_ms", np.array([1.0, -1.0])),
        ("wall_ms", np.array([1.0, np.nan])),
        ("wall_ms", np.array([1.0])),
        ("start_s", np.array([1.0, 0.5])),
        ("network", np.array([0, 9])),
        ("network", np.array([0.5, 0.0])),
        ("cpu_ms", np.array(["a", "b"])),
        ("cpu_ms", np.array([{}, {}], dtype=object)),
    ],
)
def test_impossible_values_are_refused(tmp_path: Path, name: str, value: np.ndarray) -> None:
    body = {
        "network": np.array([0, 0]),
        "start_s": np.array([0.0, 1.0]),
        "wall_ms": np.array([1.0, 1.0]),
        "cpu_ms": np.array([1.0, 1.0]),
        "names": np.array(["a"]),
        "conditions": np.array("c"),
    }
    np.savez(tmp_path / "t.npz", **{**body, name: value})  # type: ignore[arg-type]  # names of arrays are free
    with pytest.raises(DataFormatError):
        Trace.load(tmp_path / "t.npz")


def test_what_is_no_trace_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        Trace.load(tmp_path / "none.npz")
    (tmp_path / "t.npz").write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(DataFormatError, match="is not a recording"):
        Trace.load(tmp_path / "t.npz")


def test_recording_keeps_every_call() -> None:
    device = Fake()
    setting = device.setting("fake", "fp32", 1, 1)
    block = BlockSpec(kind="basic", c_in=16, c_out=16, size_in=16)
    model = onnx.chain([block])
    engines = {"a": lambda: device.build(model, setting), "b": lambda: device.build(model, setting)}
    price_ms = engines["a"]().price_ms
    trace = record(engines, 0.05, "fake", clock=device.clock)
    assert trace.network[: 2 * IN_TURN].tolist() == [0] * IN_TURN + [1] * IN_TURN
    np.testing.assert_allclose(trace.wall_ms, price_ms)
    np.testing.assert_allclose(np.diff(trace.start_s), price_ms / 1e3, rtol=1e-6)
    assert 0.05 <= trace.seconds < 0.05 + 11 * price_ms / 1e3
