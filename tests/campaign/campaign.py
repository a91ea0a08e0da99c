"""Kills, two processes at once, full and read-only disks, damaged files: figures for docs/reliability.md.

    python tests/campaign/campaign.py --small                               # `make test-campaign`
    python tests/campaign/campaign.py --out tests/campaign/result.json      # 220 kills, 4,000 files

Commands run in forked children of one process that has imported everything and computed nothing, so that
one starts in a hundredth of a second. Everything follows from the seed but the moments of kills, which
follow from the clock. Full and read-only disks need root (they are mounted); without it files may not
grow instead, and folders lose their permission to be written.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "fuzz"), str(HERE.parent / "contract"), str(HERE.parents[1])]

import damage  # noqa: E402
import formats  # noqa: E402
import tiny  # noqa: E402
from jobs import PIPELINE, TABLES, Job, jobs, search  # noqa: E402

SCHEMA = "hwnas.campaign/1"
LONGEST_S = 300
CLEAR = {0, 2, 3, 4, 5, 6}


@dataclass
class Figures:
    """What came of one part.

    Attributes:
        tried: how often something was done to a command.
        jobs: commands that were then carried to their end and looked at.
        clear: ends that were right, or an error in one sentence.
        traceback, wrong, lost, hang: ends that were not.
        faults: these in words.
    """

    tried: int = 0
    jobs: int = 0
    clear: int = 0
    traceback: int = 0
    wrong: int = 0
    lost: int = 0
    hang: int = 0
    seconds: float = 0.0
    faults: list[str] = field(default_factory=list)

    def fault(self, kind: str, said: str) -> None:
        """Note a bad end."""
        setattr(self, kind, getattr(self, kind) + 1)
        self.faults.append(f"{kind}: {said}"[:2000])


class Campaign:
    """One campaign in a scratch folder.

    Attributes:
        base: the folder that every command starts in, in copies: tables and a finished search.
        whole: what each job gives when nobody disturbs it, with the seconds that it took.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.base = folder / "base"
        self.whole: dict[str, tuple[Any, float]] = {}
        self._count = 0

    def prepare(self, wanted: Sequence[Job]) -> None:
        """Make the base, and every job's result when it is left alone."""
        self.base.mkdir(parents=True)
        for space, name in TABLES.items():
            argv = ("profile", *formats.FAKE, "--space", space, "--out", f"{name}.hwlat.jsonl")
            self._must(argv, self.base)
        self._must(search("random", "s"), self.base)
        (self.base / "p.yaml").write_text(PIPELINE)
        for at in range(0, len(wanted), 4):
            began, group = time.monotonic(), [(job, self.house()) for job in wanted[at : at + 4]]
            children = [(self.start(job.argv, house), job, house) for job, house in group]
            for child, job, house in children:
                status = self.end(child)
                assert status == 0, f"{job.name} ended with {status}: {self.said(house)[-3000:]}"
                self.whole[job.name] = job.result(house), time.monotonic() - began
                shutil.rmtree(house)

    def house(self) -> Path:
        """A fresh copy of the base."""
        self._count += 1
        house = self.folder / f"house-{os.getpid()}-{self._count}"
        shutil.copytree(self.base, house, symlinks=True)
        return house

    def log(self, house: Path) -> Path:
        """Where a child's streams go: beside the house, which may be full."""
        return self.folder / "logs" / house.name

    def start(self, argv: Sequence[str], house: Path, name: str = "", **more: Any) -> int:
        """A command in a child."""
        log = self.log(house).with_suffix(f".{name}") if name else self.log(house)
        return tiny.start(argv, house, log=log, environment=formats.environment(house), **more)

    def said(self, house: Path, name: str = "") -> str:
        """What a child wrote on standard error."""
        log = self.log(house).with_suffix(f".{name}") if name else self.log(house)
        return Path(f"{log}.err").read_text(errors="replace")

    def _must(self, argv: Sequence[str], house: Path) -> None:
        status = self.end(self.start(argv, house))
        assert status == 0, f"{argv} ended with {status}: {self.said(house)[-3000:]}"

    def end(self, child: int) -> int | None:
        """Wait for a child; None where it hung and was killed."""
        limit = time.monotonic() + LONGEST_S
        while time.monotonic() < limit:
            status = tiny.ended(child, wait=False)
            if status is not None:
                return status
            time.sleep(0.003)
        os.killpg(child, signal.SIGKILL)
        tiny.ended(child)
        return None

    def judge(self, figures: Figures, what: str, house: Path, status: int | None, name: str = "") -> bool:
        """Whether a command's end was 0; a bad one is noted."""
        said = self.said(house, name)
        if status is None:
            figures.fault("hang", f"{what}: {said[-500:]}")
        elif "Traceback" in said or status not in CLEAR:
            figures.fault("traceback", f"{what}: exit {status}: {said[-1500:]}")
        return status == 0

    def same(self, figures: Figures, what: str, job: Job, house: Path) -> None:
        """Note whether a job ended as the undisturbed one, and left nothing behind."""
        try:
            found = job.result(house)
        except (OSError, ValueError, KeyError) as exc:
            figures.fault("lost", f"{what}: {exc!r}")
            return
        left = [p for p in house.rglob("*") if p.name.endswith((".tmp", ".hwnas-lock", ".sessions"))]
        left += list((house / "home" / "scratch").glob("*"))
        if json.loads(json.dumps(found)) != json.loads(json.dumps(self.whole[job.name][0])):
            figures.fault("wrong", f"{what}: another result than the undisturbed one")
        elif left:
            figures.fault("lost", f"{what}: left over {', '.join(p.name for p in left)}")
        else:
            figures.clear += 1

    def kills(self, wanted: Sequence[Job], count: int) -> Figures:
        """SIGKILL at random moments, some times in a row; repeated, it ends as if nothing had been.

        Every job once or more, the quicker half until there were `count` kills.
        """
        figures, began = Figures(), time.monotonic()
        for job in wanted:
            self._killed(figures, job)
        quick = sorted(wanted, key=lambda job: self.whole[job.name][1])[: max(len(wanted) // 2, 1)]
        while figures.tried < count:
            for job in quick:
                self._killed(figures, job)
                if figures.tried >= count:
                    break
        figures.seconds = time.monotonic() - began
        return figures

    def _killed(self, figures: Figures, job: Job) -> None:
        house, killed = self.house(), 0
        seconds = self.whole[job.name][1]
        for _ in range(random.randint(2, 5)):
            child = self.start(job.argv, house)
            limit = time.monotonic() + random.uniform(0.02, 0.95) * seconds
            status = None
            while status is None and time.monotonic() < limit:
                time.sleep(0.002)
                status = tiny.ended(child, wait=False)
            if status is None:
                os.killpg(child, signal.SIGKILL)
                tiny.ended(child)
                killed += 1
                seconds = max(seconds, 0.05)
            elif not self.judge(figures, f"{job.name}, repeated after {killed} kills", house, status):
                break
        figures.tried += killed
        figures.jobs += 1
        status = self.end(self.start(job.argv, house))
        what = f"{job.name}, killed {killed} times"
        if self.judge(figures, what, house, status):
            self.same(figures, what, job, house)
        elif status in CLEAR:
            figures.fault("lost", f"{what}: cannot be repeated: {self.said(house)[-500:]}")
        shutil.rmtree(house)

    def pairs(self, wanted: Sequence[Job]) -> Figures:
        """Two processes at once: the second is told so (exit 2), or waits with --wait; nothing is mixed."""
        figures, began = Figures(), time.monotonic()
        for job in wanted:
            for waits in (False, True) if "--wait" in _options(job.argv) else (False,):
                self._pair(figures, job, waits)
        self._apart(figures)
        figures.seconds = time.monotonic() - began
        return figures

    def _pair(self, figures: Figures, job: Job, waits: bool) -> None:
        house = self.house()
        argv = (*job.argv, *(("--wait", "5min") if waits else ()))
        children = {name: self.start(argv, house, name) for name in ("one", "two")}
        statuses = {name: self.end(child) for name, child in children.items()}
        what = f"two of {job.name}{' with --wait' * waits}"
        figures.tried += 1
        figures.jobs += 1
        good = [self.judge(figures, what, house, status, name) for name, status in statuses.items()]
        told = all(
            done
            or (
                statuses[name] == 2
                and ("in use by" in self.said(house, name) or "exists already" in self.said(house, name))
            )
            for name, done in zip(statuses, good)
        )
        if None in statuses.values():
            pass
        elif not any(good) or not told or (waits and not all(good)):
            words = " | ".join(self.said(house, name)[-300:] for name in statuses)
            figures.fault("wrong", f"{what}: ended with {list(statuses.values())}: {words}")
        else:
            self.same(figures, what, job, house)
        shutil.rmtree(house)

    def _apart(self, figures: Figures) -> None:
        """Two that name no place of their own: HWNAS_HOME and ``runs/`` give each one of its own."""
        house = self.house()
        names = {
            "one": search("random", None),
            "two": search("uniform", None),
            "three": search("random", None),
        }
        children = {name: self.start(argv, house, name) for name, argv in names.items()}
        good = [self.judge(figures, "three searches", house, self.end(c), n) for n, c in children.items()]
        runs = sorted(p.name for p in (house / "runs").glob("search-*"))
        results = [(house / "runs" / name / "result.json").is_file() for name in runs]
        self._note(figures, all(good) and len(runs) == 3 and all(results), f"three searches made {runs}")
        profile = ("profile", *formats.FAKE, "--space", "tiny")
        children = {n: self.start(a, house, n) for n, a in {"one": profile, "two": profile}.items()}
        statuses = {n: self.end(c) for n, c in children.items()}
        good = [self.judge(figures, "two profiles at home", house, s, n) for n, s in statuses.items()]
        tables = list((house / "home" / "tables").glob("*.hwlat.jsonl"))
        whole = [self.end(self.start(("table", "show", str(path)), house)) == 0 for path in tables]
        told = all(s == 0 or (s == 2 and "in use by" in self.said(house, n)) for n, s in statuses.items())
        self._note(
            figures, any(good) and told and bool(tables) and all(whole), f"two profiles at home: {statuses}"
        )
        holder = self.start(search("tpe", "busy"), house, "holder")
        while not (house / "busy" / "events.jsonl").exists():
            time.sleep(0.005)
        status = self.end(self.start(("runs", "rm", "busy", "--yes"), house))
        done = self.judge(figures, "runs rm of a running search", house, status)
        ended = self.judge(figures, "a search beside runs rm", house, self.end(holder), "holder")
        self._note(
            figures,
            not done and ended and (house / "busy" / "result.json").is_file(),
            "runs rm of a running search",
        )
        shutil.rmtree(house)

    @staticmethod
    def _note(figures: Figures, good: bool, what: str) -> None:
        figures.tried += 1
        figures.jobs += 1
        if good:
            figures.clear += 1
        else:
            figures.fault("wrong", what)

    def full(self, wanted: Sequence[Job], sizes: Sequence[float]) -> Figures:
        """A disk that is full at some point; with room again the same command ends as if nothing had been."""
        figures, began = Figures(), time.monotonic()
        for job in wanted:
            for share in sizes:
                self._full(figures, job, share)
        figures.seconds = time.monotonic() - began
        return figures

    def _full(self, figures: Figures, job: Job, share: float) -> None:
        house = self.house()
        what = f"{job.name} on a disk {share:.0%} full"
        held = sum(p.stat().st_blocks * 512 for p in house.rglob("*") if p.is_file())
        room = int(held + (1 - share) * 400_000)
        with _disk(house, room) as grow:
            limits = {} if grow else {resource.RLIMIT_FSIZE: int((1 - share) * 100_000)}
            status = self.end(self.start(job.argv, house, limits=limits))
            figures.tried += 1
            figures.jobs += 1
            if not self.judge(figures, what, house, status) and status not in CLEAR:
                return
            if status not in (0, 2):
                figures.fault("wrong", f"{what}: exit {status}: {self.said(house)[-500:]}")
                return
            if grow:
                grow()
            status = self.end(self.start(job.argv, house))
            if self.judge(figures, f"{what}, repeated", house, status):
                self.same(figures, what, job, house)
            elif status in CLEAR:
                figures.fault("lost", f"{what}: cannot be repeated: {self.said(house)[-500:]}")

    def readonly(self, wanted: Sequence[Job]) -> Figures:
        """A folder that cannot be written: one sentence, exit 2."""
        figures, began = Figures(), time.monotonic()
        for job in wanted:
            house = self.house()
            with _sealed_off(house):
                status = self.end(self.start(job.argv, house))
                figures.tried += 1
                figures.jobs += 1
                what = f"{job.name} in a read-only folder"
                self.judge(figures, what, house, status)
                writes = job.name != "bench"
                if status == (2 if writes else 0):
                    figures.clear += 1
                elif status in CLEAR:
                    figures.fault("wrong", f"{what}: exit {status}: {self.said(house)[-500:]}")
            shutil.rmtree(house)
        figures.seconds = time.monotonic() - began
        return figures


def _options(argv: Sequence[str]) -> list[str]:
    """The options of a command."""
    import click

    from hwnas_cli.main import command_of

    command: click.Command = command_of(argv[0])
    if isinstance(command, click.Group):
        command = command.commands[argv[1]]
    return [name for param in command.params for name in param.opts]


@contextmanager
def _disk(house: Path, room_bytes: int) -> Iterator[Callable[[], None] | None]:
    """The house on a disk of so many bytes; gives a function that makes it larger, None without root."""
    if not _mounts():
        yield None
        shutil.rmtree(house)
        return
    kept = house.with_name(f"{house.name}-kept")
    house.rename(kept)
    house.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={room_bytes}", "tmpfs", str(house)], check=True)

    def grow() -> None:
        subprocess.run(["mount", "-o", "remount,size=1g", str(house)], check=True)

    try:
        shutil.copytree(kept, house, dirs_exist_ok=True, symlinks=True)
        shutil.rmtree(kept)
        yield grow
    finally:
        subprocess.run(["umount", "-l", str(house)], check=True)
        house.rmdir()


@contextmanager
def _sealed_off(house: Path) -> Iterator[None]:
    """The house without permission to write."""
    if not _mounts():
        folders = [house, *(p for p in house.rglob("*") if p.is_dir())]
        for folder in folders:
            folder.chmod(0o555)
        yield
        for folder in folders:
            folder.chmod(0o755)
        return
    subprocess.run(["mount", "--bind", str(house), str(house)], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", str(house)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(house)], check=True)


def _mounts() -> bool:
    """Whether file systems may be mounted here; tried once."""
    global _MOUNTS
    if _MOUNTS is None:
        with tempfile.TemporaryDirectory() as folder:
            argv = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder]
            try:
                _MOUNTS = subprocess.run(argv, capture_output=True, check=False).returncode == 0
            except OSError:
                _MOUNTS = False
            if _MOUNTS:
                subprocess.run(["umount", folder], check=True)
    return _MOUNTS


_MOUNTS: bool | None = None


def _damaged(folder: Path, count: int, seed: int, workers: int) -> Figures:
    """Files of every format, damaged."""
    found = damage.try_all(
        formats.made(folder / "damage" / "made"), count, folder / "damage" / "try", seed, workers
    )
    verdicts = found.verdicts
    good = verdicts["refused"] + verdicts["accepted"] + verdicts["same"]
    figures = Figures(tried=count, jobs=count, clear=good, seconds=found.seconds)
    for said in found.faults:
        kind = said.partition(":")[0]
        figures.fault(
            {"wrong": "wrong", "hang": "hang", "crash": "hang", "memory": "hang"}.get(kind, "traceback"), said
        )
    if found.mib > damage.MOST_MIB:
        figures.fault("hang", f"{found.mib} MiB were taken")
    return figures


def _at_once(
    work: Sequence[tuple[str, Callable[[], Figures]]],
    folder: Path,
    seed: int,
    workers: int,
    done: Callable[[dict[str, Figures]], None],
) -> None:
    """Parts in children, some at a time; those of one name are added up and told to `done`."""
    todo, running = list(enumerate(work)), dict[int, tuple[int, str]]()
    parts = {name: Figures() for name, _ in work}
    while todo or running:
        while todo and len(running) < workers:
            at, (name, call) = todo.pop(0)
            running[_part(call, folder / f"part-{at}.json", seed + at)] = at, name
        child, status = os.wait()
        at, name = running.pop(child)
        assert status == 0, f"the part {name} broke off"
        found = Figures(**json.loads((folder / f"part-{at}.json").read_text()))
        for key, value in asdict(found).items():
            setattr(parts[name], key, getattr(parts[name], key) + value)
        print(
            f"{name}: {found.tried} tried, {found.clear} of {found.jobs} well, {found.seconds:.0f} s",
            *found.faults,
            sep="\n  ",
            flush=True,
        )
        left = {other for _, (other, _) in todo} | {other for _, other in running.values()}
        done({key: value for key, value in parts.items() if key not in left})


def _part(call: Callable[[], Figures], out: Path, seed: int) -> int:
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        random.seed(seed)
        out.write_text(json.dumps(asdict(call())))
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def run(
    folder: Path,
    tell: Callable[[dict[str, Any]], None],
    *,
    seed: int,
    small: bool,
    workers: int,
    only: str = "",
) -> None:
    """The whole campaign; `tell` gets the figures whenever a part has ended."""
    tiny.shrink()
    tiny.warm()
    every = jobs()
    names = {"profile", "search random", "search stagewise", "train", "export", "table import"}
    wanted = [job for job in every if job.name in names] if small else every
    by_name = {job.name: job for job in every}
    places = ["profile", "search random", "export"] + (
        [] if small else ["train", "search densenas", "report", "table import", "run"]
    )
    disks = ["profile", "search random", "train"] + (
        [] if small else ["search densenas", "export", "report", "table import"]
    )
    campaign = Campaign(folder)
    campaign.prepare(wanted if small else every)
    sizes = (1.0, 0.9) if small else (1.0, 0.97, 0.85, 0.5)
    kills = 12 if small else 220
    pairs = [by_name[name] for name in places]
    work: list[tuple[str, Callable[[], Figures]]] = [
        *(("SIGKILL", partial(campaign.kills, wanted[at::4], kills // 4)) for at in range(4)),
        ("two or three processes at once", lambda: campaign.pairs(pairs)),
        ("disk full", lambda: campaign.full([by_name[name] for name in disks], sizes)),
        ("read-only folder", lambda: campaign.readonly(wanted)),
        ("damaged files", lambda: _damaged(folder, 1000 if small else 4000, seed, workers)),
    ]
    about = {
        "schema": SCHEMA,
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Linux {platform.release().split('-')[0]}",
        "python": platform.python_version(),
        "seed": seed,
        "mounted_disks": _mounts(),
    }

    def done(parts: Mapping[str, Figures]) -> None:
        tell({**about, "parts": {name: asdict(figures) for name, figures in parts.items()}})

    _at_once([one for one in work if only in ("", one[0])], folder, seed, workers, done)


def main() -> int:
    """Run and write; exit 1 where anything was not well."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--small", action="store_true", help="12 kills and 200 files instead of 220 and 4,000"
    )
    parser.add_argument("--seed", type=int, default=14)
    parser.add_argument("--workers", type=int, default=2, help="parts at a time")
    parser.add_argument("--only", default="", help="one part, by name; the others stay in the file")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    asked = parser.parse_args()
    out = asked.out.resolve() if asked.out else None
    before = json.loads(out.read_text())["parts"] if asked.only and out is not None and out.exists() else {}
    bad = False

    def tell(body: dict[str, Any]) -> None:
        nonlocal bad
        bad = any(part["faults"] for part in body["parts"].values())
        if out is not None:
            out.write_text(json.dumps({**body, "parts": {**before, **body["parts"]}}, indent=1) + "\n")

    with tempfile.TemporaryDirectory(prefix="hwnas-campaign-") as name:
        run(Path(name), tell, seed=asked.seed, small=asked.small, workers=asked.workers, only=asked.only)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
