"""Measuring and predicting: ``profile``, ``predict``, ``bench``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click

from hwnas import budgets, schemas
from hwnas.units import format_count, format_ms, format_seconds

from . import console, options
from .console import Output, common


@click.command()
@options.options(options.open_setting, options.space, options.model, options.weights, options.input_shape)
@click.option("--classes", type=click.IntRange(2, 1_000_000), metavar="N", help="Number of classes.")
@options.latency_budget(
    many=False, text="Of all families of networks (space auto) only what matters near this latency."
)
@options.preset
@click.option(
    "--only-missing", is_flag=True, help="Measure what a table lacks, and more of what repeats worst."
)
@click.option("--estimate", is_flag=True, help="Estimate from the device's description, without measuring.")
@options.options(options.dla, options.sustained)
@options.options(options.seed, options.out, options.max_time, options.patience, options.dry_run, options.wait)
@common
def profile(ui: Output, max_time: float | None, latency_budget: str | None, **chosen: Any) -> None:
    """Measure a device into a latency table, and say how well it predicts.

    A table that was interrupted is continued by the same command. Several devices get a table each, those of
    different machines at the same time.
    """
    from hwnas.jobs.profile import ProfileOptions, profile_each
    from hwnas.jobs.profile import profile as job

    devices = chosen.pop("devices")
    chosen["device"] = devices[0] if devices else None
    near_ms = None if latency_budget is None else budgets.parse_latency(latency_budget)[0]
    wanted = ProfileOptions(**options.given(max_time_s=max_time, near_ms=near_ms, **chosen))
    if len(devices) > 1:
        several = profile_each(devices, wanted, ui.emit).as_json()
        ui.result(schemas.PROFILE, several, lambda: _profiled_each(several["profiles"]))
        return
    body = job(wanted, ui.emit).as_json()
    ui.result(schemas.PROFILE, body, lambda: _profiled(body))
    if not chosen["dry_run"]:
        ui.next(_after_profile(body, chosen["input_shape"]))


def _after_profile(body: dict[str, Any], shape: tuple[int, int, int] | None) -> str:
    """A command that uses the table: a search where its winner can be measured, else a prediction."""
    from hwnas.jobs import start
    from hwnas.nets import families, spaces

    setting, space = body["setting"], body["space"]
    if body["model"] is not None:
        where = f"--model {shlex.quote(body['model'])} --table {shlex.quote(body['table'])}"
        return f"hwnas search {where} --latency-budget 70%:model --data folder:PATH"
    if setting["provenance"] != "measured":
        return _without_measuring(space, shlex.quote(body["table"]))
    own_shape = spaces.make(space).smallest().input_shape
    size = shape or own_shape
    data = start.find(Path())  # images that lie here are what the user has in mind
    if data == "digits" and size[1] > spaces.LARGEST_SMALL_SIDE:
        data = "folder:PATH"
    if size[0] not in (1, 3):  # which no image file has
        data = "npz:PATH"
    far = f" --device {shlex.quote(setting['device'])}" if "://" in setting["device"] else ""
    where = f"{far} --table {shlex.quote(body['table'])}"  # which holds all conditions
    if shape is not None or data != "digits":
        where += " --input " + "x".join(map(str, size))
    usual = space.startswith("resnet-cifar") and size == (3, 32, 32)  # resnet20 is of these
    budget = "1x:resnet20" if usual else "1ms" if space == families.NAME else "2x:smallest"
    if body.get("near_ms") is not None:  # which serves no other
        budget = budgets.written_ms(body["near_ms"])
    return f"hwnas search --latency-budget {budget} --data {shlex.quote(data)} --space {space}{where}"


def _without_measuring(space: str, table: str) -> str:
    """A command that uses a planning table."""
    if space.startswith("resnet-cifar"):
        return f"hwnas predict resnet20 --table {table}"
    if space.startswith("densenas"):
        return f"hwnas plan --latency-budget 2x:smallest --space {space} --table {table}"
    if space in ("mbv2-cifar", "mbv2-imagenet", "convnext-cifar"):
        return f"hwnas plan --latency-budget 2x:smallest --strategy hournas --space {space} --table {table}"
    return f"hwnas table show {table}"


def _profiled(body: dict[str, Any]) -> None:
    if body.get("dry_run"):
        _planned(body)
        return
    held = body.get("holdout")
    error = held and (
        f"{held['mape_percent']:.2f} % off on {held['networks']} unseen networks "
        f"({held['repeat_mape_percent']:.2f} % between two measurements of the same one), "
        f"{held['within_5_percent']:.0f} % within 5 %"
    )
    inside = (
        held and f"contains {held['coverage_percent']:.0f} % of them; Kendall tau {held['kendall_tau']:.3f}"
    )
    console.facts(
        [
            ("table", body["table"]),
            ("state", None if body["complete"] else "unfinished; repeat the command to continue"),
            ("device", _conditions(body["setting"])),
            ("space", body["space"]),
            ("measured", f"{body['rows']} blocks, {body['probes']} whole networks for fitting"),
            ("failures", "; ".join(f["error"] for f in body["failures"])),
            ("took", f"{body['measurements']} measurements in {format_seconds(body['seconds'])}"),
            ("error", error),
            ("interval", inside),
            ("gates", ", ".join(f"{name}: {n}" for name, n in body["gates"].items())),
        ]
    )


def _profiled_each(bodies: list[dict[str, Any]]) -> None:
    for number, body in enumerate(bodies):
        if number:
            click.echo()
        _profiled(body)


def _planned(body: dict[str, Any]) -> None:
    networks = ", ".join(f"{n} for {role}" for role, n in body.get("networks", {}).items())
    console.facts(
        [
            ("would write", body["table"]),
            ("blocks", f"{body['blocks']}, {body.get('missing', body['blocks'])} of them missing"),
            ("networks", networks),
            ("measurements", body["measurements"]),
            ("about", format_seconds(body["seconds"])),
        ]
    )


def _conditions(setting: dict[str, Any]) -> str:
    from hwnas.records import Setting

    return Setting(**setting).describe()


@click.command()
@click.argument("networks", nargs=-1, required=True, metavar="NETWORK...")
@options.options(options.table, options.insist, options.setting, options.own_function)
@common
def predict(ui: Output, networks: tuple[str, ...], **chosen: Any) -> None:
    """Predict the latency of networks from a table, with interval and cost by stage.

    NETWORK is a network.json, a run, or the name of a shipped example such as resnet20.
    """
    from hwnas.jobs.predict import PredictOptions
    from hwnas.jobs.predict import predict as job

    if chosen["table"] is None and chosen["device"] is None:
        chosen["device"] = "auto"
    body = job(PredictOptions(networks, **options.given(**chosen))).as_json()
    for warning in body["warnings"]:
        ui.warn(warning)
    ui.result(schemas.PREDICT, body, lambda: _predicted(body))


def _predicted(body: dict[str, Any]) -> None:
    rows = body["networks"]
    console.say(f"{body['conditions']} (table {body['table_id']})")
    click.echo()
    console.table(
        ["network", "latency", "interval", "MACs", "params", "never measured"],
        [
            [
                row["path"],
                format_ms(row["latency_ms"]),
                f"{format_ms(row['low_ms'])} to {format_ms(row['high_ms'])} ({row['coverage']:.0%})",
                format_count(row["macs"], "MAC"),
                format_count(row["params"], "param"),
                f"{len(row['extrapolated'])} blocks" if row["extrapolated"] else "",
            ]
            for row in rows
        ],
    )
    parts = list(dict.fromkeys(part for row in rows for part in row["by_stage_ms"]))
    if parts:
        click.echo("\nms by stage")
        names = [row["path"] for row in rows]
        cells = [
            [f"{row['by_stage_ms'][p]:.4f}" if p in row["by_stage_ms"] else "" for p in parts] for row in rows
        ]
        if len(rows) < len(parts):  # few networks stand side by side
            console.table(["part", *names], [[p, *column] for p, *column in zip(parts, *cells)])
        else:
            console.table(["network", *parts], [[name, *row] for name, row in zip(names, cells)])


@click.command()
@click.argument("networks", nargs=-1, required=True, metavar="NETWORK|ONNX|ENGINE...")
@options.options(options.device, options.gpu, options.backend, options.precision, options.batches)
@options.options(options.threads, options.data, options.preset, options.own_function)
@click.option("--cache", type=click.Choice(["hot", "cold"]), help="Empty the caches before each call?")
@options.options(options.dla, options.streams, options.sustained)
@options.options(options.seed, options.max_time, options.patience, options.dry_run)
@common
def bench(ui: Output, networks: tuple[str, ...], max_time: float | None, **chosen: Any) -> None:
    """Measure networks, ONNX files or engines against each other, interleaved.

    An engine with a manifest runs under the conditions that it was built for.
    """
    from hwnas.jobs.bench import BenchOptions
    from hwnas.jobs.bench import bench as job

    if (batches := chosen.pop("batches")) is not None:
        chosen |= {"batch": batches[0], "batches": batches[1:]}
    body = job(BenchOptions(networks, **options.given(max_time_s=max_time, **chosen)), ui.emit).as_json()
    ui.result(schemas.BENCH, body, lambda: _benched(body))


def _benched(body: dict[str, Any]) -> None:
    if body.get("dry_run"):
        click.echo(f"would time {len(body['networks'])} engines in {body['measurements']} sessions")
        return
    sweep = len({row["setting"]["batch"] for row in body["networks"]}) > 1
    columns = ["network", "floor", "p50", "p10", "p90", "p95", "calls", "against the first", "gates"]
    columns = [columns[0], *(["batch", "images/s"] if sweep else []), *columns[1:]]
    rows: list[list[object]] = []
    for row in body["networks"]:
        within = rows and not row["differs"]
        apart = f"{row['relative']:.3f}x" + (", within the error" if within else "")
        times = (format_ms(row[k]) for k in ("floor_ms", "median_ms", "p10_ms", "p90_ms", "p95_ms"))
        many = [row["setting"]["batch"], f"{row['images_per_s']:,.0f}"] if sweep else []
        rows.append([row["path"], *many, *times, row["samples"], apart, ", ".join(row["gates"])])
    console.table(columns, rows)
    for row in body["networks"]:
        if (many := row["in_streams"]) is not None:
            console.say(
                f"{row['path']}: {many['images_per_s']:,.0f} images/s in {many['streams']} streams, a call "
                f"{format_ms(many['median_ms'])} (p95 {format_ms(many['p95_ms'])}) meanwhile"
            )
    for setting in dict.fromkeys(_conditions(row["setting"]) for row in body["networks"]):
        console.say(f"conditions: {setting}")
    for note in dict.fromkeys(row["note"] for row in body["networks"] if row["note"]):
        console.say(f"note: {note}")
    console.say(f"machine: {_machine(body['machine'])}")


def _machine(state: dict[str, Any]) -> str:
    """What state the machine was in while it measured."""
    waited = f"; waited {state['waited_s']:.0f} s for it" if state["waited_s"] >= 1.0 else ""
    if state["state"] == "unknown":
        return "its state is not known yet; commands that measure record it" + waited
    if state["state"] == "quiet":
        return "quiet" + waited
    return f"slower than its best in {state['slow_share']:.0%} of the time{waited}"
