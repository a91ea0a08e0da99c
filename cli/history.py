"""``hwnas runs``: what was done before."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from hwnas import schemas
from hwnas.units import format_count, format_ms

from . import console, options
from .console import Output, common


@click.group()
def runs() -> None:
    """List, show, compare and remove runs.

    A RUN is a folder, a name under runs/, or `latest`.
    """


@runs.command("list")
@common
def list_(ui: Output) -> None:
    """Every run under runs/, oldest first."""
    from hwnas.jobs.runs import history

    body = history().as_json()
    ui.result(schemas.RUNS, body, lambda: _table(body["runs"], body["root"]))


@runs.command()
@click.argument("run", required=False)
@common
def show(ui: Output, run: str | None) -> None:
    """One run: figures, configuration, files.  [default: the newest]"""
    from hwnas.jobs.runs import show as job

    body = job(run).as_json()
    ui.result("hwnas.runs.show/1", body, lambda: _show(body))


@runs.command()
@click.argument("names", nargs=-1, required=True, metavar="RUN RUN...")
@common
def compare(ui: Output, names: tuple[str, ...]) -> None:
    """Runs side by side, with the settings in which they differ."""
    from hwnas.jobs.runs import compare as job

    body = job(names).as_json()

    def show() -> None:
        _table(body["runs"], "")
        columns = ["setting", *(r["name"] for r in body["runs"])]
        console.table(columns, [[key, *values] for key, values in body["differences"].items()])

    ui.result("hwnas.runs.compare/1", body, show)


@runs.command()
@click.argument("names", nargs=-1, required=True, metavar="RUN...")
@options.options(options.dry_run, options.wait)
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@common
def rm(ui: Output, names: tuple[str, ...], dry_run: bool, yes: bool) -> None:
    """Delete run folders."""
    from hwnas.jobs.runs import remove

    found = remove(names, dry_run=True).removed
    if not (yes or dry_run):
        if ui.as_json or not sys.stdin.isatty():
            raise click.UsageError(f"this would delete {', '.join(found)}; add --yes to do so")
        click.confirm(f"Delete {', '.join(found)}?", abort=True, err=True)
    body = remove(names, dry_run=dry_run).as_json()
    verb = "would delete" if dry_run else "deleted"
    ui.result("hwnas.runs.rm/1", body, lambda: click.echo(f"{verb} {', '.join(body['removed'])}"))


def _table(listed: list[dict[str, Any]], root: str) -> None:
    if not listed:
        click.echo(f"no runs in {root}/ yet; `hwnas quickstart` makes one")
        return
    columns = ["run", "date", "what", "on", "budget ms", "ms", "val %", "test %", "state"]
    console.table(
        columns,
        [
            [
                r["name"],
                console.when(r["created"]),
                _what(r),
                " ".join(filter(None, (r["device"], r["precision"]))),
                _figure(r["budget_ms"], 3),
                _figure(r["latency_ms"], 3),
                _figure(r["accuracy"] and 100 * r["accuracy"], 1),
                _figure(r["test_accuracy"] and 100 * r["test_accuracy"], 1),
                "" if r["state"] == "done" else r["state"],
            ]
            for r in listed
        ],
    )


def _what(run: dict[str, Any]) -> str:
    """Data, space and strategy of a search; data and network of a training. Folders by their names."""
    scheme, colon, place = (run["data"] or "").partition(":")
    data = f"{scheme}:{Path(place).name}" if colon and ";" not in place else run["data"]
    names = [run["space"], run["strategy"]] if run["strategy"] else [run["network"]]
    return " ".join(filter(None, [data, *names]))


def _figure(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _show(body: dict[str, Any]) -> None:
    console.facts(
        [
            ("run", body["path"]),
            ("state", body["state"]),
            ("created", body["created"]),
            ("data", body["data"]),
            ("space", body["space"]),
            ("strategy", body["strategy"]),
            ("network", body["network"]),
            ("val accuracy", console.percent(body["accuracy"])),
            ("test accuracy", console.percent(body["test_accuracy"])),
            ("latency", _ms(body["latency_ms"])),
            ("budget", _ms(body["budget_ms"])),
            ("MACs", "" if body["macs"] is None else format_count(body["macs"], "MAC")),
            ("trials", body["trials"]),
            ("trained at", ", ".join(f"{place} ({number})" for place, number in body["where"].items())),
            ("running", "; ".join(f"{task}: {place}" for task, place in body["running"].items())),
            ("engines", ", ".join(body["engines"])),
            ("note", body["note"]),
            *((f"  {key}", value) for key, value in body["config"].items()),
        ]
    )
    console.table(["file", "bytes"], [[f["path"], f["bytes"]] for f in body["files"]])


def _ms(value: float | None) -> str:
    return "" if value is None else format_ms(value)
