"""The sweep: resumable, goes on after failures, survives SIGKILL."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwnas.backends.fake import Fake, faulty
from hwnas.measure import table as tables
from hwnas.measure.rows import Header, RowRole, parse_header, parse_line
from hwnas.measure.sweep import Sweep, SweepOptions, header_for, sweep
from hwnas.measure.timing import TimingOptions
from hwnas.measure.writer import TableWriter
from hwnas.nets import spaces

QUICK = TimingOptions.preset("quick")
SPACE = spaces.make("resnet-cifar")


def header(backend: Fake | None = None) -> Header:
    setting = (backend or Fake()).setting("fake", "fp32", 1, 1)
    return header_for(setting, SPACE.name, (3, 32, 32), 10, QUICK)


def log() -> tuple[list[tuple[str, Mapping[str, Any]]], Callable[[str, Mapping[str, Any]], None]]:
    events = []
    return events, lambda kind, fields: events.append((kind, fields))


def test_every_block_gets_a_row(tmp_path: Path) -> None:
    events = []
    table = sweep(
        SPACE, Fake(), header(), tmp_path / "t.hwlat.jsonl", emit=lambda k, f: events.append((k, f))
    )
    assert set(table.rows) == set(SPACE.blocks())
    assert table.complete
    assert table.path is not None
    assert tables.load(table.path).table_id == table.table_id
    assert table.header.protocol["sessions"] == QUICK.sessions
    kind, last = events[-1]
    assert (kind, last["done"], last["total"]) == ("progress", 7, 7)


def test_a_block_that_fails_is_recorded_and_the_sweep_goes_on(tmp_path: Path) -> None:
    # Only the classifier has a global pooling layer.
    backend = faulty(refuse=("GlobalAveragePool",))
    events = []
    table = sweep(
        SPACE, backend, header(), tmp_path / "t.hwlat.jsonl", emit=lambda k, f: events.append((k, f))
    )
    assert len(table.rows) == 6
    (failed,) = table.failures.values()
    assert failed.blocks[0].kind == "classifier"
    assert "does not support the operator GlobalAveragePool" in failed.error
    assert any(k == "failure" and "does not support" in f["text"] for k, f in events)


def test_only_what_is_missing_is_measured(tmp_path: Path) -> None:
    path = tmp_path / "t.hwlat.jsonl"
    writer = TableWriter(path, header())
    first = Sweep(writer, Fake(), SweepOptions(timing=QUICK))
    first.blocks(SPACE.blocks()[:4])
    again = Sweep(TableWriter(path, header()), Fake(), SweepOptions(timing=QUICK))
    again.blocks(SPACE.blocks())
    assert (first.measured, again.measured) == (4, 3)
    assert set(again.writer.table.rows) == set(SPACE.blocks())


def test_time_over_stops_cleanly_and_says_so(tmp_path: Path) -> None:
    events, emit = log()
    options = SweepOptions(timing=QUICK, deadline_s=0.0)
    table = sweep(SPACE, Fake(), header(), tmp_path / "t.hwlat.jsonl", options, emit)
    assert not table.complete
    assert events == [("stopped", {"text": "blocks: time limit reached, 0 of 7 measured"})]


def test_m3_a_sweep_keeps_the_device_busy_once_before_it_measures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []
    monkeypatch.setattr("hwnas.measure.timing.sustain", lambda _, seconds, *__: asked.append(seconds))
    options = SweepOptions(timing=QUICK, sustained_s=60.0, group=2)
    with closing(TableWriter(tmp_path / "t.hwlat.jsonl", header())) as writer:
        Sweep(writer, Fake(), options).blocks(list(SPACE.blocks())[:4])  # two groups
    assert asked == [60.0]


def test_networks_of_all_roles_share_campaigns(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    task = Sweep(TableWriter(tmp_path / "t.hwlat.jsonl", header()), Fake(), SweepOptions(QUICK, networks=3))
    roles: tuple[RowRole, ...] = ("calibration", "holdout", "probe", "calibration")
    wanted = [(SPACE.sample(rng), role) for role in roles]
    task.networks(wanted)
    nets = task.writer.table.networks
    assert [(net.role, net.campaign) for net in nets] == [
        ("calibration", 1),
        ("holdout", 1),
        ("probe", 1),
        ("calibration", 2),
    ]
    assert set(task.again([wanted[1][0]])) == {wanted[1][0].key}
    assert len(task.writer.table.networks) == 4, "measuring again adds no row"


def test_chains_are_measured_as_one_engine(tmp_path: Path) -> None:
    block = next(b for b in SPACE.blocks() if b.joins_identity)
    task = Sweep(TableWriter(tmp_path / "t.hwlat.jsonl", header()), Fake(), SweepOptions(QUICK))
    task.blocks([block])
    task.chains([(block, block), (block,) * 4])
    two, four = (chain.measurement.floor_ms for chain in task.writer.table.chains)
    alone = task.writer.table[block].value_ms
    # On this device a separate engine pays for its edges and for the call: in a chain a block costs less.
    assert (four - two) / 2 < 0.95 * alone


CHILD = """
import sys
from pathlib import Path
import hwnas.measure.sweep as s
from hwnas.backends.fake import Fake
from hwnas.nets import spaces
from hwnas.measure.timing import TimingOptions
space = spaces.make("mbv2-cifar")
quick = TimingOptions.preset("quick")
setting = Fake().setting("fake", "fp32", 1, 1)
header = s.header_for(setting, space.name, (3, 32, 32), 10, quick)
print("ready", flush=True)
s.sweep(space, Fake(), header, Path(sys.argv[1]), s.SweepOptions(quick, group=4))
print("done", flush=True)
"""


def run_child(path: Path, kill_after_s: float | None = None) -> bool:
    """Sweep in another process; True if it ended by itself."""
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, str(path)], stdout=subprocess.PIPE, text=True, env=env
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        if kill_after_s is not None:
            time.sleep(kill_after_s)
            child.send_signal(signal.SIGKILL)
        return child.stdout.read() == "done\n"


@pytest.mark.parametrize("seed", [1, 2])
def test_sigkill_loses_no_completed_row(tmp_path: Path, seed: int) -> None:
    """Killed at random moments, the file always loads after the torn line is cut; nothing vanishes."""
    path, rng = tmp_path / "t.hwlat.jsonl", np.random.default_rng(seed)
    before: set[Any] = set()
    for _ in range(3):
        if run_child(path, kill_after_s=float(rng.uniform(0.02, 0.5))):
            break
        if not path.exists() or b"\n" not in path.read_bytes():
            continue
        lines = path.read_bytes().rpartition(b"\n")[0].count(b"\n")
        table = TableWriter(path, header_of(path)).table
        assert len(table.rows) == lines, "every whole line after the header is a row"
        assert before <= set(table.rows)
        before = set(table.rows)
    assert run_child(path)
    resumed = tables.load(path)
    assert resumed.complete
    assert set(resumed.rows) == set(spaces.make("mbv2-cifar").blocks())


def header_of(path: Path) -> Header:
    with path.open(encoding="utf-8") as file:
        return parse_header(path, [parse_line(path, 1, file.readline())])
