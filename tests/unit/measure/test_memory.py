"""What neighbours in the shared cache do to a network: by hand, from damaged files, and as it is noted."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwnas.backends import get
from hwnas.backends.fake import Fake
from hwnas.errors import BuildError
from hwnas.measure.levels import SentinelHistory
from hwnas.measure.memory import MemoryStates
from hwnas.measure.sentinel import MEMORY_PRIOR_SD, MemorySentinel, memory_sentinel
from hwnas.measure.timing import TimingOptions, measure
from hwnas.nets import onnx
from hwnas.spec import BlockSpec

KNOWN = MemoryStates(sd=0.1, ms=4.0, weight_bytes=10.5e6, cache_bytes=0.5e6)
BODY = {"states_percent": 10.0, "ms": 4.0, "weight_bytes": 10.5e6, "cache_bytes": 0.5e6}
MODEL = onnx.chain([BlockSpec(kind="basic", c_in=16, c_out=16, size_in=32)])


def test_the_share_of_a_network_by_hand() -> None:
    """All in its own cache; half of the sentinel's bytes beyond it; as many, in 4 and 2 times its time."""
    weights = np.array([0.4e6, 5.5e6, 10.5e6, 10.5e6])
    found = KNOWN.of(weights, np.array([1.0, 2.0, 16.0, 8.0]))
    assert found == pytest.approx([0.0, 0.05, 0.05, 0.1])


def test_a_summary_is_read_as_it_was_written() -> None:
    assert KNOWN.to_json() == pytest.approx(BODY)
    assert MemoryStates.read(KNOWN.to_json()) == KNOWN


@pytest.mark.parametrize(
    "body",
    [
        None,
        [],
        "memory",
        {},
        {**BODY, "ms": 0.0},
        {**BODY, "ms": None},
        {**BODY, "ms": True},
        {**BODY, "ms": "4"},
        {**BODY, "states_percent": -1.0},
        {**BODY, "states_percent": float("nan")},
        {**BODY, "weight_bytes": float("inf")},
        {**BODY, "weight_bytes": 0.5e6},
        {**BODY, "states_percent": 10**400},
        {name: BODY[name] for name in ("ms", "weight_bytes", "cache_bytes")},
    ],
)
def test_what_cannot_be_used_is_unknown(body: Any) -> None:
    assert MemoryStates.read(body) is None


def test_a_state_without_bounds_is_bounded() -> None:
    found = MemoryStates.read({**BODY, "states_percent": 1e300})
    assert found is not None
    assert found.sd == 1.0


def test_looks_are_noted_and_change_nothing(tmp_path: Path) -> None:
    device = Fake()
    setting = device.setting("fake", "fp32", 1, 1)
    history = SentinelHistory("second", setting, folder=tmp_path)
    built = []

    def build() -> Any:
        built.append(device.build(MODEL, setting))
        return built[-1]

    found = measure(
        {"a": lambda: device.build(MODEL, setting)},
        TimingOptions.preset("quick"),
        rng=np.random.default_rng(0),
        memory=MemorySentinel(build, history, 0.0, 1.0),
    )
    alone = measure(
        {"a": lambda: device.build(MODEL, setting)},
        TimingOptions.preset("quick"),
        rng=np.random.default_rng(0),
    )
    assert alone["a"].floor_ms == found["a"].floor_ms
    looks = history.recent()
    assert len(built) == 1
    assert len(looks) == 1, "the quick preset of one engine takes less than two seconds"
    assert looks[0].ms == pytest.approx(found["a"].floor_ms, rel=0.05)


def test_one_that_cannot_run_ends_nothing(tmp_path: Path) -> None:
    device = Fake()
    setting = device.setting("fake", "fp32", 1, 1)

    class Full:
        setting = device.setting("fake", "fp32", 1, 1)

        def time(self, calls: int) -> Any:
            raise BuildError("out of memory")

        def close(self) -> None: ...

    found = measure(
        {"a": lambda: device.build(MODEL, setting)},
        TimingOptions.preset("quick"),
        rng=np.random.default_rng(0),
        memory=MemorySentinel(Full, SentinelHistory("s", setting, folder=tmp_path), 0.0, 1.0),  # type: ignore[arg-type]  # half an engine
    )
    assert found["a"].floor_ms > 0


def test_a_damaged_look_is_passed_over(tmp_path: Path) -> None:
    history = SentinelHistory("s", Fake().setting("fake", "fp32", 1, 1), folder=tmp_path)
    history.add(1.5)
    with history.path.open("a") as file:
        file.write(f'{{"at_s": 1, "ms": 1{"0" * 400}}}\n')
    history.add(1.6)
    assert [look.ms for look in history.recent()] == [1.5, 1.6]


def test_of_this_machine_alone() -> None:
    fake = Fake()
    assert memory_sentinel(fake, fake.setting("fake", "fp32", 1, 1), {"L2": 1}) is None


def test_states_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HWNAS_HOME", str(tmp_path))
    ort, caches = get("ort"), {"L1": 32768, "L2": 524288}
    setting = ort.setting("cpu", "fp32", 4, 1)
    found = memory_sentinel(ort, setting, caches)
    assert found is not None
    engine = found.build()
    assert engine.setting.batch == 1, "whatever the table's batch"
    engine.close()
    assert found.states() is None, "no best level is known"
    for _ in range(20):
        found.history.add(3.0)
    told = found.states()
    # 36 blocks of two 3x3 convolutions of 64 channels with biases, four bytes each.
    weights = 36 * 2 * 4 * (9 * 64 * 64 + 64)
    assert told is not None
    # One state (or two, where a state's end falls between), which is the best itself, and the prior's three.
    assert any(told.sd == pytest.approx(MEMORY_PRIOR_SD * np.sqrt(3 / (3 + n))) for n in (1, 2))
    assert (told.ms, told.weight_bytes, told.cache_bytes) == (3.0, weights, 524288)
    quarter = memory_sentinel(ort, ort.setting("cpu", "int8", 1, 1), caches)
    assert quarter is not None
    assert quarter.cache_bytes == 4 * 524288, "int8 weights take a quarter"
    # 2.5 MiB hold int8 weights of 10.5 MB counted as fp32, nearly all of 36 blocks; twice that are 71.
    large = memory_sentinel(ort, ort.setting("cpu", "int8", 1, 1), {"L2": 5 << 19})
    assert large is not None
    assert (large.cache_bytes, large.weight_bytes) == (10 << 20, 71 * weights // 36)
    unusable: list[Any] = [{"L2": True}, {"L2": "512 kB"}, {"L2": 1 << 30}, {"L2": -1}, [], None]
    for damaged in unusable:
        assert memory_sentinel(ort, setting, damaged) is None
