"""Tables under stress: two profiles of one machine, sweeps killed at random, networks priced a second.

python -m benchmarks.tables                       # about 2 minutes on 2 idle cores
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import save
from hwnas.jobs import table as verbs
from hwnas.jobs.profile import ProfileOptions, profile
from hwnas.measure import table as tables
from hwnas.measure.rows import SUFFIX

KILLED = (
    "from pathlib import Path; import sys; from hwnas.jobs.profile import *; "
    "profile(ProfileOptions(device='cpu', space=sys.argv[2], preset='quick', out=Path(sys.argv[1])))"
)


def twice(space: str, folder: Path) -> dict[str, Any]:
    """A/A: profile the machine twice and compare."""
    paths = [folder / f"{name}{SUFFIX}" for name in "ab"]
    for seed, path in enumerate(paths):
        profile(ProfileOptions(device="cpu", space=space, preset="default", out=path, seed=seed))
    return verbs.diff(*paths).as_json()


def killed(space: str, folder: Path, times: int, seed: int) -> dict[str, Any]:
    """SIGKILL a profile at random moments, then let it end."""
    rng, path = np.random.default_rng(seed), folder / f"killed{SUFFIX}"
    rows, corrupt, lost = [], 0, 0
    command = [sys.executable, "-c", KILLED, str(path), space]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    before: set[Any] = set()
    for _ in range(times):
        with subprocess.Popen(command, env=env) as child:
            time.sleep(float(rng.uniform(2.0, 5.0)))
            child.send_signal(signal.SIGKILL)
        if not path.exists():
            continue
        copy = folder / f"copy{SUFFIX}"
        data = path.read_bytes()
        copy.write_bytes(data[: data.rfind(b"\n") + 1])
        try:
            have = set(tables.load(copy).rows) if copy.stat().st_size else set()
        except Exception:
            corrupt += 1
            continue
        lost += len(before - have)
        before = have
        rows.append(len(have))
    subprocess.run(command, env=env, check=True)
    table = tables.load(path)
    whole = folder / f"whole{SUFFIX}"
    profile(ProfileOptions(device="cpu", space=space, preset="quick", out=whole))
    return {
        "kills": times,
        "rows_after_each": rows,
        "corrupt": corrupt,
        "rows_lost": lost,
        "complete": table.complete,
        "same_keys_as_unbroken": set(table.rows) == set(tables.load(whole).rows),
    }


def main() -> None:
    """Run both."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--space", default="resnet-cifar-wide")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--name", default="tables", help="of the result file")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        resumed = killed(args.space, Path(name), args.kills, seed=0)
        print(f"killed {resumed['kills']} times: {resumed}")
        same = twice(args.space, Path(name))
    apart = f"{same['median_abs_percent']:.2f} % apart (median of {same['keys']} keys)"
    print(f"two profiles: {same['verdict']}, {apart}")
    body = {"space": args.space, "killed": resumed, "two_profiles": same}
    print("written to", save(args.name, body))


if __name__ == "__main__":
    main()
