"""The doors: what a plug-in must offer. Each is one class (or callable) and one line in `plugins`.

Nothing here imports torch or a runtime; arrays are numpy's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import numpy as np

from hwnas.arrays import Float32s, Float64s
from hwnas.estimates import Budget, Estimate
from hwnas.records import BuildChoices, Evaluation, Measurement, Precision, Proposal, Setting, StageImportance
from hwnas.spec import BlockSpec, NetworkSpec

if TYPE_CHECKING:
    import torch


# Opens the context of a forward pass in training, for half precision.
Autocast = Callable[[], AbstractContextManager[object]]

# What happened, for the log, the live table and the report: a kind and its fields.
Emit = Callable[[str, Mapping[str, Any]], None]


@dataclass(frozen=True)
class CallTimes:
    """Times of single calls on the backend's own clock, input already resident.

    Attributes:
        wall_ms: one value for each call that was asked for.
        cpu_ms: process CPU time over all of them, so that cpu_ms / sum(wall_ms) shows contention; None
            where the work is not the CPU's.
        each: calls behind each value, which is their mean: more than one where a single call is too
            short for the device's clock.
        error_ms: standard error that the step of the clock leaves in each value.
        host_ms: what a program waits for one call, transfers aside; None where `wall_ms` is that.
        enqueue_ms: what the host needs to start a call; None where it does the work itself.
    """

    wall_ms: Float64s
    cpu_ms: float | None = None
    each: int = 1
    error_ms: float = 0.0
    host_ms: float | None = None
    enqueue_ms: float | None = None


@runtime_checkable
class Engine(Protocol):
    """A network built by a backend, ready to run.

    An engine may have besides: `flush()`, which empties the caches before the next calls; `watch()`, names of
    what made the last times doubtful; `warms`, true where a device settles at a lower clock as it warms, so
    that its speed is compared with that of a moment ago and not with the best that was ever seen.
    """

    setting: Setting

    def run(self, images: Float32s) -> Float32s:
        """Class scores (batch, classes) of images (batch, channels, height, width)."""
        ...

    def time(self, calls: int) -> CallTimes:
        """Run `calls` times on resident input and give the time of each call."""
        ...

    def save(self, path: Path) -> None:
        """Write the engine's own file (`Backend.suffix`), atomically."""
        ...

    def close(self) -> None:
        """Free what the runtime holds; further calls are errors."""
        ...


@dataclass(frozen=True)
class StreamTimes:
    """Several calls of one engine at once: what a server gets out of a device.

    Attributes:
        streams: calls in flight.
        images_per_s: of all of them, by the host's clock.
        wall_ms: device time of single calls while the others run.
    """

    streams: int
    images_per_s: float
    wall_ms: Float64s


@runtime_checkable
class ManyStreams(Protocol):
    """An engine that can run several calls at once on its device."""

    def in_streams(self, streams: int, seconds: float) -> StreamTimes:
        """Keep so many calls in flight for so long."""
        ...


Activations = Literal["uint8", "int8", "by sign"]
Sums = Literal["all", "inputs", "none"]


@dataclass(frozen=True)
class Int8Form:
    """An int8 graph that a runtime's kernels are fast in.

    Attributes:
        name: in a word or two, as settings and tables tell it; empty for a runtime's usual form.
        activations: "uint8", with a zero point; "int8", symmetric; "by sign", without a zero point either,
            but uint8 where no value is negative.
        weight_levels: largest integer of a weight: 127, or 63 where a kernel adds two products in
            16 bits, which would saturate.
        sums: "all": residual sums, pools and gates are quantized too, not only weighted operators;
            "inputs": what residual sums and gates read is, what they give is not; "none".
        integers: weights are stored as integers and biases as int32; else both stay float32, weights
            behind a pair of their own.
        depthwise: depthwise convolutions are quantized, too.
        rest: what everything that is not quantized is computed in.
    """

    name: str = ""
    activations: Activations = "uint8"
    weight_levels: int = 127
    sums: Sums = "all"
    integers: bool = True
    depthwise: bool = True
    rest: Literal["fp32", "bf16"] = "fp32"


@runtime_checkable
class Backend(Protocol):
    """A runtime that builds engines from ONNX.

    `name` is what it is registered as, `suffix` the ending of its engine files, `devices` the kinds
    of device it serves: "cpu", "gpu", or the name of a device of its own (``--device NAME``).
    """

    name: str
    suffix: str
    devices: tuple[str, ...]

    def unavailable(self) -> str | None:
        """None when it works here; else the reason and the cure. Must not import the runtime."""
        ...

    def setting(self, device: str, precision: Precision, batch: int, threads: int) -> Setting:
        """The full conditions under which this backend would run here."""
        ...

    def forms(self) -> tuple[Int8Form, ...]:
        """The int8 graphs that its kernels may be fastest in, by the network, its usual one first; none where
        it computes no int8.
        """
        ...

    def build(self, model: bytes, setting: Setting) -> Engine:
        """Build from a serialised ONNX model; BuildError carries the runtime's own words.

        At int8 a float model is quantized with ranges of random values, for measuring time.
        """
        ...

    def load(self, path: Path, setting: Setting) -> Engine:
        """Load an engine file written by `Engine.save`."""
        ...


@runtime_checkable
class Choosy(Protocol):
    """A backend that builds engines in more ways than `Setting` needs for a number to be true."""

    def chosen(self, setting: Setting, choices: BuildChoices) -> Setting:
        """`setting` with what a user asks of the engine besides.

        Raises:
            InputError: a choice that this runtime, precision or version never has.
            BackendUnavailable: one that this machine does not have.
        """
        ...


@dataclass(frozen=True)
class Needs:
    """What a task needs of the machine that runs it.

    Attributes:
        cores, gpus: of them for itself.
        device: the name of a device that the machine must have (its label); None where any will do.
        avoid: the name of a device that the machine must not have, as something is timed on it.
        timing: whether the task measures time: one such task at a time on a machine, and nothing beside it.
    """

    cores: int = 1
    gpus: int = 0
    device: str | None = None
    avoid: str | None = None
    timing: bool = False


class Running(Protocol):
    """A task that was handed to an executor.

    Attributes:
        name: for display.
        where: the machine and process that runs it, or ran it; empty while it waits for one.
        took_s: seconds that it took there.
    """

    name: str
    where: str
    took_s: float

    def done(self) -> bool:
        """Whether `result` would answer at once."""
        ...

    def result(self) -> Any:
        """What the task returned; waits for it, and raises what it raised."""
        ...

    def cancel(self) -> None:
        """Stop it, or never begin it."""
        ...


# A task of an executor: a function of a module, called with its arguments and `emit`.
Work = Callable[..., Any]


class Executor(Protocol):
    """Runs tasks, here or on other machines; made from (address, jobs=, device=, emit=).

    Only values travel: a task gets its arguments by value and returns one, and reads and writes no file of
    the caller's. What it tells by `emit` arrives at the caller's.

    Attributes:
        jobs: how many tasks are to run at once.
        times_elsewhere: whether tasks that measure time run on the machine with the device, wherever that is;
            else the caller measures by itself, while nothing else runs.
    """

    jobs: int
    times_elsewhere: bool

    def apart(self, device: str) -> bool:
        """Whether there are machines for other tasks than those that have the device."""
        ...

    def share(self, value: Any) -> Any:
        """Send a large value once; what is returned stands for it among the arguments of tasks."""
        ...

    def submit(self, name: str, needs: Needs, task: Work, *args: Any) -> Running:
        """Hand over a task.

        Raises:
            DeviceUnavailable: no machine could ever run it; names what there is.
        """
        ...

    def wait(self, running: Sequence[Running]) -> None:
        """Return once one of these is done.

        Raises:
            DeviceUnavailable: the machine that one of them needs has gone, and none has come for a while.
        """
        ...

    def close(self) -> None:
        """Stop everything that runs."""
        ...


@dataclass(frozen=True)
class Move:
    """A growth: what is done to which stage, how many steps of it, and the network it leads to."""

    stage: int
    kind: str  # "deeper", "wider", "kernel", "expand", "se"
    spec: NetworkSpec
    steps: int = 1


@runtime_checkable
class SearchSpace(Protocol):
    """A set of networks, for one input shape and number of classes."""

    @property
    def name(self) -> str:
        """What it is asked for by."""
        ...

    def smallest(self) -> NetworkSpec:
        """The member where growth starts."""
        ...

    def sample(self, rng: np.random.Generator) -> NetworkSpec:
        """A random member."""
        ...

    def mutate(self, spec: NetworkSpec, rng: np.random.Generator) -> NetworkSpec:
        """A random neighbour of a member, itself a member and different."""
        ...

    def grow(self, spec: NetworkSpec) -> list[Move]:
        """Every one-step growth of a member that is a member."""
        ...

    def uniform(self) -> list[NetworkSpec]:
        """Uniformly scaled members, smallest first: the usual baseline."""
        ...

    def blocks(self) -> tuple[BlockSpec, ...]:
        """Every block that a member may hold, stem and head included: what a sweep measures."""
        ...

    def __contains__(self, spec: object) -> bool:
        """Whether a network is a member."""
        ...


class CostModel(Protocol):
    """Latency of any member of a space, from a latency table."""

    setting: Setting
    table_id: str

    def estimate(self, spec: NetworkSpec) -> Estimate:
        """Predicted latency with interval, and counts; MissingMeasurement if it cannot say."""
        ...

    def observe(self, spec: NetworkSpec, measured: Measurement) -> None:
        """Learn from a whole network that was measured."""
        ...


@dataclass(frozen=True)
class SearchContext:
    """What a strategy may look at besides the history. Estimates never cost a measurement."""

    space: SearchSpace
    estimate: Callable[[NetworkSpec], Estimate]
    budget: Budget
    options: Mapping[str, Any] = field(default_factory=dict)


class Evaluate(Protocol):
    """Trains a proposal and says how good it is; built by the command from the training room."""

    def __call__(self, proposal: Proposal, index: int) -> Evaluation:
        """Evaluate the proposal that will be trial `index`."""
        ...


@dataclass(frozen=True)
class Question:
    """A trained network, and what an importance is to judge about it.

    Attributes:
        module: the network, in eval mode, built from `spec`.
        spec: what it is built from.
        moves: the growths to judge; a stage that is judged by itself has none.
        images, labels: (n, C, H, W) float32, already normalised, and (n,) int64; of the training split.
        rng: where anything is drawn.
    """

    module: torch.nn.Module
    spec: NetworkSpec
    moves: Sequence[Move]
    images: torch.Tensor
    labels: torch.Tensor
    rng: np.random.Generator


class Importance(Protocol):
    """Says how much each growth, or each stage, of a trained network matters, with a standard error."""

    def __call__(self, question: Question) -> tuple[StageImportance, ...]:
        """One value per growth or stage."""
        ...
