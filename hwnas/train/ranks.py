"""One training in several processes, equal to one process but for rounding.

They are processes of this machine that `together` starts, or those that torchrun has started, here and on
other machines (`launched`).

Every process (rank) makes the whole batch of a step, which follows from (seed, step) alone, and takes its
part of it. So the global batch, the number of steps and every image's augmentation are those of one process.
Gradients are averaged by torch's `DistributedDataParallel`; torch's `BatchNorm2d` takes its statistics over
all ranks (`shared_norms`), any other layer that looks at a batch over its own part. Only the first rank,
which is the process that was started, tells and writes; the others take its state, so that they need no
checkpoint.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from hwnas.errors import HwnasError, InputError
from hwnas.train import shared_norms

T = TypeVar("T")

# Until all ranks have started; a process imports torch first.
START = timedelta(minutes=5)


@dataclass(frozen=True)
class Rank:
    """One of `count` processes that train together."""

    at: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process tells and writes."""
        return self.at == 0

    def part(self, batch: int) -> slice:
        """Which images of a batch are this rank's."""
        return slice(batch * self.at // self.count, batch * (self.at + 1) // self.count)

    def weight(self, batch: int) -> float:
        """What the mean loss of its part is multiplied with, so that ranks average to that of the batch."""
        part = self.part(batch)
        size: int = part.stop - part.start
        return size * self.count / batch

    def wrapped(self, module: nn.Module) -> Callable[[Tensor], Tensor]:
        """The forward pass in training, of which the gradients are averaged over the ranks."""
        if self.count == 1:
            return module
        for one in module.modules():
            if type(one) is nn.BatchNorm2d:  # subclasses do more than that
                # mypy forbids assigning a method; `unwrap` gives the class's own back.
                one.forward = partial(shared_norms.normalise, one)  # type: ignore[method-assign]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of a newer name for the argument
            wrapped: Callable[[Tensor], Tensor] = DistributedDataParallel(module, broadcast_buffers=False)
        return wrapped

    def unwrap(self, module: nn.Module) -> None:
        """Give batch norm its own forward pass again."""
        if self.count == 1:
            return
        for one in module.modules():
            if type(one) is nn.BatchNorm2d:
                vars(one).pop("forward", None)

    def same(self, value: T) -> T:
        """The first rank's value, at every rank; it is pickled."""
        if self.count == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box)
        return box[0]

    def mean(self, value: Tensor) -> Tensor:
        """The mean over the ranks."""
        if self.count > 1:
            dist.all_reduce(value)
        return value / self.count


ALONE = Rank()


def launched() -> Rank | None:
    """This process among those that torchrun has started; None where it has not."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    return Rank(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))


@contextmanager
def joined() -> Iterator[Rank]:
    """This process among those of torchrun, connected; alone where there are none.

    Raises:
        HwnasError: the others cannot be reached.
    """
    rank = launched()
    if rank is None or rank.count == 1 or dist.is_initialized():
        yield rank or ALONE
        return
    try:
        dist.init_process_group("gloo", timeout=START)  # torchrun's environment says where the others are
    except (RuntimeError, ValueError) as exc:
        raise HwnasError(
            f"the other {rank.count - 1} processes of torchrun cannot be reached ({str(exc)[:80]!r})"
        ) from exc
    try:
        yield rank
    finally:
        dist.destroy_process_group()


@contextmanager
def together(count: int, batch: int, work: Callable[[Rank], Any]) -> Iterator[Rank]:
    """The first rank, while the others run `work` in processes of their own.

    Args:
        count: of the ranks; those of torchrun are as many as it has started.
        batch: images of a step, of which each rank must have one.
        work: a picklable function.

    Raises:
        InputError: there are more ranks than images in a step.
        HwnasError: another rank has ended; with a checkpoint, a repeated call continues there.
    """
    started = launched()
    count = started.count if started is not None else count
    if count > batch:
        raise InputError(f"{count} jobs share the {batch} images of a step; take {batch} jobs or fewer")
    if started is not None:
        with joined() as rank:
            yield rank
        return
    if count == 1:
        yield ALONE
        return
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        meet = f"file://{Path(folder) / 'meet'}"
        ranks = [Rank(at, count) for at in range(1, count)]
        others = [context.Process(target=_other, args=(meet, rank, work)) for rank in ranks]
        for one in others:
            one.start()
        try:
            dist.init_process_group("gloo", init_method=meet, rank=0, world_size=count, timeout=START)
            try:
                yield Rank(0, count)
            finally:
                dist.destroy_process_group()
            for one in others:
                one.join()
        except RuntimeError as exc:  # torch's for a connection that is gone, and for much else
            for one in others:
                one.join(1.0)
            if not any(one.exitcode for one in others):
                raise
            raise HwnasError(
                f"one of the {count} processes that train together has ended ({str(exc)[:80]!r}); repeat "
                "the command to continue from the last checkpoint"
            ) from exc
        finally:
            for one in others:
                one.terminate()
                one.join()


def _other(meet: str, rank: Rank, work: Callable[[Rank], Any]) -> None:
    dist.init_process_group("gloo", init_method=meet, rank=rank.at, world_size=rank.count, timeout=START)
    try:
        with suppress(HwnasError):  # which the first rank raises as well
            work(rank)
    finally:
        dist.destroy_process_group()
