"""The tasks of a search that may run in another process or on another machine: values in, values out."""

from __future__ import annotations

import getpass
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwnas import locks
from hwnas.errors import InputError
from hwnas.estimates import Budget
from hwnas.jobs.preparations.prepare import Facts, Prepared, make
from hwnas.jobs.search.parts import NetworkBuilder
from hwnas.measure import device as devices
from hwnas.measure.patience import Patience
from hwnas.protocols import Emit, Move
from hwnas.records import Measurement, Promise, Proposal, Setting
from hwnas.runs import RunFolder
from hwnas.spec import NetworkSpec
from hwnas.train.evaluator import Evaluator

# What a killed training has left is of use to the next one on this machine; after that it is rubbish.
KEPT_S = 7 * 86_400.0
# Of an event of a preparation elsewhere: the field that tells it from others of its kind.
KEY = "told_by"


@dataclass(frozen=True)
class Order:
    """A training.

    Attributes:
        run: of the run folder, so that two searches on one machine have scratch folders of their own.
        proposal, index: what is trained, and as which trial.
        moves: growths to judge.
        files: of the trials that it inherits from or learns from, by name in the run folder.
    """

    run: str
    proposal: Proposal
    index: int
    moves: tuple[Move, ...] = ()
    files: tuple[tuple[str, bytes], ...] = ()


def train(evaluator: Evaluator, order: Order, *, emit: Emit) -> list[tuple[str, bytes]]:
    """Train, and give the files that the evaluator wrote: weights and evaluation.

    A training that was killed here continues from its checkpoint, which is why the folder has a name that
    follows from the order. It is this machine's own: nothing depends on a shared disk.
    """
    with _scratch(f"{order.run}-{order.index}") as folder:
        for name, data in order.files:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        twin = evaluator.elsewhere(folder, order.moves, emit)
        twin(order.proposal, order.index)
        return [(str(path.relative_to(folder)), path.read_bytes()) for path in twin.files(order.index)]


def prepare(
    given: Mapping[str, Any], strategy: str, target: str, run: str, *, emit: Emit
) -> tuple[Prepared | None, list[dict[str, Any]]]:
    """What a strategy prepares, and the events that are to last.

    A preparation that was killed here continues from its checkpoint, as a training does.

    Args:
        given: the fields of `Facts`, but for those of the run.
        strategy, target: see `preparations.prepare.make`.
        run: of the run folder and of all that decides the result.
        emit: told of progress.
    """
    about = ("preparation", {"strategy": strategy})
    with _scratch(f"{run}-{strategy}") as folder, closing(RunFolder(folder, *about)) as own:
        return make(strategy, target, _Apart(**given, run=own, emit=emit)), own.events()


class _Apart(Facts):
    """Facts elsewhere: what is to last is written with its key, for the run that asked."""

    def note(self, kind: str, fields: Mapping[str, Any], *, key: str) -> None:
        """See `Facts.note`."""
        super().note(kind, {**fields, KEY: key}, key=key)


@contextmanager
def _scratch(name: str) -> Iterator[Path]:
    """A folder of this user's alone on this machine, as a killed task of this name left it.

    Removed when the block ends well. Its lock lies beside it, so that who comes in the moment of removal
    waits for nothing and loses nothing; where the task of a killed search still works there: another folder.
    """
    root = _ours(Path(tempfile.gettempdir()) / f"hwnas-tasks-{getpass.getuser()}")
    _sweep(root)
    folder = root / name
    with ExitStack() as stack:
        try:
            stack.enter_context(locks.Lock(folder))
        except InputError:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(exist_ok=True)
        yield folder
        shutil.rmtree(folder, ignore_errors=True)


def _ours(root: Path) -> Path:
    """`root` where it is a folder of this user's alone; else a new one, as others may write beside it."""
    with suppress(FileExistsError):
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = root.lstat()
    if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022:
        return root
    return Path(tempfile.mkdtemp(prefix="hwnas-tasks-"))


def _sweep(root: Path) -> None:
    """Remove what is old; other tasks do the same at the same time, so what has gone is no fault."""
    for old in root.glob("[!.]*"):  # a lock goes with its folder
        with suppress(FileNotFoundError, InputError):
            if time.time() - old.stat().st_mtime > KEPT_S:
                with locks.Lock(old):
                    shutil.rmtree(old, ignore_errors=True)


@dataclass(frozen=True)
class Bench:
    """How networks are measured whole: the setting, and what `parts.NetworkBuilder` takes."""

    setting: Setting
    seed: int
    sentinel_ms: float | None

    def builder(self, patience: Patience) -> NetworkBuilder:
        """The builder with the runtime of this machine; BackendUnavailable where it is not here."""
        runtime, setting = devices.conditions_of(self.setting)
        return NetworkBuilder(runtime, setting, self.seed, patience, self.sentinel_ms)


def conditions(bench: Bench, *, emit: Emit) -> Setting:
    """The setting in which networks would be measured here."""
    return bench.builder(Patience(0.0)).setting


def measure(bench: Bench, patience_s: float, spec: NetworkSpec, *, emit: Emit) -> tuple[Measurement, float]:
    """A quick whole measurement, and the seconds that were waited for a quiet machine."""
    patience = Patience(patience_s, emit=emit)
    measured = bench.builder(patience).measure(spec)
    return measured, patience.waited_s


def confirm(
    bench: Bench, patience_s: float, spec: NetworkSpec, weights: bytes | None, budget: Budget, *, emit: Emit
) -> tuple[tuple[Promise, Measurement], float]:
    """The measured promise of a candidate winner, and the seconds that were waited."""
    patience = Patience(patience_s, emit=emit)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        if weights is not None:
            path.write_bytes(weights)
        found = bench.builder(patience).confirm(spec, path if weights is not None else None, budget, emit)
    return found, patience.waited_s


def ancestors(proposal: Proposal) -> Sequence[int]:
    """The trials whose files a training needs."""
    return [index for index in dict.fromkeys((proposal.parent, proposal.teacher)) if index is not None]
