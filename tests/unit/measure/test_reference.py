"""The state of the machine, divided out of floors; sessions that outlive a kill."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import table_samples as samples
from table_samples import STEM, measurement

from hwnas.backends.fake import Fake, faulty
from hwnas.errors import DataFormatError
from hwnas.measure import compare
from hwnas.measure.aggregate import Ledger
from hwnas.measure.journal import Journal, TaskJournal
from hwnas.measure.rows import Header
from hwnas.measure.sentinel import identity, sentinel
from hwnas.measure.session import TimingSession
from hwnas.measure.sweep import SweepOptions, conditions, header_for
from hwnas.measure.timing import Builder, TimingOptions, measure
from hwnas.nets import onnx
from hwnas.records import Measurement
from hwnas.spec import BlockSpec

QUICK = TimingOptions.preset("quick")
WIDTHS = (16, 32, 64)


@pytest.fixture
def fake_header() -> Header:
    setting = Fake().setting("fake", "fp32", 1, 1)
    return header_for(setting, "resnet-cifar", (3, 32, 32), 10, QUICK)


def builders(device: Fake) -> dict[str, Builder]:
    setting = device.setting("fake", "fp32", 1, 1)
    blocks = {str(w): BlockSpec(kind="basic", c_in=w, c_out=w, size_in=32) for w in WIDTHS}
    graphs = {name: onnx.chain([block]) for name, block in blocks.items()}
    return {name: partial(device.build, graph, setting) for name, graph in graphs.items()}


def take(device: Any, **more: Any) -> dict[str, Measurement]:
    guard = sentinel(device, device.setting("fake", "fp32", 1, 1))
    rng = np.random.default_rng(0)
    return measure(builders(device), QUICK, rng=rng, sentinel=guard, clock=device.clock, **more)


def session(floor_ms: float, **more: Any) -> TimingSession:
    calls = np.full(3, floor_ms)
    fields: dict[str, Any] = {"disturbed": 0.0, "wall_cpu_ratio": 1.0, "gates": (), **more}
    return TimingSession(calls, calls, floor_ms=floor_ms, median_ms=floor_ms, **fields)


def test_a_slow_drift_is_divided_out() -> None:
    """The device gets slower by 2 % every second: raw floors of a later measurement are far higher."""
    device = faulty(drift_per_s=0.02)
    first = take(device, refer=True)
    device.clock.now_s += 5.0
    base_ms = first["16"].sentinel_ms
    later = take(device, refer=True, base_ms=base_ms)
    for name, m in first.items():
        assert later[name].floor_ms == pytest.approx(m.floor_ms, rel=0.003)
        assert later[name].sentinel_ms == base_ms
        assert "sentinel" not in m.gates
    raw = take(device)
    assert raw["16"].floor_ms > 1.02 * first["16"].floor_ms
    assert raw["16"].sentinel_ms is None


def test_throttling_is_not_divided_out() -> None:
    found = take(faulty(throttle=1.3, throttle_window=(0.15, 1e9)), refer=True)
    assert "sentinel" in {gate for m in found.values() for gate in m.gates}


def test_floors_in_the_state_of_reference() -> None:
    # The sentinel took 10 % more beside the first session and 10 % less beside the second.
    ledger = Ledger([session(1.1, level_ms=2.2), session(0.9, level_ms=1.8), session(1.0)])
    options = TimingOptions.preset("quick")
    assert ledger.measurement(options).floor_ms == pytest.approx(0.9)
    ledger.base_ms = 2.0
    assert [ledger.floor(one) for one in ledger.sessions] == pytest.approx([1.0, 1.0, 1.0])
    # 0.9 ms while the sentinel took 1.8 in place of 2.0; the last session had no look beside it.
    assert ledger.measurement(options).floor_ms == pytest.approx(1.0)


def test_a_journal_gives_back_what_was_measured(tmp_path: Path) -> None:
    path, protocol = tmp_path / "t.sessions", {"sessions": 3}
    written = Journal(path, protocol)
    one, two = session(1.25, level_ms=2.0, gates=("spikes",)), session(0.5, wall_cpu_ratio=None)
    TaskJournal(written, "blocks").append("a", one)
    TaskJournal(written, "networks").append("a", two)
    with path.open("a") as file:  # a kill in the middle of a line
        file.write('{"name": "blocks: a", "wall_')
    read = Journal(path, protocol)
    (found,) = TaskJournal(read, "blocks").sessions("a")
    assert (found.floor_ms, found.level_ms, found.gates) == (1.25, 2.0, ("spikes",))
    assert found.wall_ms.tolist() == [1.25] * 3
    TaskJournal(read, "blocks").append("b", one)
    assert [json.loads(line).get("name") for line in path.read_text().splitlines()] == [
        None,
        "blocks: a",
        "networks: a",
        "blocks: b",
    ]
    assert Journal(path, {"sessions": 9}).sessions("blocks: a") == [], "another protocol is another thing"
    assert not path.exists()


def test_a_damaged_journal_stops_a_resume_and_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "t.sessions"
    written = Journal(path, {})
    for name in "abc":
        written.append(name, session(1.25))
    whole = path.read_text()
    lines = whole.splitlines()
    for damaged in (
        [*lines[:2], lines[2].replace("1.25", "1.75"), lines[3]],
        [*lines[:2], lines[3]],
        [*lines[:2], lines[2][:-9], lines[3]],
    ):
        path.write_text("\n".join(damaged) + "\n")
        with pytest.raises(DataFormatError, match=r"t\.sessions, line 3 is damaged .*remove this line"):
            Journal(path, {})
    path.write_text(whole[:-9])  # what a kill leaves
    assert [len(Journal(path, {}).sessions(name)) for name in "abc"] == [1, 1, 0]


@pytest.mark.parametrize(
    "changed",
    [{"precision": "fp16"}, {"batch": 8}, {"threads": 2}, {"backend_version": "2"}, {"device_arch": "x"}],
)
def test_a_journal_of_other_conditions_is_not_taken_up(
    tmp_path: Path, changed: dict[str, object], fake_header: Header
) -> None:
    """The journal's name is the table's alone; what it holds of fp32 must not become fp16."""
    path = tmp_path / "t.sessions"
    options = SweepOptions()
    Journal(path, conditions(fake_header, options)).append("a", session(1.0))
    assert len(Journal(path, conditions(fake_header, options)).sessions("a")) == 1
    other = fake_header.model_copy(update={"setting": fake_header.setting.model_copy(update=changed)})
    assert Journal(path, conditions(other, options)).sessions("a") == []


def test_a_journal_of_another_seed_or_protocol_is_not_taken_up(tmp_path: Path, fake_header: Header) -> None:
    path = tmp_path / "t.sessions"
    for options in (SweepOptions(seed=1), SweepOptions(timing=TimingOptions.preset("thorough"))):
        Journal(path, conditions(fake_header, SweepOptions())).append("a", session(1.0))
        assert Journal(path, conditions(fake_header, options)).sessions("a") == []


def test_measuring_goes_on_with_the_journal(tmp_path: Path) -> None:
    device = Fake()
    path = tmp_path / "t.sessions"
    with pytest.raises(KeyboardInterrupt):
        take(_Breaking(device, after=7), refer=True, journal=Journal(path, {}))
    kept = sum(len(Journal(path, {}).sessions(str(width))) for width in WIDTHS)
    assert kept >= 6, "two whole rounds were over"
    counted = _Breaking(device, after=10**9)
    found = take(counted, refer=True, journal=Journal(path, {}))
    assert counted.built == 1 + QUICK.sessions * len(WIDTHS) - kept, "one of them the sentinel"
    whole = take(Fake(), refer=True)
    assert {n: m.floor_ms for n, m in found.items()} == pytest.approx(
        {n: m.floor_ms for n, m in whole.items()}
    )


class _Breaking:
    """A device that is interrupted after so many builds."""

    def __init__(self, device: Fake, after: int) -> None:
        self._device, self._after, self.built = device, after, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._device, name)

    def build(self, model: bytes, setting: Any) -> Any:
        self.built += 1
        if self.built > self._after:
            raise KeyboardInterrupt
        return self._device.build(model, setting)


def test_diff_and_merge_know_the_state_of_the_machine() -> None:
    """The same device, 4 % slower throughout while the second table was taken."""
    old, new = samples.table(), samples.table(1.04, created="2026-02-02T03:04:05+00:00")
    del new.rows[STEM]
    for table, factor in ((old, 1.0), (new, 1.04)):
        for block, row in table.rows.items():
            seen = measurement(row.value_ms, sentinel_ms=0.2 * factor)
            table.rows[block] = row.model_copy(update={"measurement": seen})
    found = compare.diff(old, new)
    assert found.verdict == "same"
    assert found.state_ratio == pytest.approx(1.04)
    assert found.median_ratio == pytest.approx(1.0)
    merged = compare.merge([old, new])
    assert merged[STEM].value_ms == pytest.approx(1.04 * samples.TIMES[STEM])
    taken = merged[STEM].measurement
    assert taken is not None
    assert taken.sentinel_ms == pytest.approx(0.2 * 1.04)


def test_another_sentinel_is_another_state() -> None:
    """Tables whose sentinels are different graphs are compared as they are."""
    old, new = samples.table(), samples.table(1.04, sentinels={"onnx_sha256": "other"})
    for table, factor in ((old, 1.0), (new, 1.04)):
        for block, row in table.rows.items():
            seen = measurement(row.value_ms, sentinel_ms=0.2 * factor)
            table.rows[block] = row.model_copy(update={"measurement": seen})
    found = compare.diff(old, new)
    assert (found.verdict, found.state_ratio) == ("slower", 1.0)
    assert found.median_ratio == pytest.approx(1.04)


def test_the_header_names_the_sentinel() -> None:
    setting = Fake().setting("fake", "fp32", 1, 1)
    header = header_for(setting, "mbv2-cifar", (3, 32, 32), 10, QUICK)
    assert header.sentinels == identity(setting)
    assert len(header.sentinels["onnx_sha256"]) == 64
    assert header.sentinels != identity(Fake().setting("fake", "fp32", 4, 1)), "another batch, another graph"
    assert {"onnx", "numpy", "fake"} <= set(header.software)
    assert header.build["opset"] == 17
