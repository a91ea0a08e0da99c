"""Planning without the device: estimates from the TITAN Xp's data sheet against DenseNAS's measured list.

HWNAS_TEST_DATA=... python -m benchmarks.planning   # seconds; the folder holds densenas/lat_list_*
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import save
from hwnas.cost import importers, roofline
from hwnas.cost.score import figures
from hwnas.nets.count import count
from hwnas.nets.densenas.graph import DenseSpace, densenas_mbv2, densenas_resnet
from hwnas.spec import NetworkSpec

CASES = ((densenas_mbv2(), "lat_list_densenas_mbv2_xp32"), (densenas_resnet(), "lat_list_resv2_32"))


def random_network(space: DenseSpace, rng: np.random.Generator) -> NetworkSpec:
    """A path drawn edge by edge, operators uniformly."""
    path = [0]
    while path[-1] != space.sink:
        path.append(int(rng.choice(space.out_edges[path[-1]])))
    heads = [space.head_ops[int(rng.integers(len(space.head_ops)))] for _ in path[1:]]
    stacks = [
        [space.stack_ops[int(rng.integers(len(space.stack_ops)))] for _ in range(space.routing[j].stack)]
        for j in path[1:]
    ]
    return space.network(path, heads, stacks)


def compare(space: DenseSpace, path: Path, networks: int = 500) -> dict[str, Any]:
    """Figures of compiled and eager estimates, and of MACs alone, on random networks of a space."""
    table, device = importers.read(path, "densenas"), roofline.describe("titanxp")
    rng = np.random.default_rng(0)
    specs = [random_network(space, rng) for _ in range(networks)]
    blocks = {b for spec in specs for b in spec.blocks}
    measured = np.array([sum(table[b].value_ms for b in s.blocks) for s in specs])
    out: dict[str, Any] = {"space": space.name}
    for name, fused in (("compiled", True), ("eager", False)):
        guess = {b: roofline.block_ms(b, device, batch=32, fused=fused) for b in blocks}
        out[name] = figures(np.array([sum(guess[b] for b in s.blocks) for s in specs]), measured)
    macs = np.array([float(count(s).macs) for s in specs])
    out["MACs"] = {"kendall_tau": figures(macs, measured)["kendall_tau"]}
    return out


def main() -> None:
    """Both spaces."""
    folder = Path(os.environ["HWNAS_TEST_DATA"]) / "densenas"
    results = [compare(space, folder / name) for space, name in CASES]
    for r in results:
        for name in ("compiled", "eager"):
            f = r[name]
            print(
                f"{r['space']:16s} {name:9s} Kendall tau {f['kendall_tau']:.3f} (MACs alone "
                f"{r['MACs']['kendall_tau']:.3f}), {f['mape_percent']:.0f} % off, "
                f"bias {f['bias_percent']:+.0f} %"
            )
    print("written to", save("planning", {"results": results}))


if __name__ == "__main__":
    main()
