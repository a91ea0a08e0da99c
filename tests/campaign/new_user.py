"""A new user's run, timed: 200 photographs, one of them corrupt, to a verified engine by three commands.

    python tests/campaign/new_user.py --out tests/campaign/new_user.json
    python tests/campaign/new_user.py --packages-of .venv     # torch and the rest are not downloaded again

The commands are typed in a fresh folder, in a fresh environment, as the tutorial has them: ``pip install``,
``hwnas init``, ``hwnas run hwnas.yaml``. Nothing is edited between them. It fails where one of them does,
where the engine is not verified, or where the corrupt photograph is not named.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE))

import photographs  # noqa: E402


@dataclass(frozen=True)
class Step:
    """One command as typed, its time and the end of what it said."""

    command: str
    seconds: float
    status: int
    said: str


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="file for the figures")
    parser.add_argument("--packages-of", type=Path, help="environment whose packages are used, hwnas apart")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = run(Path(folder), options.packages_of)
    print(json.dumps(figures, indent=2))
    if options.out is not None:
        options.out.write_text(json.dumps(figures, indent=2) + "\n")
    return 0 if figures["passed"] else 1


def run(folder: Path, packages_of: Path | None) -> dict[str, Any]:
    """The three commands in a folder; figures of each."""
    corrupt = photographs.make(folder / "photos", 200, seed=0)
    source = shutil.copytree(ROOT, folder / "hwnas", ignore=shutil.ignore_patterns(".*", "runs", "build"))
    python = environment(folder / "venv", packages_of)
    variables = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "HWNAS_HOME")}
    variables |= {"PATH": f"{python.parent}{os.pathsep}{variables['PATH']}", "HOME": str(folder / "home")}
    # The order of the user's own words: install, look, go.
    commands = [["pip", "install", "--quiet", str(source)], ["hwnas", "init"], ["hwnas", "run", "hwnas.yaml"]]
    steps: list[Step] = []
    for words in commands:
        steps.append(typed(words, folder, variables))
        if steps[-1].status:
            break
    manifests = sorted((folder / "runs").rglob("*.manifest.json"))
    checks = json.loads(manifests[-1].read_text())["checks"] if manifests else []
    verified = bool(checks) and all(check["passed"] for check in checks)
    named = any(corrupt.name in step.said for step in steps)
    return {
        "passed": len(steps) == 3 and not any(step.status for step in steps) and verified and named,
        "commands": [
            {"command": s.command, "seconds": round(s.seconds, 1), "status": s.status} for s in steps
        ],
        "seconds": round(sum(step.seconds for step in steps), 1),
        "verified": verified,
        "corrupt photograph named": named,
        "packages": "downloaded" if packages_of is None else "already installed",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[1]:.1f}",
        "failed": [step.said[-2_000:] for step in steps if step.status],
    }


def environment(folder: Path, packages_of: Path | None) -> Path:
    """The Python of a fresh environment, which sees another one's packages where that is named."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    if packages_of is not None:
        (site,) = folder.glob("lib/python*/site-packages")
        (theirs,) = packages_of.resolve().glob("lib/python*/site-packages")
        # Entry by entry: an editable hwnas of that environment is not taken along.
        (site / "theirs.pth").write_text(f"{theirs}\n")
    return folder / "bin" / "python"


def typed(words: Sequence[str], folder: Path, variables: dict[str, str]) -> Step:
    """Run a command in the folder as a user would."""
    start = time.monotonic()
    done = subprocess.run(
        words, cwd=folder, env=variables, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    shown = " ".join(word if "/" not in word else "." for word in words)
    return Step(shown, time.monotonic() - start, done.returncode, done.stdout)


if __name__ == "__main__":
    sys.exit(main())
