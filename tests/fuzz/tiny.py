"""Small spaces and short measurements, so that a command takes a second; and commands in forked children.

Nothing of the code under test is replaced: only how much of it a command does. The parent imports
everything and computes nothing, so that its children start warm and may use threads of their own.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hwnas import plugins
from hwnas.arrays import ImageShape
from hwnas.jobs.profile import plan as profiles
from hwnas.measure.timing import TimingOptions
from hwnas.nets.chainspace import ChainSpace
from hwnas.nets.levels import Level, Operator
from hwnas.nets.macromicro.space import MacroMicro
from hwnas.nets.spaces import staged

SHAPE: ImageShape = (1, 8, 8)


def tiny(*, input_shape: ImageShape = SHAPE, classes: int = 10) -> ChainSpace:
    """Two stages of one to three inverted residuals, of expansion 1 or 2."""
    operators = (Operator("mbconv", 3, 1), Operator("mbconv", 3, 2))
    stages = [[Level(8 * 2**s, s, operators, (1, 3), s)] for s in range(2)]
    return ChainSpace("tiny", input_shape, classes, **staged(stages), reference=(0, 1), stem_act="relu6")


def tiny_macromicro(*, input_shape: ImageShape = SHAPE, classes: int = 10) -> MacroMicro:
    """Chains of three or four layers."""
    return MacroMicro(input_shape, classes, depth=(3, 4), width=(6, 8), name="tiny-macromicro")


def shrink() -> None:
    """Make the spaces known, and ``--preset quick`` quicker."""
    plugins.BUILT_IN["spaces"] |= {"tiny": "tiny:tiny", "tiny-macromicro": "tiny:tiny_macromicro"}
    plugins.forget()
    profiles.PLANS["quick"] = profiles.Plan(calibration=6, probes=2, holdout=3, target=0.01, blocks=40)
    kept = TimingOptions.preset

    def preset(name: str) -> TimingOptions:
        return replace(kept(name), sessions=2, sessions_max=2) if name == "quick" else kept(name)

    TimingOptions.preset = staticmethod(preset)  # type: ignore[method-assign]  # stands in for the method


def warm() -> None:
    """Import what commands import; no tensor is computed, so that forking stays safe."""
    import sklearn.datasets
    import torch
    from PIL import Image

    import hwnas_cli.main as command_line

    torch.set_num_threads(1)
    Image.init()
    sklearn.datasets.load_digits()
    for name in command_line.COMMANDS:
        command_line.command_of(name)
    for module in (
        "torch._dynamo", "onnxruntime", "onnx", "pyarrow.parquet", "plotly.graph_objects",
        "safetensors.torch",
        "hwnas.backends.fake", "hwnas.train.data", "hwnas.train.evaluator", "hwnas.train.loop",
        "hwnas.train.files", "hwnas.deploy.verify", "hwnas.jobs.export", "hwnas.jobs.profile",
        "hwnas.jobs.search", "hwnas.jobs.train", "hwnas.jobs.predict", "hwnas.jobs.report",
        "hwnas.report.page", "hwnas.jobs.preparations.densenas", "hwnas.jobs.preparations.hournas",
        "hwnas.jobs.verify", "hwnas.jobs.bench",
    ):  # fmt: skip
        __import__(module)
    for group in ("strategies", "spaces", "datasets", "importances"):
        for name in plugins.BUILT_IN[group]:
            plugins.load(group, name)


def start(
    argv: Sequence[str],
    folder: Path,
    *,
    log: Path,
    environment: Mapping[str, str] | None = None,
    limits: Mapping[int, int] | None = None,
) -> int:
    """Run a command in a forked child, in `folder`; its streams go to `log` + ``.out``, ``.err``."""
    log.parent.mkdir(parents=True, exist_ok=True)

    def work() -> int:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.chdir(folder)
        os.environ.update(environment or {})
        for which, bounds in (limits or {}).items():
            resource.setrlimit(which, (bounds, bounds))
            if which == resource.RLIMIT_FSIZE:
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # writing then fails with EFBIG
        for stream, (number, suffix) in {"stdout": (1, ".out"), "stderr": (2, ".err")}.items():
            handle = os.open(f"{log}{suffix}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            os.dup2(handle, number)
            setattr(sys, stream, open(number, "w", closefd=False))  # noqa: SIM115
        return command(argv)

    return forked(work)


def forked(work: Callable[[], int]) -> int:
    """Run a function in a forked child, in a process group of its own; the child's id.

    The function gives the child's exit status; it is 70 where an error ends it, which is printed.
    """
    child = os.fork()
    if child:
        return child
    status = 70
    try:
        os.setpgid(0, 0)
        status = work()
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        os._exit(status)


def command(argv: Sequence[str]) -> int:
    """Run a command here as the installed one would be; its exit status."""
    from hwnas_cli.main import cli

    sys.argv = ["hwnas", *argv]
    try:
        cli(list(argv), prog_name="hwnas")
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 1
    return 0


def ended(child: int, *, wait: bool = True) -> int | None:
    """Exit status of a child, minus the signal that killed it; None while it runs and nobody waits."""
    found, status = os.waitpid(child, 0 if wait else os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


def run(argv: Sequence[str], folder: Path, log: Path, **more: Any) -> int:
    """`start` and wait."""
    status = ended(start(argv, folder, log=log, **more))
    assert status is not None
    return status
