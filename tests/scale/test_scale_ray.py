"""A search on three machines is the search on one, whatever is killed, goes or comes."""

from __future__ import annotations

import itertools
import os
import random
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from clusters import BENCH, PLAIN, added, driver, history, kill, searched, workers

from hwnas import executors
from hwnas.errors import BackendUnavailable, DeviceUnavailable, InputError
from hwnas.protocols import Emit, Needs

QUICK, THOROUGH = 2, 20  # kills
LONGEST_S = 600.0  # a machine may be busy


def silent(kind: str, fields: object) -> None:
    """Nobody listens."""


def wait_for(what: Callable[[], Any], seconds: float = LONGEST_S) -> Any:
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        found = what()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"waited {seconds:.0f} s in vain")


def at(cluster: Any) -> str:
    return f"ray://{cluster.address}"


def test_the_events_are_those_of_one_process(folder: Path, cluster: Any, alone: list[Any]) -> None:
    assert searched(folder, "ray", executor=at(cluster), jobs=2) == alone
    text = (folder / "ray" / "events.jsonl").read_text()
    assert '"where":"' in text


def test_tpe_in_batches_too(folder: Path, cluster: Any) -> None:
    pytest.importorskip("optuna")
    more: dict[str, Any] = {"strategy": "tpe", "settings": {"samples": 6, "batch": 3, "startup": 2}}
    one = searched(folder, "tpe-alone", **more)
    assert searched(folder, "tpe-ray", executor=at(cluster), jobs=3, **more) == one


def test_timings_never_overlap_anything_on_their_machine(cluster: Any) -> None:
    ray = executors.made(at(cluster), jobs=4, device="fake", emit=silent)
    try:
        timing, beside = Needs(device="fake", timing=True), Needs(device="fake")
        task = stamp_by_value()
        running = [ray.submit(f"{n}", timing if n % 2 else beside, task, 0.3) for n in range(6)]
        spans = sorted(one.result() for one in running)
        assert all(before[1] <= after[0] for before, after in itertools.pairwise(spans))
        # Machines without the device go on meanwhile.
        assert ray.apart("fake")
        apart = ray.submit("elsewhere", Needs(avoid="fake"), task, 0.0)
        apart.result()
    finally:
        ray.close()


def stamp_by_value() -> Callable[..., Any]:
    """A task that tells when it began and ended; sent by value, as the machines cannot import this file."""

    def inner(seconds: float, *, emit: Emit) -> tuple[float, float]:
        import time

        begun = time.time()
        time.sleep(seconds)
        return begun, time.time()

    return inner


def test_a_device_that_no_machine_has_is_an_error_at_once(cluster: Any) -> None:
    ray = executors.made(at(cluster), jobs=1, device="titanxp", emit=silent)
    try:
        begun = time.monotonic()
        with pytest.raises(DeviceUnavailable, match="no machine of the Ray cluster has the device 'titanxp'"):
            ray.submit("t", Needs(device="titanxp", timing=True), stamp_by_value(), 0.0)
        assert time.monotonic() - begun < 10.0
        assert DeviceUnavailable.exit_status == 4
    finally:
        ray.close()


def test_killed_workers_cost_nothing(folder: Path, cluster: Any, alone: list[Any]) -> None:
    kills(folder, cluster, alone, QUICK, ("worker",))


def test_a_killed_driver_is_repeated(folder: Path, cluster: Any, alone: list[Any]) -> None:
    kills(folder, cluster, alone, QUICK, ("driver",))


@pytest.mark.slow
@pytest.mark.skipif(os.environ.get("HWNAS_SCALE") != "all", reason="twenty kills: HWNAS_SCALE=all")
def test_workers_and_drivers_killed_twenty_times_cost_nothing(
    folder: Path, cluster: Any, alone: list[Any]
) -> None:
    kills(folder, cluster, alone, THOROUGH, ("worker", "driver"))


def kills(folder: Path, cluster: Any, alone: list[Any], count: int, victims: tuple[str, ...]) -> None:
    """SIGKILL at random moments until there were `count`, over as many searches as that takes.

    A driver is `hwnas search`; the command is repeated when it was killed.
    """
    name = "-".join((*victims, str(count)))
    rng, done, part = random.Random(name), 0, 0
    while done < count:
        out, log = f"{name}-{part}", folder / f"{name}-{part}.log"
        part += 1
        begin = partial(driver, folder, out, at(cluster), 2, log)
        running = begin()
        while running.poll() is None and done < count:
            victim = rng.choice(victims)
            wait_for(partial(_moves, running))
            time.sleep(rng.uniform(0.0, 1.0))
            found = workers()
            if victim == "driver" and running.poll() is None:
                running.kill()
                running.wait()
                running = begin()
                done += 1
            elif victim == "worker" and found:
                kill(rng.choice(found))
                done += 1
        assert running.wait(timeout=LONGEST_S) == 0, log.read_text()[-3000:]
        assert history(folder / out) == alone


def _moves(running: subprocess.Popen[bytes]) -> bool:
    """Whether a search trains, or has ended."""
    return bool(workers()) or running.poll() is not None


def test_a_machine_goes_and_another_comes(folder: Path, cluster: Any, alone: list[Any]) -> None:
    """A machine goes in the middle of a training, and one that comes takes part."""
    node = added(cluster, **PLAIN)
    log = folder / "goes.log"
    running = driver(folder, "goes", at(cluster), 3, log)
    wait_for(partial(_moves, running))
    cluster.remove_node(node, allow_graceful=False)
    added(cluster, **PLAIN)
    assert running.wait(timeout=LONGEST_S) == 0, log.read_text()[-3000:]
    assert history(folder / "goes") == alone


def test_a_device_that_has_gone_is_told_of(folder: Path, cluster: Any) -> None:
    """A timing whose machine has gone, and none came, ends with an error that says so."""
    ray = executors.made(at(cluster), jobs=1, device="other", emit=silent)
    bench = {**BENCH, "labels": {"hwnas-device": "other"}}
    node = added(cluster, **bench)
    needs = Needs(device="other", timing=True)
    try:
        wait_for(lambda: ray.apart("nothing") and _has(ray, "other"))
        first = ray.submit("first", needs, stamp_by_value(), 30.0)
        wait_for(lambda: _is_running("first"))
        cluster.remove_node(node, allow_graceful=False)
        wait_for(lambda: not _has(ray, "other"))
        ray._grace_s = 1.0  # type: ignore[attr-defined]
        with pytest.raises(DeviceUnavailable, match="first waits in vain"):
            first.result()
    finally:
        ray.close()


BARE = """
import sys


class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "hwnas":
            raise ModuleNotFoundError("No module named 'hwnas'", name="hwnas")


sys.meta_path.insert(0, Nothing())
"""


def test_a_machine_without_hwnas_is_told_of(folder: Path, cluster: Any) -> None:
    (folder / "sitecustomize.py").write_text(BARE)
    bare = {**BENCH, "labels": {"hwnas-device": "bare"}, "env_vars": {"PYTHONPATH": str(folder)}}
    ray = executors.made(at(cluster), jobs=1, device="bare", emit=silent)
    node = added(cluster, **bare)
    try:
        wait_for(lambda: _has(ray, "bare"))
        running = ray.submit("t", Needs(device="bare"), stamp_by_value(), 0.0)
        with pytest.raises(InputError, match="lacks the Python package hwnas; install hwnas"):
            running.result()
    finally:
        ray.close()
        cluster.remove_node(node, allow_graceful=False)


def test_an_address_at_which_nothing_answers_is_told_of_soon() -> None:
    begun = time.monotonic()
    with pytest.raises(BackendUnavailable, match=r"no Ray cluster answers at 127\.0\.0\.1:1: "):
        executors.made("ray://127.0.0.1:1", jobs=1, device="fake", emit=silent)
    assert time.monotonic() - begun < 60.0


def _has(ray: Any, device: str) -> bool:
    return any(node["Labels"].get("hwnas-device") == device for node in ray._nodes())


def _is_running(name: str) -> bool:
    mark = f"ray::{name}".encode()
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if (place / "cmdline").read_bytes().startswith(mark):
                return True
        except OSError:
            continue
    return False
