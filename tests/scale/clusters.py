"""A Ray cluster of three machines that are processes of this one, and the search that is run on it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hwnas.jobs.search import SearchOptions, search

ROOT = Path(__file__).resolve().parents[2]
BENCH = {"num_cpus": 1, "labels": {"hwnas-device": "fake"}, "resources": {"hwnas_timing": 1}}
PLAIN = {"num_cpus": 1}
TRIES = 3


@contextmanager
def three_machines() -> Iterator[Any]:
    """One with the device, which times; two that train."""
    cluster = started()
    try:
        for _ in range(2):
            added(cluster, **PLAIN)
        yield cluster
    finally:
        cluster.shutdown()


def started() -> Any:
    """A cluster of the machine with the device."""
    from ray.cluster_utils import Cluster

    cluster = Cluster()
    added(cluster, **BENCH, include_dashboard=False)
    return cluster


def added(cluster: Any, **given: Any) -> Any:
    """Another machine; Ray gives one 30 seconds to start, which a busy one may need twice."""
    for _ in range(TRIES):
        with suppress(Exception):
            return cluster.add_node(**given)
    return cluster.add_node(**given)


def options(folder: Path, name: str, **more: Any) -> SearchOptions:
    """A search of a few seconds on the fake device."""
    given: dict[str, Any] = {
        "latency_budget": "0.3ms",
        "data": "digits",
        "strategy": "random",
        "space": "resnet-cifar",
        "table": folder / "t.hwlat.jsonl",
        "input_shape": (1, 8, 8),
        "limit": 80,
        "images": 480,
        "preset": "quick",
        "settings": {"samples": 6},
        "recipe": {"batch": 16, "threads": 1, "lr": 0.05, "checkpoint_s": 0.0},
        "max_trials": 50,
        "out": folder / name,
    }
    return SearchOptions(**{**given, **more})


def searched(folder: Path, name: str, **more: Any) -> list[Any]:
    """The history of a search that runs in this process."""
    search(options(folder, name, **more))
    return history(folder / name)


APART = ("at", "hash", "measuring_s", "training_s", "taken_at", "wall_s", "where", "waited_s", "checksum")


def plain(value: Any) -> Any:
    """Without what differs from run to run: times, places, seals."""
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items() if key not in APART}
    return [plain(one) for one in value] if isinstance(value, list) else value


def history(run: Path) -> list[Any]:
    """The events of a search, but for notes, whose words tell seconds; and the winner's weights."""
    lines = (run / "events.jsonl").read_text().splitlines()
    events = [plain(json.loads(line)) for line in lines]
    kept = [one for one in events if one["event"] in ("trial", "confirm", "closed", "result")]
    for one in kept:
        one.pop("text")
    return [*kept, (run / "weights.safetensors").read_bytes()]


def driver(folder: Path, name: str, address: str, jobs: int, log: Path) -> subprocess.Popen[bytes]:
    """The same search by the command, in a process of its own."""
    given = {
        "latency-budget": "0.3ms",
        "data": "digits",
        "strategy": "random",
        "space": "resnet-cifar",
        "table": folder / "t.hwlat.jsonl",
        "input": "1x8x8",
        "limit": 80,
        "images": 480,
        "preset": "quick",
        "max-trials": 50,
        "out": folder / name,
        "executor": address,
        "jobs": jobs,
    }
    several = {"set": ["samples=6"], "recipe": ["batch=16", "threads=1", "lr=0.05", "checkpoint_s=0"]}
    options = [word for key, value in given.items() for word in (f"--{key}", str(value))]
    options += [word for key, values in several.items() for one in values for word in (f"--{key}", one)]
    with log.open("ab") as out:
        return subprocess.Popen(
            [sys.executable, "-m", "hwnas_cli.main", "search", *options], stdout=out, stderr=out, cwd=ROOT
        )


def workers() -> list[int]:
    """Processes of Ray that run a task of ours now; none but descendants of this process."""
    parents, names = {}, {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            stat = (place / "stat").read_text()
            names[int(place.name)] = (place / "cmdline").read_bytes()
        except OSError:  # it has ended
            continue
        parents[int(place.name)] = int(stat.rpartition(")")[2].split()[1])

    def is_ours(pid: int) -> bool:
        while pid > 1:
            if pid == os.getpid():
                return True
            pid = parents.get(pid, 0)
        return False

    marks = (b"ray::trial", b"ray::measuring", b"ray::testing")
    return [pid for pid, name in names.items() if name.startswith(marks) and is_ours(pid)]


def kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
