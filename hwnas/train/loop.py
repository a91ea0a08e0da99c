"""The training loop: one network, one data set, a given number of images.

The batch of a step, its augmentation and its learning rate are functions of (options, step); the
only thing that a training carries along is its `state.State`. So a training that was killed continues
from its last checkpoint and ends, on the CPU and with as many threads, with the bits of one that
was not.
"""

from __future__ import annotations

import copy
import math
import time
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hwnas import schemas, units
from hwnas.errors import TrainingFailed
from hwnas.nets.conv import pixels_first
from hwnas.nets.count import count
from hwnas.protocols import Emit
from hwnas.spec import NetworkSpec
from hwnas.train import plan, ranks, state
from hwnas.train.batches import Batches
from hwnas.train.checkpoint import read_tensors, write_tensors
from hwnas.train.data import Dataset
from hwnas.train.losses import Loss, Teacher
from hwnas.train.options import Recipe, Score, TrainResult
from hwnas.train.precision import Compute, choose, on_threads, say
from hwnas.train.ranks import Rank
from hwnas.train.score import accuracy, score

__all__ = ["Recipe", "Score", "TrainResult", "accuracy", "score", "train"]

# Steps from one look at the loss to the next: the guard goes back at most so far.
STRIDE = 10
# The rate is halved so many times where the first steps end above the loss of guessing.
MOST_HALVINGS = 3
# Trainings of fewer steps say nothing of what can be learned.
LEAST_JUDGED = 100
# The guard gives up after so many times; the learning rate is then at 1/32.
MOST_RESTORES = 5
# Least time between two progress events, in seconds.
PROGRESS_S = 0.5
# Rows of a learning curve, and in how many of them validation is looked at where it is watched.
CURVE_POINTS, WATCHED = 40, 10


def train(
    module: nn.Module,
    spec: NetworkSpec,
    dataset: Dataset,
    options: Recipe,
    *,
    checkpoint: Path | None = None,
    teacher: Teacher | None = None,
    rate: float = 1.0,
    frozen_norms: bool = False,
    watch: bool = False,
    final: bool = False,
    emit: Emit | None = None,
    task: str = "train",
    jobs: int = 1,
) -> TrainResult:
    """Train a network in place and evaluate it on the validation split.

    Args:
        module: the network, from `nets.build`; its weights are where training starts.
        spec: what it is, for its cost and the identity of the checkpoint.
        dataset: images are taken from `train`; `val` is looked at at the end.
        options: how.
        checkpoint: where the state is kept; training continues from it where it exists. It stays when
            training is done, so that repeating the call only evaluates again.
        teacher: with it, the loss is partly the distance to its predictions (`options.distill`).
        rate: factor on the learning rate of this training.
        frozen_norms: batch norm keeps the statistics that it has: for weights that know the data already,
            where the few images of a step would say less of them.
        watch: look at `val` on the way too, for the learning curve alone: nothing is chosen by it.
        final: whether nothing follows: such a training must have learned something.
        emit: receives "progress" (images seen, speed, loss) and "restored" (the guard went back).
        task: name in these events.
        jobs: processes of this machine that share every step (`train.ranks`); the checkpoint does not
            depend on their number. Under torchrun they are the processes that it has started.

    Raises:
        InputError: network and data do not fit together, or the checkpoint is of another training; or there
            are more jobs than images in a step.
        TrainingFailed: a final training learned nothing.
        HwnasError: training diverges again and again.
    """
    plan.check_fit(spec, dataset)
    step = plan.batch_of(options, len(dataset.train))
    compute = choose(options, jobs, step_macs=step * count(spec).macs)
    say(compute, emit)
    smallest = options.images // plan.steps_of(options, len(dataset.train))
    asked = _TrainingInputs(
        module,
        spec,
        dataset,
        options,
        teacher,
        rate,
        frozen_norms,
        checkpoint,
        watch=watch,
        emit=emit,
        name=task,
    )
    with (
        on_threads(compute.threads),
        ranks.together(jobs, smallest, partial(_beside, asked.apart(jobs), compute)) as rank,
    ):
        job = _TrainingJob(asked, compute, rank)
        with pixels_first(module):
            job.run()
    with on_threads(compute.threads):
        if final:
            job.refuse_nothing_learned()
        held = score(module, dataset.val)
    return job.result(held)


@dataclass(frozen=True)
class _TrainingInputs:
    """What a call of `train` is asked for; see there."""

    module: nn.Module
    spec: NetworkSpec
    dataset: Dataset
    options: Recipe
    teacher: Teacher | None
    rate: float
    frozen_norms: bool
    checkpoint: Path | None
    watch: bool = False
    emit: Emit | None = None
    name: str = ""

    def apart(self, jobs: int) -> _TrainingInputs:
        """For other processes: a process that is started shares the memory of tensors, so that the module is
        a copy, and it tells nothing.
        """
        module = copy.deepcopy(self.module) if jobs > 1 else self.module
        dataset = self.dataset.portable()
        return replace(self, module=module, dataset=dataset, watch=False, emit=None, name="")


def _beside(task: _TrainingInputs, compute: Compute, rank: Rank) -> None:
    """What another rank than the first does."""
    with on_threads(compute.threads):
        own = replace(task, module=copy.deepcopy(task.module))  # which the other ranks hold as well
        with pixels_first(own.module):
            _TrainingJob(own, compute, rank).run()


class _TrainingJob:
    """One call of `train`, in one process."""

    def __init__(self, task: _TrainingInputs, compute: Compute, rank: Rank) -> None:
        self.spec, self.dataset, self.options = task.spec, task.dataset, task.options
        self.module, self.teacher, self.checkpoint = task.module, task.teacher, task.checkpoint
        self.watch, self.emit, self.task = task.watch, task.emit, task.name
        self.rate, self.frozen_norms = task.rate, task.frozen_norms
        self.compute, self.rank = compute, rank
        options, device = self.options, self.compute.device
        self.steps = plan.steps_of(options, len(self.dataset.train))
        self.peak = plan.peak(options, len(self.dataset.train)) * self.rate
        self.batches = Batches(self.dataset, options, self.steps, device)
        self.identity = self._identify() if self.checkpoint is not None else ""
        self.module.to(device).to(memory_format=torch.channels_last)
        if self.teacher is not None:
            self.teacher.module.to(device).eval()
        self.loss = Loss(options, self.batches.class_weights, self.teacher, self.compute)
        half = torch.bfloat16 if self.compute.precision == "bf16" else None
        batch = plan.batch_of(options, len(self.dataset.train))
        self.state = state.begin(self.module, options, batch=batch, scales=self.compute.scales, half=half)
        self.first = self.state.snapshot()
        if self.checkpoint is not None and self.rank.is_first and self.checkpoint.exists():
            tensors, self.state.counters = read_tensors(
                self.checkpoint, schemas.CHECKPOINT, self.identity, state.Counters
            )
            self.state.restore(tensors)

    def _identify(self) -> str:
        modules = [self.module] + ([self.teacher.module] if self.teacher else [])
        body = {
            "spec": self.spec.key,
            "data": self.dataset.fingerprint,
            "options": plan.deciding(self.options),
            "augment": asdict(self.batches.augment),
            "rate": self.rate,
            "frozen_norms": self.frozen_norms,
            "precision": self.compute.precision,
            "device": self.compute.device.type,
        }
        return state.identify(body, modules)

    def result(self, held: Score) -> TrainResult:
        """What came of it, with the score of the weights that are kept: the average, where there is one."""
        options, counters = self.options, self.state.counters
        curve = [dict(row) for row in counters.curve]
        if curve:
            curve[-1]["accuracy"] = held.accuracy
        macs = 3 * count(self.spec).macs + (self.teacher.macs if self.teacher else 0)
        return TrainResult(
            accuracy=held.accuracy,
            se=held.se,
            loss=held.loss,
            images=options.images,
            wall_s=counters.wall_s,
            train_macs=float(options.images * macs * (1 + counters.repeated / self.steps)),
            images_per_s=options.images / max(counters.wall_s, 1e-9),
            train_loss=counters.loss if counters.loss is not None else math.nan,
            batch=plan.batch_of(options, len(self.dataset.train)),
            lr=self.peak,
            precision=self.compute.precision,
            device=str(self.compute.device),
            threads=self.compute.threads,
            restored=counters.restored,
            curve=tuple(curve),
        )

    def run(self) -> None:
        """Every step that is left; afterwards the module holds the weights to keep, in eval mode."""
        if self.rank.count > 1:
            kept, self.state.counters = self.rank.same((self.state.snapshot(), self.state.counters))
            self.state.restore(kept)
        counters = self.state.counters
        self._to_train()
        self.good, self.since_s, self.started = self.state.snapshot(), counters.wall_s, time.perf_counter()
        self.told = self.written = -math.inf
        losses: list[Tensor] = []
        self.forward = self.rank.wrapped(self.module)
        while counters.step < self.steps:
            losses.append(self._step(counters.step))
            counters.step += 1
            if self.options.ema:
                self.state.average_in(self.options.ema)
            if counters.step % STRIDE == 0 or counters.step == self.steps:
                self._look(float(self.rank.mean(torch.stack(losses).mean())))
                self._test_rate()
                losses.clear()
        self.rank.unwrap(self.module)
        self.module.eval()
        with torch.no_grad():
            for name, value in self.module.state_dict().items():
                if name in self.state.average:
                    value.copy_(self.state.average[name])

    def _to_train(self) -> None:
        self.module.train()
        if self.frozen_norms:
            for layer in self.module.modules():
                if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                    layer.eval()

    def _step(self, step: int) -> Tensor:
        options = self.options
        for group in self.state.optimizer.param_groups:
            group["lr"] = self.peak * self.state.counters.rate * plan.course(options, step, self.steps)
        images, targets = self.batches.at(step)
        part, weight = self.rank.part(len(images)), self.rank.weight(len(images))
        images, targets = images[part], targets[part]
        with self.compute.autocast():
            logits = self.forward(images)
        loss = self.loss.of(images, logits.float(), targets) * weight
        self.state.optimizer.zero_grad(set_to_none=True)
        scaler = self.state.scaler
        torch.autograd.backward(scaler.scale(loss))
        scaler.unscale_(self.state.optimizer)
        torch.nn.utils.clip_grad_norm_(self.module.parameters(), options.clip)
        scaler.step(self.state.optimizer)
        scaler.update()
        return loss.detach()

    def _look(self, loss: float) -> None:
        """Every `STRIDE` steps: go back if the loss diverged, else remember, report, write."""
        counters = self.state.counters
        usual = max(counters.first_loss or 0.0, math.log(len(self.dataset.classes)))
        astray = not math.isfinite(loss) or (counters.first_loss is not None and loss > 10.0 * usual)
        if astray or not self.state.finite():
            self._go_back(loss, astray)
        else:
            counters.first_loss = counters.first_loss if counters.first_loss is not None else loss
            counters.loss = loss if counters.loss is None else 0.8 * counters.loss + 0.2 * loss
            self.good = self.state.snapshot()
            self._draw()
        now = time.perf_counter()
        counters.wall_s = self.since_s + now - self.started
        done = counters.step == self.steps
        if (
            self.checkpoint is not None
            and self.rank.is_first
            and (done or now - self.written >= self.options.checkpoint_s)
        ):
            # The first look writes too: from then on, there is always something to go back to.
            write_tensors(self.checkpoint, self.state.tensors(), schemas.CHECKPOINT, self.identity, counters)
            self.written = now
        if done or now - self.told >= PROGRESS_S:
            self._tell()
            self.told = now

    def _test_rate(self) -> None:
        """Once, at the end of the first steps: begin again with half the rate where nothing was learned.

        A loss above that of guessing while the rate is at its peak is a rate that is too high; left alone,
        such a training ends there. A rate of zero would pass, so that a few halvings are all.
        """
        counters = self.state.counters
        end = plan.tested_at(self.options, self.steps, STRIDE)
        if self.teacher is not None or counters.step != end or counters.loss is None:
            return
        if counters.halved >= MOST_HALVINGS:
            return
        if not plan.too_high(self.options, self.steps, end, counters.loss, self.guessing):
            return
        counters.halved += 1
        counters.rate *= 0.5
        counters.repeated += counters.step
        counters.step, counters.loss, counters.first_loss = 0, None, None
        counters.curve.clear()
        told = f"the loss is above {self.guessing:.2f}, that of guessing, after the first {end} steps"
        self.state.restore(self.first)
        self.good = self.state.snapshot()
        if self.emit is not None:
            text = f"{self.task}: {told}; training starts again at {counters.rate:g} of the learning rate"
            self.emit("restored", {"task": self.task, "step": end, "rate": counters.rate, "text": text})

    @property
    def guessing(self) -> float:
        """The loss of a network that answers every class alike."""
        return math.log(len(self.dataset.classes))

    def refuse_nothing_learned(self) -> None:
        """TrainingFailed where the loss at the end is that of guessing, or above it."""
        loss = self.state.counters.loss
        if self.teacher is not None or loss is None or self.steps < LEAST_JUDGED or loss <= self.guessing:
            return
        raise TrainingFailed(
            f"{self.task}: the final training loss is {loss:.3f}, and guessing gives "
            f"ln({len(self.dataset.classes)}) = {self.guessing:.3f}: nothing was learned. Lower the learning "
            f"rate (--recipe lr={self.options.lr * self.state.counters.rate / 5:.2g}), check that the labels "
            "belong to the images, or take a smaller space (hwnas spaces)"
        )

    def _draw(self) -> None:
        """A row of the learning curve, where the next one is due."""
        counters, curve = self.state.counters, self.state.counters.curve
        if len(curve) >= counters.step * CURVE_POINTS // self.steps:
            return
        row: dict[str, float] = {
            "images": self.options.images * counters.step // self.steps,
            "loss": float(counters.loss or 0.0),
            "lr": self.peak * counters.rate * plan.course(self.options, counters.step - 1, self.steps),
        }
        watched = sum("accuracy" in row for row in curve)
        if self.watch and counters.step < self.steps and watched < counters.step * WATCHED // self.steps:
            row["accuracy"] = accuracy(self.module, self.dataset.val)
            self._to_train()
        curve.append(row)

    def _go_back(self, loss: float, astray: bool) -> None:
        counters = self.state.counters
        counters.restored += 1
        if counters.restored > MOST_RESTORES:
            raise TrainingFailed(
                f"{self.task}: training diverged {counters.restored} times, although the learning rate was "
                f"lowered to {self.peak * counters.rate:.2g}; start with a lower one"
            )
        counters.rate *= 0.5
        self.state.restore(self.good)
        if self.emit is not None:
            what = f"the loss was {loss:.3g}" if astray else "weights were not finite"
            text = (
                f"{self.task}: {what} at step {counters.step} of {self.steps}; the last good weights were "
                f"restored and the learning rate halved (now {counters.rate:g} of the plan)"
            )
            self.emit(
                "restored", {"task": self.task, "step": counters.step, "rate": counters.rate, "text": text}
            )

    def _tell(self) -> None:
        if self.emit is None:
            return
        counters, total = self.state.counters, self.options.images
        seen = total * counters.step // self.steps
        fields: dict[str, Any] = {"task": self.task, "done": seen, "total": total}
        speed = seen / max(counters.wall_s, 1e-9)
        left = units.format_seconds((total - seen) / max(speed, 1e-9))
        shown = f"{counters.loss:.3f}" if counters.loss is not None else "not finite"
        self.emit("progress", {**fields, "note": f"{speed:.0f} images/s, loss {shown}, {left} left"})
