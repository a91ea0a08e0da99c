"""Options that several commands share: one definition each, so that a name means the same everywhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Protocol, TypeVar

import click

from hwnas.executors import MOST_JOBS
from hwnas.plugins import names

from .gpu_choice import checked_device, chosen_gpu
from .param_types import (
    DURATION,
    DURATION_OR_NONE,
    MOST_BATCH,
    MOST_SEED,
    MOST_THREADS,
    PRECISIONS,
    PRESETS,
    SHAPE,
    Assignment,
    BatchSizes,
    LatencyBudget,
    Machines,
    Names,
    OneOrMore,
    Quantity,
    Registered,
    parse_share,
)

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")


class Option(Protocol):
    """A decorator that adds an option to a command's function."""

    def __call__(self, function: F, /) -> F:
        """Add it."""
        ...


class Late(click.Option):
    """An option whose help has a place, ``{}``, for what is registered; it is read when the help is shown."""

    def __init__(self, *args: Any, late: Callable[[], Sequence[str]], **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.late = late

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """The option and its help, filled in."""
        record = super().get_help_record(ctx)
        return record and (record[0], record[1].format(", ".join(self.late())))


def latency_budget(*, many: bool, text: str) -> Option:
    """``--latency-budget``: one (`many` false) or several and ratios."""
    return click.option("--latency-budget", type=LatencyBudget(many), metavar="TIME", help=text)


def paired(chosen: dict[str, Any]) -> None:
    """The first of several ``--device`` and ``--latency-budget`` in their places, the others as ``further``.

    One budget, a ratio most of all, may stand for every device.
    """
    names, budgets = list(chosen.pop("devices")), list(chosen["latency_budget"])
    if len(names) < 2 and len(budgets) > 1:
        raise click.UsageError(
            "--latency-budget is given several times for one device; write several budgets as a list: "
            f"--latency-budget {','.join(budgets)}"
        )
    if len(names) > 1 and len(budgets) not in (0, 1, len(names)):
        raise click.UsageError(
            f"{len(names)} devices and {len(budgets)} budgets; give --latency-budget once for each --device, "
            "in the same order, or once for all"
        )
    chosen["device"] = names[0] if names else None
    chosen["latency_budget"] = budgets[0] if budgets else None
    if len(names) > 1 and budgets:
        chosen["further"] = tuple(zip(names[1:], budgets[1:] or budgets * (len(names) - 1)))


def _option(*names_: str, **settings: Any) -> Option:
    return click.option(*names_, **settings)


device = _option(
    "--device",
    metavar="NAME",
    callback=checked_device,
    help="Device (`hwnas devices`), or ssh://user@host[:port][/NAME].  [default: a GPU that works, else cpu]",
)
devices = _option(
    "--device",
    "devices",
    multiple=True,
    metavar="NAME",
    callback=checked_device,
    help="Device (`hwnas devices`), or ssh://user@host[:port][/NAME]; may be repeated.  "
    "[default: a GPU that works, else cpu]",
)
gpu = _option(
    "--gpu",
    metavar="INDEX|UUID",
    callback=chosen_gpu,
    expose_value=False,
    help="Which NVIDIA GPU, by nvidia-smi's number or UUID (a MIG slice's too).  [default: the first]",
)
backend = _option(
    "--backend", type=Registered("backends"), metavar="NAME", help="Runtime.  [default: the device's]"
)
precision = _option("--precision", type=PRECISIONS, help="Precision of the engine.  [default: fp32]")
runtimes = _option(
    "--backend",
    "backends",
    type=Names("backends"),
    metavar="NAME,...",
    help="Runtimes, separated by commas.  [default: all that work here]",
)
precisions = _option(
    "--precision",
    "precisions",
    type=Names(PRECISIONS),
    metavar="NAME,...",
    help="Precisions, separated by commas.  [default: all that a runtime offers]",
)
runtime_choice = _option(
    "--backend",
    type=OneOrMore("backends"),
    metavar="NAME,...|auto",
    help="Runtime; auto or several: the fastest of them on a few networks.  [default: the device's]",
)
precision_choice = _option(
    "--precision",
    type=OneOrMore(PRECISIONS),
    metavar="NAME,...|auto",
    help="Precision of the engine; auto or several: the fastest that keeps the scores.  [default: fp32]",
)
max_loss = _option(
    "--max-loss",
    type=Quantity("share", parse_share),
    metavar="SHARE",
    help="Accuracy that fewer bits may cost.  [default: 0.5%]",
)
batch = _option(
    "--batch", type=click.IntRange(1, MOST_BATCH), metavar="N", help="Images per call.  [default: 1]"
)
batches = _option(
    "--batch",
    "batches",
    type=BatchSizes(),
    metavar="N,...",
    help="Images per call; several are timed against each other, with images a second.  [default: 1]",
)
profiles = _option(
    "--batch",
    "batches",
    type=BatchSizes(),
    metavar="N,...",
    help="Images per call; of several sizes one engine (TensorRT) takes each at its best.  "
    "[default: the run's]",
)
compatible = _option(
    "--compatible",
    type=Machines(),
    metavar="KIND,...",
    help="Also for other machines (TensorRT): version (later TensorRT), ampere (every GPU from Ampere on) or "
    "capability (every GPU of the same one).",
)
dla = _option(
    "--dla",
    type=click.IntRange(0, 63),
    metavar="CORE",
    help="Run on this core of a Jetson's deep-learning accelerator (TensorRT, fp16 or int8).",
)
streams = _option(
    "--streams",
    type=click.IntRange(1, 64),
    metavar="N",
    help="Time N calls at once as well, each on a stream of its own: images a second (TensorRT).",
)
sustained = _option(
    "--sustained",
    "sustained_s",
    type=DURATION,
    metavar="TIME",
    help="Keep the device busy for so long first, as a server does; a warm GPU boosts less.",
)
threads = _option(
    "--threads",
    type=click.IntRange(1, MOST_THREADS),
    metavar="N",
    help="Threads of the runtime.  [default: 1]",
)
input_shape = _option(
    "--input", "input_shape", type=SHAPE, metavar="CxHxW", help="One image, for example 3x32x32."
)
any_input = _option(
    "--input",
    "input_shape",
    type=SHAPE,
    metavar="CxHxW",
    help="One image, for example 3x224x160.  [default: what the model says]",
)
model_weights = _option(
    "--weights",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="State dict of the model: safetensors, or of torch.save, read without running code.",
)
space = _option("--space", type=Registered("spaces"), metavar="NAME", help="Search space (`hwnas spaces`).")
model = _option(
    "--model",
    metavar="MODEL",
    help="A model of your own in the place of a space: FILE.py:function, package.module:function (their code "
    "runs), torchvision:NAME, timm:NAME, a run or a network.json.",
)
weights = _option(
    "--weights",
    type=click.Path(path_type=Path),
    help="Weights of the model: safetensors, or a state dict of torch.",
)
strategy = _option(
    "--strategy", type=Registered("strategies"), metavar="NAME", help="Search strategy (`hwnas strategies`)."
)
table = _option(
    "--table",
    type=click.Path(path_type=Path),
    help="Latency table.  [default: the newest valid one of the device]",
)
insist = _option(
    "--insist", is_flag=True, help="Also accept a table whose predictions were more than 15 % off."
)
data = _option(
    "--data",
    cls=Late,
    late=lambda: names("datasets"),
    metavar="SOURCE",
    help="NAME:PATH with a NAME of {} (digits has no PATH), or module:function.",
)
splits: Sequence[Option] = tuple(
    _option(f"--{name}", name, metavar="SOURCE", help=f"Separate images {text}, named as for --data.")
    for name, text in (("train", "to train on"), ("val", "for validation"), ("test", "for the test"))
)
strict = _option("--strict", is_flag=True, help="Stop if an image cannot be used, instead of leaving it out.")
recipe = _option(
    "--recipe",
    type=Assignment(),
    multiple=True,
    metavar="NAME=VALUE",
    help="A training option that differs from its default, for example flip=off (no mirror images), "
    "lr=0.1 or cutout=8; may be repeated.",
)
seed = _option("--seed", type=click.IntRange(0, MOST_SEED), metavar="K", help="Seed of every random choice.")
out = _option(
    "--out",
    type=click.Path(path_type=Path),
    help="Output path; repeating the command with the same --out resumes.",
)
preset = _option("--preset", type=PRESETS, help="Amount of measuring and training.  [default: default]")
max_time = _option(
    "--max-time",
    type=DURATION,
    metavar="TIME",
    help="Stop after this time, for example 10min, with the best result so far.",
)
patience = _option(
    "--patience",
    "patience_s",
    type=DURATION_OR_NONE,
    metavar="TIME",
    help="Longest time to wait, in all, while the machine is slower than usual; 0s does not wait.  "
    "[default: 60s]",
)
executor = _option(
    "--executor",
    metavar="local|ray[://ADDRESS]",
    help="What runs the trainings: this machine, or a Ray cluster.  [default: local]",
)
jobs = _option(
    "--jobs",
    type=click.IntRange(1, MOST_JOBS),
    metavar="N",
    help="Trainings of a search at the same time, or processes that share one training.  [default: 1]",
)
dry_run = _option(
    "--dry-run", is_flag=True, help="Show what would be done and how long it would take; change nothing."
)


def _during(ctx: click.Context, variable: ContextVar[T], value: T) -> None:
    """Set a variable until the command ends: a program may call several commands."""
    before = variable.set(value)
    ctx.call_on_close(lambda: variable.reset(before))


def _set_patience(ctx: click.Context, param: click.Parameter, value: float | None) -> None:
    from hwnas import locks  # not needed for --help

    _during(ctx, locks.patience_s, value or 0.0)


def _set_own(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    from hwnas.traced import own_function  # not needed for --help

    _during(ctx, own_function, value or "")


own_function = _option(
    "--model",
    metavar="FUNCTION",
    expose_value=False,
    callback=_set_own,
    help="FILE.py:function or package.module:function that the network is a variant of; its code runs.",
)
wait = _option(
    "--wait",
    type=DURATION,
    metavar="[TIME]",
    is_flag=False,
    flag_value="10000h",
    expose_value=False,
    callback=_set_patience,
    help="Wait while another process writes to the same place; without TIME until it ends.",
)

# What decides the conditions a latency is true for.
setting: Sequence[Option] = (device, gpu, backend, precision, batch, threads)
# The same where a profile may be measured, and runtime and precision may be left to the clock.
open_setting: Sequence[Option] = (devices, gpu, runtime_choice, precision_choice, batch, threads)


def options(*chosen: Option | Sequence[Option]) -> Option:
    """Apply several options in the order in which `--help` shows them."""
    flat = [o for c in chosen for o in (c if isinstance(c, Sequence) else [c])]

    def apply(function: F, /) -> F:
        for option in reversed(flat):
            function = option(function)
        return function

    return apply


def sources(chosen: dict[str, Any]) -> str | None:
    """The data named by ``--data`` or by ``--train --val --test``, which are taken out of `chosen`."""
    from hwnas.train.uri import compose

    data, train, val, test = (chosen.pop(name) for name in ("data", "train", "val", "test"))
    if data is not None and train is not None:
        raise click.UsageError("--data and --train both name the images to train on; give one of them")
    first = train if train is not None else data
    return None if first is None and val is None and test is None else compose(first, val, test)


def given(**values: Any) -> dict[str, Any]:
    """The options that were given; what is left out takes the library's default."""
    return {name: value for name, value in values.items() if value is not None}
