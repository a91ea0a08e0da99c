"""Timing on a real GPU: repeatable, free of launch gaps, and good enough to predict and to promise."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwnas.backends.cuda.driver import Owned
from hwnas.backends.cuda.gpus import gpus
from hwnas.backends.cuda.kernels import Kernels
from hwnas.backends.cuda.opening import open_driver
from hwnas.backends.trt.backend import Trt
from hwnas.measure.timing import TimingOptions, measure
from hwnas.nets import onnx as writer
from hwnas.nets import spaces
from hwnas.records import Setting


@pytest.fixture(scope="module")
def setting(backend: Any) -> Setting:
    made: Setting = backend.setting("gpu", "fp32", 1, 1)
    return made


def model(step: int = 1) -> bytes:
    return writer.network(spaces.make("resnet-cifar").uniform()[step])


def test_the_same_engine_measures_alike_within_a_percent(
    backend: Any, setting: Setting, note: Callable[..., None]
) -> None:
    floors = []
    for seed in range(2):
        builders = {"net": lambda: backend.build(model(), setting)}
        found = measure(builders, TimingOptions.preset("default"), rng=np.random.default_rng(seed))
        floors.append(found["net"].floor_ms)
        note(**{f"gates_{seed}": list(found["net"].gates)})
    note(floors_ms=floors)
    assert abs(floors[1] / floors[0] - 1) < 0.01


def test_two_builds_of_the_same_network(setting: Setting, note: Callable[..., None]) -> None:
    """How much builds differ is reported, not judged: TensorRT chooses kernels by timing them."""
    times = []
    for _ in range(3):
        engine = Trt().build(model(), setting)
        times.append(float(np.median(engine.time(200).wall_ms)))
        engine.close()
    note(median_ms=times, spread=max(times) / min(times) - 1)
    assert min(times) > 0


def test_emptying_the_cache_makes_calls_slower(
    backend: Any, setting: Setting, note: Callable[..., None]
) -> None:
    engine = backend.build(model(), setting)
    engine.time(50)
    hot = float(np.median(engine.time(100).wall_ms))
    engine.flush()
    cold = float(np.median(engine.time(100).wall_ms))
    engine.close()
    note(hot_ms=hot, cold_ms=cold)
    assert cold > hot


def test_launch_gaps_do_not_count(backend: Any, setting: Setting, note: Callable[..., None]) -> None:
    """Device time behind a delay is no longer than the host's closed loop, which has every gap in it."""
    engine = backend.build(model(), setting)
    engine.time(50)
    device_ms = float(np.median(engine.time(100).wall_ms))
    images = np.zeros((1, 3, 32, 32), np.float32)
    loop = []
    for _ in range(100):
        begun = time.perf_counter()
        engine.run(images)
        loop.append((time.perf_counter() - begun) * 1e3)
    engine.close()
    note(device_ms=device_ms, closed_loop_ms=float(np.median(loop)), delay_ns=engine._delay_ns)
    assert device_ms < float(np.median(loop))


def test_a_delay_lasts_as_long_as_asked(backend: Any, note: Callable[..., None]) -> None:
    driver = open_driver()
    found = {}
    with driver, Owned(driver) as owned:
        kernels, stream = Kernels(owned), owned.stream()
        start, end = owned.event(), owned.event()
        for asked_ms in (0.2, 1.0, 5.0):
            kernels.delay(0, stream)
            driver.record(start, stream)
            kernels.delay(int(asked_ms * 1e6), stream)
            driver.record(end, stream)
            driver.synchronize(stream)
            found[asked_ms] = driver.elapsed_ms(start, end)
    note(asked_and_taken_ms=list(found.items()))
    assert all(0.95 * asked < taken < 1.5 * asked + 0.2 for asked, taken in found.items())


def hwnas(folder: Path, *arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-c", "from hwnas_cli.main import cli; cli()", *arguments, "--json", "-q"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, done.stderr[-3000:]
    body: dict[str, Any] = json.loads(done.stdout)
    return body


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("user")


@pytest.mark.slow
def test_a_table_predicts_unseen_networks(backend: Any, folder: Path, note: Callable[..., None]) -> None:
    name = "gpu"
    answer = hwnas(folder, "profile", "--device", name, "--space", "resnet-cifar")
    note(gpu=gpus()[0].name, holdout=answer["holdout"], seconds=answer["seconds"], table=answer["table"])
    assert answer["holdout"]["mape_percent"] < 5


@pytest.mark.slow
def test_a_search_keeps_its_budget(backend: Any, folder: Path, note: Callable[..., None]) -> None:
    budget = ("--latency-budget", "1.2x:resnet20", "--data", "digits", "--space", "resnet-cifar")
    found = hwnas(folder, "search", "--device", "gpu", *budget, "--max-time", "10min")
    made = hwnas(folder, "export", "--format", "trt")
    note(best=found["best"], measured=made["measured"], parity=made["parity"])
    assert found["within_budget"] is True
    assert made["passed"] is True
    assert made["within_budget"] is True
