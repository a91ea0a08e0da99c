"""The whole chain: ``quickstart``, and ``run`` for a pipeline file that ``init`` writes.

Each step is a command that a user could type; it is shown as such and run in this process.
"""

from __future__ import annotations

import io
import json
import shlex
import time
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from hwnas import runs, schemas
from hwnas.errors import DataFormatError, InputError
from hwnas.plugins import names, unknown
from hwnas.store import write_text
from hwnas.units import format_seconds

from . import config, options
from .console import Output, common

# The order in which a pipeline's sections are done, whatever their order in the file.
STEPS = ("profile", "search", "train", "export", "verify", "report")

TEMPLATE = """\
# A pipeline for `hwnas run {name}`. Each section is a command, its keys are the command's options
# (`hwnas SECTION --help`); leave a section out to skip its step. Running it again resumes.
# One command can use the file too: hwnas search --config {name}

run: {run}   # the folder for everything that comes out

common:                  # for every command that has the option
  device: cpu            # `hwnas devices`
  threads: 1
  seed: 0

profile:
  space: resnet-cifar    # `hwnas spaces`
  preset: quick          # quick, default or thorough

search:
  latency-budget: 1x:resnet20   # 0.6ms, 0.6ms@p95, 0.4ms,0.6ms for several, or a ratio to a network
  data: digits           # folder:PATH, parquet:PATH, npz:PATH, cifar10:PATH or module:function
  space: resnet-cifar
  strategy: stagewise    # `hwnas strategies`
  # max-params: 500kparam
  # max-time: 30min

# train:                 # more training of the winner than the search gave
#   data: digits
#   epochs: 60

export:
  format: onnx           # {formats}

verify:

report:
"""


@dataclass(frozen=True)
class Done:
    """A finished step: the command as typed, its exit status, its JSON where that was asked for."""

    command: str
    status: int
    seconds: float
    result: dict[str, Any] | None


def step(ui: Output, argv: Sequence[str]) -> Done:
    """Show a command as typed and run it here; with ``--json`` its result is kept, not printed."""
    from .main import cli

    command = f"hwnas {shlex.join(argv)}"
    if not ui.as_json:
        click.secho(f"\n$ {command}", bold=True)
    else:
        ui.log(f"$ {command}")
    start, caught = time.monotonic(), io.StringIO()
    if ui.as_json:
        with redirect_stdout(caught):
            status = cli(args=[*argv, "--json"], prog_name="hwnas", standalone_mode=False)
    else:
        status = cli(args=list(argv), prog_name="hwnas", standalone_mode=False)
    body = json.loads(caught.getvalue()) if caught.getvalue() else None
    return Done(command, status if isinstance(status, int) else 0, time.monotonic() - start, body)


def chain(ui: Output, schema: str, run: Path, steps: Sequence[Sequence[str]]) -> None:
    """Run steps one after another into one run folder; the first that fails ends the chain.

    An argument ``ENGINE`` stands for the engine that the export has written by then.
    """
    start, done = time.monotonic(), []
    for argv in steps:
        done.append(step(ui, [str(_engine(run)) if arg == "ENGINE" else arg for arg in argv]))
        if done[-1].status:
            break
    status = done[-1].status
    body = {
        "run": str(run),
        "passed": status == 0,
        "seconds": time.monotonic() - start,
        "steps": [d.__dict__ for d in done],
    }
    ui.result(schema, body, lambda: _summary(run, body, status))
    if status:
        click.get_current_context().exit(status)


def _engine(run: Path) -> Path:
    """The newest engine under a run folder."""
    manifests = sorted(run.rglob("*.manifest.json"), key=lambda p: p.stat().st_mtime)
    if not manifests:
        raise InputError(f"{run} holds no engine; `hwnas export {run}` writes one")
    return manifests[-1].with_name(manifests[-1].name.removesuffix(".manifest.json"))


def _summary(run: Path, body: Mapping[str, Any], status: int) -> None:
    click.echo()
    if status:
        click.echo(f"stopped: {body['steps'][-1]['command']} ended with exit status {status}")
        return
    click.echo(f"done in {format_seconds(body['seconds'])}; everything is in {run}/:")
    for path in sorted(p for p in run.rglob("*") if p.is_file() and p.parent.name != "weights"):
        click.echo(f"  {path.relative_to(run)}")


@click.command()
@click.argument("file", type=click.Path(path_type=Path), default="hwnas.yaml")
@click.option("--force", is_flag=True, help="Overwrite an existing file.")
@common
def init(ui: Output, file: Path, force: bool) -> None:
    """Write a commented pipeline file to start from.  [default: hwnas.yaml]"""
    if file.suffix not in (".yaml", ".yml"):
        raise click.BadParameter(f"{file} must end in .yaml")
    if file.exists() and not force:
        raise click.UsageError(f"{file} exists already; add --force to overwrite it")
    known = ", ".join(names("formats"))
    write_text(file, TEMPLATE.format(name=file.name, run=runs.RUNS / file.stem, formats=known))
    ui.result(schemas.INIT, {"path": str(file)}, lambda: click.echo(str(file)))
    ui.next(f"hwnas run {file}")


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@options.dry_run
@common
def run(ui: Output, file: Path, dry_run: bool) -> None:
    """Do every step of a pipeline file; again to resume (`hwnas init` writes one)."""
    body = config.read(file)
    folder, steps = plan(body, file)
    if dry_run:
        listed = [f"hwnas {shlex.join(argv)}" for argv in steps]
        ui.result(
            schemas.RUN, {"run": str(folder), "commands": listed}, lambda: click.echo("\n".join(listed))
        )
        return
    chain(ui, schemas.RUN, folder, steps)


def plan(body: Mapping[str, Any], file: Path) -> tuple[Path, list[list[str]]]:
    """The run folder and the commands of a pipeline file.

    Raises:
        DataFormatError: a section that is no step, or no step at all.
    """
    from .main import command_of

    for key in body:
        if key not in (*STEPS, config.COMMON, config.RUN):
            raise DataFormatError(f"{file}: " + unknown("section", str(key), (*STEPS, "common", "run")))
    chosen = [verb for verb in STEPS if verb in body]
    if not chosen:
        raise DataFormatError(f"{file} has no step; `hwnas init` writes a file with all of them")
    for verb in chosen:  # a misspelt option of a late step is refused before the first begins
        config.defaults_for(command_of(verb), body, file)
    folder = Path(str(body.get(config.RUN) or runs.RUNS / file.stem))
    trained = folder.with_name(f"{folder.name}-train")
    last = trained if "train" in chosen else folder
    table = folder.with_name(f"{folder.name}.hwlat.jsonl")
    words = {
        "profile": ["--out", str(table)],
        "search": [*(["--table", str(table)] if "profile" in chosen else []), "--out", str(folder)],
        "train": [str(folder), "--out", str(trained)],
        "export": [str(last)],
        "verify": ["ENGINE"],
        "report": [str(last)],
    }
    return last, [[verb, *words[verb], "--config", str(file)] for verb in chosen]


@click.command()
@click.option("--device", metavar="NAME", default="cpu", show_default=True, help="Device to run on.")
@options.options(options.out, options.dry_run)
@common
def quickstart(ui: Output, device: str, out: Path | None, dry_run: bool) -> None:
    """Profile, search, export, verify and report on embedded data, in under five minutes.

    Every step is shown as the command that you would type yourself.
    """
    folder = out or runs.next_path("search")
    steps = quickstart_steps(device, folder)
    if dry_run:
        listed = [f"hwnas {shlex.join(argv)}" for argv in steps]
        body = {"run": str(folder), "commands": listed}
        ui.result(schemas.QUICKSTART, body, lambda: click.echo("\n".join(listed)))
        return
    chain(ui, schemas.QUICKSTART, folder, steps)


def quickstart_steps(device: str, run: Path) -> list[list[str]]:
    """The commands of the quick start. The budget is a ratio, so that it fits any machine."""
    where, space = ["--device", device], ["--space", "resnet-cifar"]
    budget = ["--latency-budget", "0.9x:resnet20", "--data", "digits"]
    return [
        ["profile", *where, *space, "--preset", "quick"],
        ["search", *budget, *where, *space, "--preset", "quick", "--max-time", "2min", "--out", str(run)],
        ["export", str(run), "--format", "onnx"],
        ["verify", "ENGINE"],
        ["report", str(run)],
    ]
