"""``hwnas table``: look at, check, compare and share latency tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from hwnas.units import format_ms

from . import console, options, param_types
from .console import Output, common

FILE = click.Path(path_type=Path)


@click.group()
def table() -> None:
    """Show, check, compare and share latency tables (*.hwlat.jsonl).

    Where no FILE is given, the newest finished table is meant.
    """


@table.command("list")
@common
def list_(ui: Output) -> None:
    """Every table in the user's data folder, newest first."""
    from hwnas.jobs.table import listed

    body = listed().as_json()

    def show() -> None:
        rows = [
            [
                console.when(t["created"]),
                t["space"] or "all blocks",
                t["input"] and "x".join(map(str, t["input"])),
                t["classes"],
                "any" if t["near_ms"] is None else format_ms(t["near_ms"]),
                t["conditions"],
                "" if t["error_percent"] is None else f"{t['error_percent']:.1f} %",
                "" if t["finished"] else "incomplete",
            ]
            for t in body["tables"]
        ]
        if not rows:
            console.say(f"no tables in {body['folder']} yet; `hwnas profile` makes one")
        else:
            columns = ["date", "space", "input", "classes", "budget", "conditions", "error", "state"]
            console.table(columns, rows, below=[t["path"] for t in body["tables"]])
        for bad in body["damaged"]:
            console.say(f"skipped: {bad['note']}")

    ui.result("hwnas.table.list/1", body, show)


@table.command()
@click.argument("file", type=FILE, required=False)
@common
def show(ui: Output, file: Path | None) -> None:
    """Conditions, rows and figures of a table."""
    from hwnas.jobs.table import show as job

    body = job(file).as_json()
    _warn(ui, body)
    ui.result("hwnas.table.show/1", body, lambda: _show(body))


def _warn(ui: Output, body: dict[str, Any]) -> None:
    for warning in body["warnings"]:
        ui.warn(warning)


def _show(body: dict[str, Any]) -> None:
    held = body.get("holdout")
    error = held and f"{held['mape_percent']:.2f} % on {held.get('networks', 'some')} unseen networks"
    console.facts(
        [
            ("table", body["path"]),
            ("id", body["table_id"]),
            ("state", None if body["complete"] else "incomplete: the end row is missing"),
            ("conditions", body["conditions"]),
            ("space", body["space"]),
            ("input", body["input"] and "x".join(map(str, body["input"]))),
            ("budget", "any" if body["near_ms"] is None else f"near {format_ms(body['near_ms'])}"),
            ("created", body["created"]),
            ("source", body["source"]),
            ("networks", ", ".join(f"{n} for {role}" for role, n in body["networks"].items())),
            ("error", error),
        ]
    )
    click.echo()
    rows = [
        [
            b["key"],
            format_ms(b["value_ms"]),
            format_ms(b["se_ms"]) if b["se_ms"] else "",
            ", ".join(b["gates"]),
        ]
        for b in body["blocks"]
    ]
    console.table(["block", "latency", "standard error", "gates"], rows)


@table.command()
@click.argument("file", type=FILE, required=False)
@options.seed
@common
def validate(ui: Output, file: Path | None, seed: int | None) -> None:
    """Is a table still true for this machine? Measures its sentinels again; exit 6 when it is not."""
    from hwnas.jobs.table import validate as job

    body = job(file, ui.emit, **options.given(seed=seed)).as_json()

    def show() -> None:
        click.echo(f"{body['verdict']}: {body['path']}")
        console.verdicts(body["checks"])

    for warning in body["warnings"]:
        ui.warn(warning)
    ui.result("hwnas.table.validate/1", body, show)


@table.command()
@click.argument("a", type=FILE)
@click.argument("b", type=FILE)
@common
def diff(ui: Output, a: Path, b: Path) -> None:
    """Compare two tables: same, slower, faster or different."""
    from hwnas.jobs.table import diff as job

    body = job(a, b).as_json()

    def flat(value: object) -> object:
        return f"{value:.4g}" if isinstance(value, float) else value

    pairs = [
        (k.replace("_", " "), flat(v)) for k, v in body.items() if not isinstance(v, (list, dict, tuple))
    ]
    ui.result("hwnas.table.diff/1", body, lambda: console.facts(pairs))


@table.command()
@click.argument("files", nargs=-1, required=True, type=FILE, metavar="FILE FILE...")
@options.out
@common
def merge(ui: Output, files: tuple[Path, ...], out: Path | None) -> None:
    """Join tables that were taken under the same conditions."""
    from hwnas.jobs.table import merge as job

    body = job(files, out).as_json()
    _warn(ui, body)
    ui.result("hwnas.table.merge/1", body, lambda: click.echo(body["table"]))


@table.command()
@click.argument("out", type=FILE)
@options.table
@common
def export(ui: Output, out: Path, table: Path | None) -> None:
    """Copy a checked table to the file OUT, to share it."""
    from hwnas.jobs.table import export as job

    body = job(out, table).as_json()
    _warn(ui, body)
    ui.result("hwnas.table.export/1", body, lambda: click.echo(body["table"]))


@table.command("import")
@click.argument("file", type=FILE)
@click.option(
    "--format",
    "fmt",
    type=param_types.Registered("importers", also=("hwlat",)),
    default="hwlat",
    show_default=True,
    help="hwlat: a table of hwnas; else a published table of another project.",
)
@options.options(options.device, options.batch, options.precision, options.out)
@common
def import_(ui: Output, file: Path, **chosen: Any) -> None:
    """Take a table from another machine, or a published one, into the user's data folder."""
    from hwnas.jobs.table import import_ as job

    body = job(file, **options.given(**chosen)).as_json()
    _warn(ui, body)
    left_out = body["not_imported"]
    for name in left_out:
        ui.log(f"not imported: {name}", level=1)
    count = f"{len(left_out)} entries without a matching block (-v lists them)" if left_out else None
    pairs = [
        ("table", body["table"]),
        ("rows", body["rows"]),
        ("left out", count),
        ("of", body["conditions"]),
    ]
    ui.result("hwnas.table.import/1", body, lambda: console.facts(pairs))
    ui.next(f"hwnas table show {body['table']}")
