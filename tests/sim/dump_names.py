"""Write trt_names.txt again: which public names each major version of TensorRT's bindings has.

::

    python tests/sim/prepare.py && python tests/sim/dump_names.py

Names only, no signatures and no texts; ``make test`` holds hwnas against them without the bindings.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from machines import MACHINES, environment
from prepare import BINDINGS, HERE

TARGET = HERE / "trt_names.txt"
LIST = """
import inspect
import tensorrt_bindings as trt
for name in dir(trt):
    if name.startswith("_"):
        continue
    value = getattr(trt, name)
    print(name)
    if inspect.isclass(value):
        for member in dir(value):
            if not member.startswith("_"):
                print(f"{name}.{member}")
"""


def names(major: int) -> set[str]:
    """Every public name, and every public member of a class."""
    machine = next(m for m in MACHINES.values() if m.tensorrt == major)
    with tempfile.TemporaryDirectory() as home:
        command = [sys.executable, "-c", f"from hwnas.backends.trt import compat\ncompat.module()\n{LIST}"]
        env = environment(machine, Path(home))
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def main() -> None:
    """Write one line a name: a letter for each version that has it, then the name."""
    versions = {major: spec.split("==")[1] for major, spec in BINDINGS.items()}
    found = {major: names(major) for major in BINDINGS}
    lines = ["# y where the version has the name: " + " ".join(versions.values())]
    for name in sorted(set().union(*found.values())):
        lines.append("".join("y" if name in found[major] else "-" for major in BINDINGS) + f" {name}")
    TARGET.write_text("\n".join(lines) + "\n")
    print(f"{TARGET}: {len(lines) - 1} names")


if __name__ == "__main__":
    main()
