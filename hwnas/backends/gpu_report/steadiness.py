"""How alike times are: over a minute without a pause, from build to build, and in a profile."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import numpy as np

from hwnas import store
from hwnas.backends.cuda import opening
from hwnas.backends.cuda.state import watcher
from hwnas.backends.gpu_report.trial import Figures, built, network, require

SUSTAINED_S, PROFILE_S = 60.0, 60.0


def sustained(seconds: float = SUSTAINED_S) -> Figures:
    """A minute without a pause: clocks, degrees, what holds the card back, and the time of a call."""
    engine = built(network(32), batch=32)
    eyes = watcher(opening.open_driver().properties.bus_id)
    begun, rows = time.perf_counter(), []
    while (now := time.perf_counter() - begun) < seconds:
        ms = float(np.percentile(engine.time(50).wall_ms, 10))
        state = eyes.state() if eyes else None
        clocks = (state.sm_mhz, state.temperature_c, list(state.reasons or ())) if state else ()
        rows.append([round(now, 2), ms, *clocks])
    engine.close()
    return {
        "columns": ["s", "floor_ms", "sm_mhz", "celsius", "reasons"],
        "rows": rows[:: max(1, len(rows) // 600)],
        "last_over_first": rows[-1][1] / rows[0][1],
    }


def repeatability() -> Figures:
    """The same engine again, the same network built again, and calls with emptied caches."""
    floors, medians = [], []
    engine = built(network())
    for _ in range(10):
        floors.append(float(np.percentile(engine.time(100).wall_ms, 10)))
    hot = engine.time(100).wall_ms.tolist()
    engine.flush()
    cold = engine.time(100).wall_ms.tolist()
    engine.close()
    for _ in range(3):
        again = built(network())
        medians.append(float(np.median(again.time(100).wall_ms)))
        again.close()
    found: Figures = {"floors_ms": floors, "builds_ms": medians, "hot_ms": hot, "cold_ms": cold}
    require(max(floors) < 1.02 * min(floors), "floors of one engine differ by more than 2 %", found)
    require(np.median(cold) > np.median(hot), "emptied caches make calls no slower", found)
    return found


def table(seconds: float = PROFILE_S) -> Figures:
    """A minute of profiling, as a user does it."""
    command = [sys.executable, "-c", "from hwnas_cli.main import cli; cli()", "profile", "--device", "gpu"]
    command += ["--space", "resnet-cifar", "--preset", "quick", "--max-time", f"{seconds:g}s", "--json", "-q"]
    with store.scratch() as folder:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=10 * seconds + 300)
    require(done.returncode == 0, "profile failed", {"said": done.stderr[-3000:]})
    answer: Figures = json.loads(done.stdout)
    return answer
