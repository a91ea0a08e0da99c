"""``quickstart``: the whole chain on built-in data, told in a line for each step and a short summary."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from hwnas import runs, schemas
from hwnas.report.phrases import unused
from hwnas.units import format_count, format_depths, format_ms, format_seconds

from . import console, options
from .chain import Done, chain
from .console import Output, common

# Some network of every family of small images keeps it on a machine of the last ten years.
BUDGET = "0.5ms"
# Characters of the bar that shows how much of the budget is used.
BAR = 30


@click.command()
@click.option("--device", metavar="NAME", default="cpu", show_default=True, help="Device to run on.")
@options.options(
    options.latency_budget(many=False, text=f"Longest time of one call.  [default: {BUDGET}]"),
    options.out,
    options.dry_run,
)
@common
def quickstart(ui: Output, device: str, latency_budget: str | None, out: Path | None, dry_run: bool) -> None:
    """Profile, search, export, verify and report on built-in data, in about five minutes.

    Every step is shown as the command that you would type yourself, with its main result; -v shows all that
    the commands say.
    """
    from hwnas.measure import device as devices

    devices.resolve(device)  # a name that is none is refused before a plan is shown
    folder = out or runs.next_path("search")
    steps = quickstart_steps(device, latency_budget or BUDGET, folder)
    if dry_run:
        listed = [f"hwnas {shlex.join(argv)}" for argv in steps]
        body = {"run": str(folder), "commands": listed}
        ui.result(schemas.QUICKSTART, body, lambda: click.echo("\n".join(listed)))
        return
    chain(ui, schemas.QUICKSTART, folder, steps, tell=_tell, summary=_summary)
    ui.next(f"hwnas search --latency-budget {latency_budget or BUDGET} --data folder:IMAGES")


def quickstart_steps(device: str, budget: str, run: Path) -> list[list[str]]:
    """The commands of the quick start, in the space of all families of networks.

    On this machine's CPU in the fastest runtime and precision; elsewhere engines take minutes to build.
    """
    where, quick = ["--device", device, "--latency-budget", budget], ["--preset", "quick"]
    fastest = ["--backend", "auto", "--precision", "auto"] if device == "cpu" else []
    return [
        ["profile", *where, *fastest, *quick],
        ["search", *where, "--data", "digits", *quick, "--max-time", "2min", "--out", str(run)],
        ["export", str(run), "--format", "onnx"],
        ["verify", "ENGINE"],
        ["report", str(run)],
    ]


def _profiled(body: Mapping[str, Any]) -> str:
    held = body.get("holdout")
    error = f"; predictions are {held['mape_percent']:.1f} % off on other networks" if held else ""
    return f"measured {body['rows']} blocks and {body['probes']} networks{error}"


def _searched(body: Mapping[str, Any]) -> str:
    found = f"found {format_depths(body['best']['depths'])} (blocks per stage)"
    return f"{found} in {format_seconds(body['seconds']['total'])}; {body['trained']} networks were trained"


def _verified(body: Mapping[str, Any]) -> str:
    passed = sum(check["passed"] for check in body["checks"])
    return f"{passed} of {len(body['checks'])} checks passed"


_LINES: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "profile": _profiled,
    "search": _searched,
    "export": lambda body: f"wrote {body['engine']} ({body['bytes'] / 1024:.0f} KiB)",
    "verify": _verified,
    "report": lambda body: f"wrote {body['path']}",
}


def _tell(verb: str, done: Done) -> None:
    """The main result of a step, in a line."""
    if done.result is not None and done.status == 0:
        console.say(f"  {_LINES[verb](done.result)}", "  ")


def _summary(run: Path, done: Sequence[Done]) -> None:
    """What was found, how fast and how accurate it is, and where everything is."""
    _, search, export, verify, report = (step.result or {} for step in done)
    best, promise = search["best"], search["promise"]
    value_ms, limit_ms = best["measured"]["median_ms"], promise["budget_ms"]
    counts = f"{format_count(best['macs'], 'MAC')}, {format_count(best['params'], 'param')}"
    sessions = len(promise["session_ms"])
    click.echo()
    console.facts(
        [
            ("network", f"{format_depths(best['depths'])} (blocks per stage), {counts}"),
            ("latency", f"{format_ms(value_ms)} of {format_ms(limit_ms)}  {bar(value_ms / limit_ms)}"),
            *([("", why)] if (why := unused(value_ms / limit_ms, search["stopped"])) else []),
            ("", f"within the budget in {sessions - promise['misses']} of {sessions} sessions"),
            ("accuracy", f"{100 * search['accuracy']['test']:.1f} % on the test images"),
            ("engine", f"{export['engine']}, {_verified(verify)}"),
            ("report", report["path"]),
            ("took", format_seconds(sum(step.seconds for step in done))),
        ]
    )


def bar(share: float) -> str:
    """``[##########----] 67 %``: how much of a budget is used; full where more than all of it is."""
    filled = min(round(BAR * share), BAR)
    return f"[{'#' * filled}{'-' * (BAR - filled)}] {100 * share:.0f} %"
