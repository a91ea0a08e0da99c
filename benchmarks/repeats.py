"""How far do commands of `hwnas bench` differ from each other, each in a process of its own?

    python -m benchmarks.repeats                    # six on the machine as found, six beside planted spells
    python -m benchmarks.repeats --times 3 --networks resnet-cifar:2 mbv2-cifar:0 --out FILE

The networks of a command are timed in turn, as a user would time several. A network is SPACE:NUMBER, a
uniform member of a space. Figures are of pairs of commands, floors in percent: the mean difference, that of
nine pairs in ten at most, and the largest. Which state each command said that it saw is listed. Goal: 1 % on
the machine as found, 2 % beside spells of 10 to 30 s (`benchmarks.busy`).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from contextlib import nullcontext
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.busy import neighbour
from benchmarks.common import save
from hwnas.nets.spaces import make
from hwnas.store import write_network

NETWORKS = ("resnet-cifar:0", "resnet-cifar:2", "resnet-cifar-wide:3", "mbv2-cifar:0", "mbv2-cifar:2")


def bench(paths: list[Path], preset: str) -> dict[str, Any]:
    """One command: the floor of each network in ms, and the state of the machine that it saw."""
    argv = [
        sys.executable,
        "-c",
        "from hwnas_cli.main import cli; cli()",
        "bench",
        "--device",
        "cpu",
        "--json",
    ]
    argv += ["--backend", "ort", "--preset", preset, *map(str, paths)]
    done = subprocess.run(argv, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"hwnas bench ended with status {done.returncode}: {done.stderr}")
    body = json.loads(done.stdout)
    return {"floors_ms": [row["floor_ms"] for row in body["networks"]], "machine": body["machine"]}


def summary(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Differences of pairs of commands."""
    logs = np.log([one["floors_ms"] for one in found])
    off = 100 * np.array([np.abs(a - b) for a, b in combinations(logs, 2)])
    return {
        "commands": len(found),
        "mean_percent": float(off.mean()),
        "nine_in_ten_percent": float(np.quantile(off, 0.9)),
        "largest_percent": float(off.max()),
        "by_network_percent": off.mean(axis=0).tolist(),
        "states": [one["machine"]["state"] for one in found],
        "waited_s": [one["machine"]["waited_s"] for one in found],
    }


def main() -> None:
    """Both conditions, one after the other."""
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), metavar="SPACE:NUMBER")
    parser.add_argument("--times", type=int, default=6, help="commands in each condition")
    parser.add_argument("--preset", default="default")
    parser.add_argument("--out", default="repeats", help="name of the result file")
    args = parser.parse_args()
    body: dict[str, Any] = {"networks": args.networks}
    with TemporaryDirectory() as folder:
        paths = []
        for name in args.networks:
            space, _, number = name.partition(":")
            paths.append(Path(folder) / f"{space}-{number}.json")
            write_network(paths[-1], make(space).uniform()[int(number)])
        for condition in ("as found", "beside spells"):
            with neighbour(0) if condition == "beside spells" else nullcontext():
                found = [bench(paths, args.preset) for _ in range(args.times)]
            body[condition] = {**summary(found), "benches": found}
            print(condition, summary(found), flush=True)
    print("written to", save(args.out, body))


if __name__ == "__main__":
    main()
