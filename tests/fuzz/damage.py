"""Damaged files through the command line, thousands of them, in forked children: what became of each.

    python tests/fuzz/damage.py FOLDER COUNT [SEED]

A child works through a slice and writes a line for each file; when it dies or hangs the parent notes that
for the file that it was at, and goes on with the next.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "contract"), str(HERE.parents[1])]

import formats as known  # noqa: E402
import mutations  # noqa: E402
import tiny  # noqa: E402
from click.testing import CliRunner  # noqa: E402
from formats import Format, environment  # noqa: E402

from hwnas_cli.main import cli  # noqa: E402

STATUSES = {0, 2, 3, 4, 5, 6}
LONGEST_S, SLICE = 60, 60
OFTEN = 8  # files of a format that is read in an instant, for one of a format that is resumed from
MEMORY_BYTES = 3 << 30  # beyond what the imports take
MOST_MIB = 1024
BAD = ("traceback", "status", "object", "wrong", "hang", "crash", "memory")


@dataclass
class Tally:
    """What became of damaged files.

    Attributes:
        verdicts: how many ended how: "refused" (a documented status and one sentence), "accepted" (a file
            of people's that says something else now), "same" (a file of ours whose damage changes nothing),
            or one of `BAD`.
        faults: the bad ones, in words.
        seconds: wall time.
        mib: the most memory that a child took beyond its imports.
    """

    verdicts: Counter[str] = field(default_factory=Counter)
    formats: dict[str, Counter[str]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    seconds: float = 0.0
    mib: int = 0


@contextmanager
def _alarm() -> Iterator[None]:
    def ring(number: int, frame: FrameType | None) -> None:
        raise TimeoutError("hangs")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(LONGEST_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def damaged(fmt: Format, good: bytes, number: int, seed: int) -> bytes:
    """The damaged content; the same for the same numbers."""
    rng = random.Random(f"{seed} {fmt.name} {number}")
    if fmt.lies:
        return mutations.lied(good, rng, lines=fmt.lies == "lines")
    return mutations.mutated(good, rng)


def answer(fmt: Format, house: Path) -> tuple[int, str, str]:
    """Run a format's command here, in this process: status, standard output and error."""
    os.chdir(house)
    os.environ.update(environment(house))
    with _alarm():
        result = CliRunner().invoke(cli, [*fmt.argv, "--json"], prog_name="hwnas")
    return result.exit_code, result.stdout, result.stderr


def verdict(fmt: Format, status: int, out: str, err: str, good: dict[str, Any] | None) -> tuple[str, str]:
    """What became of a damaged file, and what was said."""
    said = (err.strip().splitlines() or [""])[-1][:300]
    if "Traceback" in err:
        return "traceback", err[-1500:]
    if status not in STATUSES:
        return "status", f"exit {status}: {said}"
    try:
        body = json.loads(out)
    except ValueError:
        return "object", f"no JSON object: {out[:200]!r}"
    if status or body.get("state") == "damaged":  # which is what lists of runs call it
        return "refused", said
    if good is None:
        return "accepted", ""
    now = fmt.figures(body)
    differs = sorted(name for name in good if now.get(name) != good[name])
    return (
        ("wrong", f"other {', '.join(differs)}: {str({n: now.get(n) for n in differs})[:300]}")
        if differs
        else (
            "same",
            "",
        )
    )


def _prepared(fmt: Format, folder: Path, name: str) -> Path:
    """A copy of the house for one process to work in: a fresh one where the command changes it."""
    house = folder / name / fmt.house.name
    if fmt.copy:
        shutil.rmtree(house, ignore_errors=True)
    if not house.exists():
        shutil.copytree(fmt.house, house, symlinks=True)
    return house


def _slice(
    formats: Sequence[Format],
    numbers: Sequence[int],
    folder: Path,
    seed: int,
    good: dict[str, Any],
    log: Path,
) -> int:
    """In a child: damage, run, write down."""
    vm = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (vm + MEMORY_BYTES, vm + MEMORY_BYTES))
    began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    mine = str(os.getpid())
    shutil.rmtree(folder / mine, ignore_errors=True)
    with log.open("a") as told:
        for number in numbers:
            fmt = formats[number % len(formats)]
            print(json.dumps({"at": number}), file=told, flush=True)
            house = _prepared(fmt, folder, mine)
            file = house / fmt.file
            original = (fmt.house / fmt.file).read_bytes()
            file.write_bytes(damaged(fmt, original, number, seed))
            status, out, err = answer(fmt, house)
            what, said = verdict(fmt, status, out, err, good.get(fmt.name) if fmt.own else None)
            if not fmt.copy:
                file.write_bytes(original)
            mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - began) >> 10
            print(
                json.dumps({"done": number, "verdict": what, "said": said, "mib": mib}), file=told, flush=True
            )
    return 0


def _good(formats: Sequence[Format], folder: Path) -> dict[str, Any]:
    """What every command answers for whole files; all must succeed, or nothing is shown by damage."""
    log = folder / "good.json"

    def work() -> int:
        found = {}
        for fmt in formats:
            status, out, err = answer(fmt, _prepared(fmt, folder, "good"))
            assert status == 0, f"{fmt.name}: exit {status}: {err[-1500:]}"
            found[fmt.name] = fmt.figures(json.loads(out))
            assert found[fmt.name] or not fmt.own, f"{fmt.name}: nothing to compare"
        log.write_text(json.dumps(found))
        return 0

    assert tiny.ended(tiny.forked(work)) == 0
    found: dict[str, Any] = json.loads(log.read_text())
    return found


def try_all(formats: Sequence[Format], count: int, folder: Path, seed: int = 14, workers: int = 2) -> Tally:
    """Damage `count` files, in turn of every format; `folder` is for copies."""
    folder.mkdir(parents=True, exist_ok=True)
    started, tally = time.monotonic(), Tally()
    good = _good(formats, folder)
    formats = [*formats, *(fmt for fmt in formats if not fmt.copy for _ in range(OFTEN - 1))]
    todo = [list(range(at, min(at + SLICE, count))) for at in range(0, count, SLICE)]
    running: dict[int, tuple[list[int], Path, list[float]]] = {}
    while todo or running:
        while todo and len(running) < workers:
            numbers = todo.pop(0)
            log = folder / f"slice-{numbers[0]}.jsonl"
            log.unlink(missing_ok=True)
            child = tiny.forked(partial(_slice, formats, numbers, folder, seed, good, log))
            running[child] = (numbers, log, [time.monotonic(), 0.0])
        time.sleep(0.02)
        for child in list(running):
            numbers, log, seen = running[child]
            size = log.stat().st_size if log.exists() else 0
            if size != seen[1]:
                seen[:] = [time.monotonic(), size]
            hangs = time.monotonic() - seen[0] > 2 * LONGEST_S
            if hangs:
                os.kill(child, signal.SIGKILL)
            status = tiny.ended(child, wait=hangs)
            if status is None:
                continue
            del running[child]
            at = _collect(tally, formats, log)
            if at is not None:
                rest = numbers[numbers.index(at) + 1 :]
                todo += [rest] if rest else []
                why = f"the process ended with {status}"
                _note(tally, formats, at, "hang" if hangs else "crash", why)
            assert status == 0 or at is not None, f"a child ended with {status} before its first file"
    tally.seconds = time.monotonic() - started
    return tally


def _collect(tally: Tally, formats: Sequence[Format], log: Path) -> int | None:
    """Take in what a child wrote; the file that it died at, if it died."""
    at = None
    for line in log.read_text().splitlines() if log.exists() else []:
        body = json.loads(line)
        at = body.get("at")
        if "done" in body:
            tally.mib = max(tally.mib, body["mib"])
            _note(tally, formats, body["done"], body["verdict"], body["said"])
    return at


def _note(tally: Tally, formats: Sequence[Format], number: int, what: str, said: str) -> None:
    fmt = formats[number % len(formats)]
    tally.verdicts[what] += 1
    tally.formats.setdefault(fmt.name, Counter())[what] += 1
    if what in BAD:
        tally.faults.append(f"{what}: {fmt.name}, file {number}: {said}")


def main(folder: Path, count: int, seed: int) -> int:
    """Damage, and say what became of it; 1 where anything was not well."""
    tiny.shrink()
    tiny.warm()
    found = try_all(known.made(folder / "made"), count, folder / "try", seed)
    print(f"{count} files in {found.seconds:.0f} s, {found.mib} MiB at most: {dict(found.verdicts)}")
    for name, verdicts in sorted(found.formats.items()):
        print(f"  {name}: {dict(verdicts)}")
    print(*found.faults, sep="\n")
    return 1 if found.faults or found.mib > MOST_MIB else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 15))
