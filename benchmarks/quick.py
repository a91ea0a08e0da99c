"""What a quick profile costs, from the command to its end, and how good its table is.

python -m benchmarks.quick                       # half a minute
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from typing import Any

from benchmarks.common import bars, save

SPACES = ("resnet-cifar", "mbv2-cifar")
HWNAS = (sys.executable, "-c", "from hwnas_cli.main import cli; cli()")


def chart(results: list[dict[str, Any]]) -> str:
    """Wall time of each space."""
    seconds = {"wall time": [r["seconds"] for r in results]}
    return bars("A quick profile, the whole command", [r["space"] for r in results], seconds, "s")


def main() -> None:
    """Profile each space in a process of its own, as a user does."""
    results = []
    for space in SPACES:
        with tempfile.TemporaryDirectory() as home:
            begun = time.perf_counter()
            done = subprocess.run(
                [*HWNAS, "profile", "--device", "cpu", "--space", space, "--preset", "quick", "--json"],
                env={**os.environ, "HWNAS_HOME": home},
                check=True,
                capture_output=True,
                text=True,
            )
            seconds = time.perf_counter() - begun
        body = json.loads(done.stdout)
        found = {key: body[key] for key in ("space", "rows", "probes", "measurements", "holdout", "gates")}
        results.append({**found, "seconds": seconds})
        print(
            f"{space}: {seconds:.1f} s, {body['measurements']} graphs timed, error "
            f"{body['holdout']['mape_percent']:.2f} % on {body['holdout']['networks']} unseen networks"
        )
    print("written to", save("quick", {"results": results}, chart(results)))


if __name__ == "__main__":
    main()
