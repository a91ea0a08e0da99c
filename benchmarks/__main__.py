"""`make bench`: the benchmarks one after another, each in a process of its own.

    python -m benchmarks                    # all that need no data of yours, about an hour on two quiet cores
    python -m benchmarks timing planning    # some
    python -m benchmarks grow --data parquet:PATH    # one, with its own options

Timed claims need a quiet machine; every result is a file under ``benchmarks/results`` that names
the command and the machine.
"""

import subprocess
import sys

# `frontier`, `grow`, `killed`, `own_model`, `own_importance`, `strategies` and `lengths` need images, so they
# run only when they are named.
ALONE = ("timing", "predictors", "quick", "probing", "tables", "promise", "train_speed")
NAMES = (
    *ALONE,
    "scale",
    "planning",
    "frontier",
    "grow",
    "densenas",
    "killed",
    "own_model",
    "own_importance",
    "strategies",
    "lengths",
)


def main(words: list[str]) -> int:
    named = [word for word in words if word in NAMES]
    options = [word for word in words if word not in NAMES]
    if options and len(named) != 1:
        known = ", ".join(NAMES)
        print(f"options {options} need exactly one benchmark before them; known: {known}", file=sys.stderr)
        return 2
    failed = []
    for name in named or ALONE:
        print(f"$ python -m benchmarks.{name} {' '.join(options)}", flush=True)
        if subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *options]).returncode:
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
