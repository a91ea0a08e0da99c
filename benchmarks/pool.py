"""A pool of random networks, each measured twice, that several benchmarks choose from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hwnas.measure import device as devices
from hwnas.measure.rows import SUFFIX
from hwnas.measure.sweep import Sweep, SweepOptions, header_for
from hwnas.measure.timing import TimingOptions
from hwnas.measure.writer import TableWriter
from hwnas.nets import spaces
from hwnas.protocols import Backend, SearchSpace
from hwnas.records import Measurement, Setting
from hwnas.spec import NetworkSpec


@dataclass(frozen=True)
class Pool:
    """Networks with two measurements each, taken apart from each other."""

    space: SearchSpace
    backend: Backend
    setting: Setting
    specs: list[NetworkSpec]
    first: list[Measurement]
    second: list[Measurement]


def draw(backend_name: str, space_name: str, specs: Sequence[NetworkSpec] | int, *, seed: int = 0) -> Pool:
    """Draw (or take) networks; nothing is measured yet."""
    backend, setting = devices.conditions("cpu", backend_name)
    space = spaces.make(space_name)
    rng = np.random.default_rng([seed, 77])
    chosen = _draw(space, specs, rng) if isinstance(specs, int) else list(specs)
    return Pool(space, backend, setting, chosen, [], [])


def measure(
    backend_name: str,
    space_name: str,
    specs: Sequence[NetworkSpec] | int,
    folder: Path,
    *,
    preset: str = "quick",
    seed: int = 0,
) -> Pool:
    """Draw (or take) networks and measure each twice, in two random orders."""
    pool = draw(backend_name, space_name, specs, seed=seed)
    timing, member = TimingOptions.preset(preset), pool.space.smallest()
    header = header_for(pool.setting, pool.space.name, member.input_shape, member.classes, timing)
    scratch = folder / f"pool{SUFFIX}"
    task = Sweep(TableWriter(scratch, header), pool.backend, SweepOptions(timing, seed=seed))
    rng = np.random.default_rng([seed, 78])
    for found in (pool.first, pool.second):
        times = task.again([pool.specs[i] for i in rng.permutation(len(pool.specs))])
        found += [times[spec.key] for spec in pool.specs]
    scratch.unlink()
    return pool


def _draw(space: SearchSpace, n: int, rng: np.random.Generator) -> list[NetworkSpec]:
    found: dict[str, NetworkSpec] = {}
    while len(found) < n:
        spec = space.sample(rng)
        found[spec.key] = spec
    return list(found.values())
