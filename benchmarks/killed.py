"""A search on real images that is killed again and again, against one that is not.

    python -m benchmarks.killed --data parquet:PATH            # about 5 minutes

Latencies come from the deterministic fake device, so that both searches see the same ones; images,
training and importance are real. SIGKILL comes at random moments; the same command goes on. Compared
are the winner, its weights, and every event without its times; lost are the images that were trained
twice.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import save
from hwnas.runs import read_events

HWNAS = (sys.executable, "-c", "from hwnas_cli.main import cli; cli()")
# Fields of events that tell the time, and the words that are made of the other fields.
TIMES = re.compile(r"(_s|seconds|taken_at|created|at|text)$")


def command(asked: argparse.Namespace, out: Path) -> list[str]:
    """The search, as a user types it."""
    program = [*HWNAS, "search", "--device", "fake"]
    options = ["--latency-budget", asked.budget, "--data", asked.data, "--images", str(asked.images)]
    return [*program, *options, "--out", str(out), "--json"]


def without_times(value: Any) -> Any:
    """An event without the fields that tell the time."""
    if isinstance(value, dict):
        return {k: without_times(v) for k, v in value.items() if not TIMES.search(k)}
    return [without_times(v) for v in value] if isinstance(value, list) else value


def events(run: Path) -> list[Any]:
    """What a run folder says that happened, notes left out: they hold speeds."""
    found = [without_times(event) for event in read_events(run / "events.jsonl")]
    return [event for event in found if event.get("event") != "note"]


def killed(asked: argparse.Namespace, out: Path, whole_s: float, env: dict[str, str]) -> list[float]:
    """Kill the search at random moments, then let it end; seconds of each attempt."""
    rng, spent = np.random.default_rng(asked.seed), []
    for _ in range(asked.kills):
        begun = time.perf_counter()
        with subprocess.Popen(
            command(asked, out), env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as child:
            try:
                child.wait(float(rng.uniform(5.0, 5.0 + 1.5 * whole_s / (asked.kills + 1))))
            except subprocess.TimeoutExpired:
                child.send_signal(signal.SIGKILL)
        spent.append(time.perf_counter() - begun)
    begun = time.perf_counter()
    subprocess.run(command(asked, out), env=env, check=True, stdout=subprocess.DEVNULL)
    return [*spent, time.perf_counter() - begun]


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main() -> None:
    """Run both, compare, write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--budget", default="1.15x:resnet20")
    parser.add_argument("--images", type=int, default=30_000)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        env = {**os.environ, "HWNAS_HOME": str(folder / "home"), "OMP_NUM_THREADS": "1"}
        profile = [*HWNAS, "profile", "--device", "fake", "--preset", "quick"]
        subprocess.run(profile, env=env, check=True, stdout=subprocess.DEVNULL)
        begun = time.perf_counter()
        subprocess.run(command(asked, folder / "whole"), env=env, check=True, stdout=subprocess.DEVNULL)
        whole_s = time.perf_counter() - begun
        spent = killed(asked, folder / "killed", whole_s, env)
        whole, broken = folder / "whole", folder / "killed"
        same = {
            "network": (whole / "network.json").read_text() == (broken / "network.json").read_text(),
            "weights": _digest(whole / "weights.safetensors") == _digest(broken / "weights.safetensors"),
            "events": events(whole) == events(broken),
        }
    body = {
        "kills": asked.kills,
        "images": asked.images,
        "same": same,
        "unbroken_s": whole_s,
        "attempts_s": spent,
        "lost_s_a_kill": (sum(spent) - whole_s) / asked.kills,
    }
    print(json.dumps(body, indent=2))
    print("written to", save("killed", body))


if __name__ == "__main__":
    main()
