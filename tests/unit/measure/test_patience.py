"""Waiting for a quiet machine: spells planted on the fake device's clock, and the memory of levels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwnas.backends.fake import Fake, FakeEngine, faulty
from hwnas.measure.grade import noise_grade
from hwnas.measure.levels import (
    BEST_SHARE,
    FEW,
    MOST_BYTES,
    SentinelHistory,
    SentinelLook,
    state_sd,
)
from hwnas.measure.patience import Patience
from hwnas.measure.promise import keep
from hwnas.nets import onnx
from hwnas.records import Measurement, Promise
from hwnas.spec import BlockSpec

MODEL = onnx.chain([BlockSpec(kind="basic", c_in=32, c_out=32, size_in=32)] * 2)
GUARD = onnx.chain([BlockSpec(kind="basic", c_in=32, c_out=32, size_in=16)])


def builder(device: Fake, model: bytes) -> Callable[[], FakeEngine]:
    setting = device.setting("fake", "fp32", 1, 1)
    return lambda: device.build(model, setting)


PRICE, GUARD_PRICE = (builder(Fake(), model)().price_ms for model in (MODEL, GUARD))
BUDGET = 1.05 * PRICE


def memory(folder: Path, clock: Callable[[], float], ms: float = GUARD_PRICE) -> SentinelHistory:
    """A device that was calm for `FEW` looks, a minute ago."""
    setting = Fake().setting("fake", "fp32", 1, 1)
    before = SentinelHistory("guard", setting, folder=folder, now=lambda: 1e9 - 60.0)
    for _ in range(FEW):
        before.add(ms)
    return SentinelHistory("guard", setting, folder=folder, now=lambda: 1e9 + clock())


def tried(
    device: Fake, levels: SentinelHistory | None, seconds: float, **options: Any
) -> tuple[Promise, Measurement]:
    clock = device.clock

    def sleep(seconds: float) -> None:
        clock.now_s += seconds

    return keep(
        builder(device, MODEL),
        BUDGET,
        sentinel=builder(device, GUARD),
        patience=Patience(seconds, clock=clock, sleep=sleep),
        levels=levels,
        clock=clock,
        **options,
    )


def test_a_spell_at_the_start_is_waited_for(tmp_path: Path) -> None:
    device = faulty(throttle=1.2, throttle_window=(0.0, 20.0))
    promise, measured = tried(device, memory(tmp_path, device.clock), 60.0)
    assert promise.verdict == "kept"
    assert promise.misses == 0
    assert 20.0 <= device.clock.now_s < 25.0  # pauses of two seconds, sessions of 60 ms
    assert measured.floor_ms == pytest.approx(PRICE)
    assert "for a quiet machine" in promise.note


def test_without_the_memory_the_same_spell_looks_like_a_slow_network() -> None:
    """All looks agree within the spell: this is what the memory is for."""
    device = faulty(throttle=1.2, throttle_window=(0.0, 20.0))
    assert tried(device, None, 60.0)[0].verdict == "broken"


def test_without_patience_it_is_undecided_not_broken(tmp_path: Path) -> None:
    device = faulty(throttle=1.2, throttle_window=(0.0, 20.0))
    assert tried(device, memory(tmp_path, device.clock), 0.0)[0].verdict == "ambiguous"


@pytest.mark.parametrize("known", [True, False])
def test_a_spell_during_the_promise(tmp_path: Path, known: bool) -> None:
    """It begins after the first sessions, so that even the looks of this process tell of it."""
    device = faulty(throttle=1.25, throttle_window=(0.2, 15.0))
    promise, _ = tried(device, memory(tmp_path, device.clock) if known else None, 60.0)
    assert promise.verdict == "kept"
    assert promise.misses == 0
    assert 15.0 <= device.clock.now_s < 20.0


def test_a_machine_that_is_never_calm_ends_within_its_patience(tmp_path: Path) -> None:
    device = faulty(throttle=1.2)
    said: list[str] = []
    promise, _ = tried(
        device,
        memory(tmp_path, device.clock),
        30.0,
        emit=lambda kind, fields: said.append(str(fields.get("note", ""))),
    )
    assert promise.verdict == "ambiguous"
    assert device.clock.now_s < 35.0
    assert "waited 30 s for a quiet machine" in promise.note


def test_a_network_that_is_too_slow_is_told_at_once(tmp_path: Path) -> None:
    device = faulty(throttle=1.0)
    levels = memory(tmp_path, device.clock)
    promise, _ = keep(
        builder(device, MODEL),
        0.9 * PRICE,
        sentinel=builder(device, GUARD),
        levels=levels,
        clock=device.clock,
    )
    assert promise.verdict == "broken"
    assert device.clock.now_s < 2.0


def test_the_time_limit_ends_the_waiting(tmp_path: Path) -> None:
    device = faulty(throttle=1.2)
    promise, _ = tried(device, memory(tmp_path, device.clock), 60.0, deadline_s=5.0)
    assert promise.verdict == "ambiguous"
    assert device.clock.now_s < 8.0


def test_patience_is_shared() -> None:
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    patience = Patience(10.0, clock=lambda: now[0], sleep=sleep)
    assert not patience.until_calm(lambda: 1.5, 0.02)
    assert now[0] == pytest.approx(10.0)
    assert patience.spent
    assert not patience.until_calm(lambda: 1.5, 0.02)
    assert now[0] == pytest.approx(10.0)
    assert patience.until_calm(lambda: 1.01, 0.02)


def test_what_is_lent_is_a_part_and_counts() -> None:
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    patience = Patience(40.0, clock=lambda: now[0], sleep=sleep)
    part = patience.lend(0.25)
    assert not part.until_calm(lambda: 1.5, 0.02)
    assert now[0] == pytest.approx(10.0)
    assert part.spent
    assert patience.left_s == pytest.approx(30.0)
    assert patience.waited_s == pytest.approx(10.0)


def test_an_undecided_promise_says_who_used_the_patience_up(tmp_path: Path) -> None:
    device = faulty(throttle=1.2)
    clock = device.clock

    def sleep(seconds: float) -> None:
        clock.now_s += seconds

    patience = Patience(10.0, clock=clock, sleep=sleep)
    patience.pause(10.0)
    promise, _ = keep(
        builder(device, MODEL),
        BUDGET,
        sentinel=builder(device, GUARD),
        patience=patience,
        levels=memory(tmp_path, clock),
        clock=clock,
    )
    assert promise.verdict == "ambiguous"
    assert "10 s of the patience were used up before this test" in promise.note


def test_levels(tmp_path: Path) -> None:
    setting = Fake().setting("fake", "fp32", 1, 1)
    now = [1e9]
    levels = SentinelHistory("guard", setting, folder=tmp_path, now=lambda: now[0])
    assert levels.best_ms() is None
    assert levels.slow_share(3600.0, 0.02) is None
    for i in range(40):  # one a second: 30 at 1.00 ms, then 10 at 1.10
        now[0] += 1.0
        levels.add(1.0 if i < 30 else 1.1)
    assert levels.best_ms() == pytest.approx(1.0)
    now[0] += 1.0
    share, seen_s = levels.slow_share(3600.0, 0.02) or (0.0, 0.0)
    assert share == pytest.approx(0.25)
    assert seen_s == pytest.approx(40.0)
    now[0] += 3 * 86400.0
    assert levels.best_ms() is None  # too long ago
    other = SentinelHistory("another", setting, folder=tmp_path, now=lambda: now[0])
    assert other.path != levels.path


@pytest.mark.parametrize(("slow", "grade"), [(0, "quiet"), (4, "usable"), (20, "noisy")])
def test_the_grade_counts_the_last_hour_and_not_five_lucky_seconds(
    tmp_path: Path, slow: int, grade: str
) -> None:
    """40 looks of one second each, before five seconds without any noise: 0, 10 and 50 % of them slow."""
    device = Fake()
    now = [1e9]
    levels = SentinelHistory(
        "guard", device.setting("fake", "fp32", 1, 1), folder=tmp_path, now=lambda: now[0]
    )
    for i in range(40):
        now[0] += 1.0
        levels.add(1.1 if i < slow else 1.0)
    now[0] += 1.0
    found = noise_grade({"a": builder(device, MODEL)}, rng=np.random.default_rng(0), levels=levels)
    assert found["grade"] == grade
    assert found["lately"]["slow_share"] == pytest.approx(slow / 40)
    assert f"slow in {slow / 40:.0%} of the 40 s" in found["text"]


def test_one_lucky_look_is_not_the_best_level(tmp_path: Path) -> None:
    levels = SentinelHistory("guard", Fake().setting("fake", "fp32", 1, 1), folder=tmp_path)
    levels.add(0.5)
    for _ in range(99):
        levels.add(1.0)
    assert BEST_SHARE > 0.01
    assert levels.best_ms() == pytest.approx(1.0)


def test_damaged_lines_are_passed_over_and_the_file_stays_small(tmp_path: Path) -> None:
    levels = SentinelHistory("guard", Fake().setting("fake", "fp32", 1, 1), folder=tmp_path)
    levels.add(1.0)
    with levels.path.open("ab") as file:
        file.write(b'{"at_s": 1e400, "ms": 1}\nnull\n{"ms": -1, "at_s": 5}\n\xff\xfe\n{"at_s"')
        file.write(b"\n" + b"x" * MOST_BYTES + b"\n")
    assert [level.ms for level in levels.recent()] == [1.0]
    levels.add(2.0)
    assert levels.path.stat().st_size < MOST_BYTES


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    levels = SentinelHistory("guard", Fake().setting("fake", "fp32", 1, 1), folder=tmp_path / "levels")
    victim = tmp_path / "victim"
    victim.write_text("mine")
    levels.path.parent.mkdir()
    levels.path.symlink_to(victim)
    levels.add(1.0)
    assert victim.read_text() == "mine"
    assert levels.recent() == []


def test_states_of_a_device_that_comes_and_goes(tmp_path: Path) -> None:
    """40 states of a minute, every fourth 10 % slower; a look that is slower still makes no state."""
    looks = [SentinelLook(30.0 * i, 1.1 if i // 2 % 4 == 3 else 1.0) for i in range(80)]
    looks.append(SentinelLook(5.0, 3.0))
    # Ten squares of log(1.1), thirty of nothing, and three of what is believed before.
    squares = 10 * np.log(1.1) ** 2 + 3 * 0.02**2
    assert state_sd(looks, 1.0, 0.02) == pytest.approx(np.sqrt(squares / 43))
    unseen = SentinelHistory("guard", Fake().setting("fake", "fp32", 1, 1), folder=tmp_path)
    assert unseen.state_sd(0.02) == 0.02
