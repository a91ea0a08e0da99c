"""Several commands in a row: ``run`` for a pipeline file, and ``init``, which writes one.

Each step is a command that a user could type; it is shown as such and run in this process.
"""

from __future__ import annotations

import io
import json
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from hwnas import budgets, runs, schemas
from hwnas.errors import DataFormatError, InputError
from hwnas.nets import spaces
from hwnas.plugins import names, unknown
from hwnas.store import write_text
from hwnas.units import format_seconds

from . import config, options, param_types
from .console import Output, brief, chained, common

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

profile:                 # input and space are those of the search where they are left out
  preset: quick          # quick, default or thorough

search:
  latency-budget: {budget}   # 0.6ms, 0.6ms@p95, 0.4ms,0.6ms for several, or a ratio to a network
  data: {data}
                         # digits, folder:PATH, parquet:PATH, npz:PATH, cifar10:PATH or module:function
  input: {shape}       # channels, height and width that images are resized to
  space: {space}      # `hwnas spaces`; {why}
  strategy: auto         # `hwnas strategies`
  preset: quick          # quick, default or thorough: how much is trained
  # max-params: 500kparam
  max-time: 10min        # the best network so far is trained out in time

# train:                 # more training of the winner than the search gave
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


# Shows the main result of a step: its verb and what it gave.
Tell = Callable[[str, "Done"], None]


def step(ui: Output, argv: Sequence[str], tell: Tell | None = None) -> Done:
    """Show a command as typed and run it here.

    Args:
        ui: of the command that runs the chain; with ``--json`` results are kept and not printed.
        argv: the command without ``hwnas``.
        tell: shows the result in place of the command's own output and log.
    """
    from .main import cli

    command = f"hwnas {shlex.join(argv)}"
    if not ui.as_json:
        click.secho(f"\n$ {command}", bold=True)
    else:
        ui.log(f"$ {command}")
    start, caught = time.monotonic(), io.StringIO()
    if ui.as_json or tell is not None:
        words = ["-v"] if ui.level > 0 else ["-q"] if ui.level < 0 else []
        with redirect_stdout(caught), brief(tell is not None and ui.level < 1):
            status = cli(args=[*argv, "--json", *words], prog_name="hwnas", standalone_mode=False)
    else:
        with chained():
            status = cli(args=list(argv), prog_name="hwnas", standalone_mode=False)
    body = json.loads(caught.getvalue()) if caught.getvalue() else None
    done = Done(command, status if isinstance(status, int) else 0, time.monotonic() - start, body)
    if tell is not None and not ui.as_json:
        tell(argv[0], done)
    return done


def chain(
    ui: Output,
    schema: str,
    run: Path,
    steps: Sequence[Sequence[str]],
    *,
    tell: Tell | None = None,
    summary: Callable[[Path, Sequence[Done]], None] | None = None,
) -> None:
    """Run steps one after another into one run folder; the first that fails ends the chain.

    An argument ``ENGINE`` stands for the engine that the export has written by then. `tell` shows the result
    of each step (see `step`), `summary` that of a chain without a failure; by default its files are listed.
    """
    start, done = time.monotonic(), []
    for argv in steps:
        done.append(step(ui, [str(_engine(run)) if arg == "ENGINE" else arg for arg in argv], tell))
        if done[-1].status:
            break
    status, seconds = done[-1].status, time.monotonic() - start
    body = {
        "run": str(run),
        "passed": status == 0,
        "seconds": seconds,
        "steps": [d.__dict__ for d in done],
    }

    def show() -> None:
        if status:
            click.echo(f"\nstopped: {done[-1].command} ended with exit status {status}")
        elif summary is not None:
            summary(run, done)
        else:
            _files(run, seconds)

    ui.result(schema, body, show)
    if status:
        click.get_current_context().exit(status)


def _engine(run: Path) -> Path:
    """The newest engine under a run folder."""
    manifests = sorted(run.rglob("*.manifest.json"), key=lambda p: p.stat().st_mtime)
    if not manifests:
        raise InputError(f"{run} holds no engine; `hwnas export {run}` writes one")
    return manifests[-1].with_name(manifests[-1].name.removesuffix(".manifest.json"))


def _files(run: Path, seconds: float) -> None:
    """The files that a chain has made."""
    click.echo(f"\ndone in {format_seconds(seconds)}; everything is in {run}/:")
    for path in sorted(p for p in run.rglob("*") if p.is_file() and p.parent.name != "weights"):
        click.echo(f"  {path.relative_to(run)}")


@click.command()
@click.argument("file", type=click.Path(path_type=Path), default="hwnas.yaml")
@options.data
@click.option("--force", is_flag=True, help="Overwrite an existing file.")
@common
def init(ui: Output, file: Path, data: str | None, force: bool) -> None:
    """Write a commented pipeline file to start from.  [default: hwnas.yaml]

    Without --data, class folders of images here or in a folder here are taken, else the embedded digits.
    Input, space and budget are chosen by the size of the images.
    """
    from hwnas.jobs import start

    if file.suffix not in (".yaml", ".yml"):
        raise click.BadParameter(f"{file} must end in .yaml")
    if file.exists() and not force:
        raise click.UsageError(f"{file} exists already; add --force to overwrite it")
    known = ", ".join(names("formats"))
    found = start.look(data)
    for note in found.notes:
        ui.log(note)
    text = TEMPLATE.format(
        name=file.name,
        run=json.dumps(str(runs.RUNS / file.stem)),
        formats=known,
        data=json.dumps(found.data),  # quoted, whatever is in a path
        shape="x".join(map(str, found.shape)),
        space=found.space,
        budget=found.budget,
        why=found.why,
    )
    write_text(file, text)
    body = {"path": str(file), "data": found.data, "input": list(found.shape), "space": found.space}
    ui.result(schemas.INIT, body, lambda: click.echo(str(file)))
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
        "profile": [*_of_the_search(body), "--out", str(table)] if "profile" in chosen else [],
        "search": [*(["--table", str(table)] if "profile" in chosen else []), "--out", str(folder)],
        "train": [str(folder), "--out", str(trained)],
        "export": [str(last)],
        "verify": ["ENGINE"],
        "report": [str(last)],
    }
    return last, [[verb, *words[verb], "--config", str(file)] for verb in chosen]


def _of_the_search(body: Mapping[str, Any]) -> list[str]:
    """Input and space of the search as options of the profile, where its own section has none.

    A table of other images or another space would be of no use to the search that follows. Where all families
    of networks compete in that, it is one near its budget.
    """
    from hwnas.jobs import start
    from hwnas.nets import families

    def given(verb: str) -> dict[str, Any]:
        sections = (body.get(config.COMMON) or {}, body.get(verb) or {})
        return {config.spell(key): value for section in sections for key, value in section.items()}

    search, profile = given("search"), given("profile")
    if "search" not in body:
        return []
    shape, space = search.get("input"), search.get("space")
    if shape is None:
        shape = "x".join(map(str, start.look(str(search.get("data") or "digits")).shape))
    wanted = {"input": shape, "space": space}
    if space in (None, families.NAME) and "space" not in profile:
        budget_ms = _raced(search)
        wanted["space"] = space or spaces.advised(param_types.parse_shape(str(shape)))
        if budget_ms is not None:
            wanted |= {"space": families.NAME, "latency-budget": budgets.written_ms(budget_ms)}
    return [
        word for name, value in wanted.items() if name not in profile for word in (f"--{name}", str(value))
    ]


def _raced(search: Mapping[str, Any]) -> float | None:
    """The latency near which all families of networks compete in a search without a space, if they do."""
    from hwnas.jobs.search import first_table
    from hwnas.jobs.search.options import FAMILIES, STRATEGY

    text, strategy = search.get("latency-budget"), search.get("strategy", STRATEGY)
    if strategy not in (STRATEGY, FAMILIES) or not isinstance(text, str):
        return None
    return first_table.near_ms(text)
