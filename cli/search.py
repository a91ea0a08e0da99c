"""Searching and training: ``search``, ``train``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from hwnas import pixel_scales, schemas, units
from hwnas.units import format_count, format_depths, format_ms, format_seconds

from . import classes, console, options, param_types
from .console import Output, common

IMPORTANCES = param_types.Registered("importances")
BUDGET = "For example 18ms, 18ms@p95, 0.4ms,0.6ms for several, 1.15x:resnet20 or 70%:model for a ratio."


def _limit(name: str, example: str, parse: Callable[[str], float]) -> options.Option:
    kind = param_types.Quantity("limit", parse, as_text=True)
    return click.option(
        f"--max-{name}", type=kind, metavar="N", help=f"Further limit, for example {example}."
    )


LIMITS = [
    _limit("macs", "60MMAC", units.parse_macs),
    _limit("params", "500kparam", units.parse_params),
    _limit("memory", "64MiB", units.parse_bytes),
]


def _assignments(name: str, text: str) -> options.Option:
    return click.option(
        f"--{name}", type=param_types.Assignment(), multiple=True, metavar="NAME=VALUE", help=text
    )


@click.command()
@click.option(
    "--latency-budget",
    type=param_types.LatencyBudget(True),
    multiple=True,
    metavar="TIME",
    help=f"{BUDGET} Once for each --device.",
)
@options.options(
    options.data,
    options.strategy,
    options.space,
    options.model,
    options.weights,
    options.open_setting,
    options.table,
    options.insist,
    options.input_shape,
    LIMITS,
    options.preset,
)
@click.option(
    "--trainer",
    metavar="FUNCTION",
    help="package.module:function that fine-tunes a variant of --model; its code runs.",
)
@click.option(
    "--normalise",
    type=click.Choice(pixel_scales.NAMES),
    default="auto",
    help="Pixels that --model was trained on: zero mean and unit spread, [0, 1], [-1, 1], ImageNet's, "
    "[0, 255]; auto takes those that a run recorded, or on which the model's loss is smallest.",
)
@click.option(
    "--init",
    metavar="RUN|WEIGHTS",
    help="Start networks from this training on other data, as far as their blocks fit.",
)
@click.option("--images", type=param_types.COUNT, metavar="N", help="Training images of the whole search.")
@click.option("--max-trials", type=param_types.COUNT, metavar="N", help="Largest number of networks to try.")
@click.option("--importance", type=IMPORTANCES, help="How stage-wise growth is judged.")
@click.option("--fidelity", type=click.Choice(["paper"]), help="The published form of the strategy.")
@click.option("--measure/--no-measure", default=True, help="Measure each candidate whole before training.")
@click.option("--limit", type=param_types.COUNT, metavar="N", help="Largest number of images to use.")
@_assignments("set", "A further option of the strategy; may be repeated.")
@options.options(options.recipe, options.splits, options.strict)
@click.option("--profile/--no-profile", default=True, help="Measure a quick latency table if none fits.")
@options.options(options.executor, options.jobs)
@options.options(options.seed, options.max_time, options.patience, options.out, options.dry_run, options.wait)
@common
def search(ui: Output, max_time: float | None, **chosen: Any) -> None:
    """Find the most accurate network that keeps a latency budget.

    Candidates over the budget are never trained, and the winner is measured as a whole before it is
    accepted. With --model, the best variant of a trained network of your own is found and fine-tuned. Where
    no latency table of the device fits, a quick one is measured first; `hwnas profile`
    makes a better one. With several devices, one network is found that keeps all budgets, and one for each.
    """
    from hwnas.jobs.resolve.origin import export_command
    from hwnas.jobs.search import SearchOptions
    from hwnas.jobs.search import search as job

    options.paired(chosen)
    if chosen["latency_budget"] is None:
        raise click.UsageError("name a budget: --latency-budget 18ms")
    if chosen["table"] is None and chosen["device"] is None:
        chosen["device"] = "auto"
    chosen["data"] = options.sources(chosen)
    chosen["recipe"] = dict(chosen["recipe"])
    settings = dict(chosen.pop("set"))
    wanted = SearchOptions(**options.given(max_time_s=max_time, settings=settings, **chosen))
    body = job(wanted, ui.emit).as_json()
    ui.result(schemas.SEARCH, body, lambda: _found(body))
    if not chosen["dry_run"]:
        ui.next(export_command(body["run"]))


@click.command()
@options.options(
    options.latency_budget(many=True, text=BUDGET),
    options.strategy,
    options.space,
    options.setting,
    options.table,
    options.insist,
    options.input_shape,
    LIMITS,
    options.out,
    options.dry_run,
)
@common
def plan(ui: Output, **chosen: Any) -> None:
    """Find the best network by an untrained score within the predicted budget.

    Needs no data and no device, only a latency table. Nothing is trained and nothing is measured. For
    the strategies that can choose so; `hwnas strategies show NAME` says whether one can.
    """
    from hwnas.jobs.plan import PlanOptions
    from hwnas.jobs.plan import plan as job

    if chosen["latency_budget"] is None:
        raise click.UsageError("name a budget: --latency-budget 18ms")
    body = job(PlanOptions(**options.given(**chosen)), ui.emit).as_json()
    ui.result(schemas.PLAN, body, lambda: _scored(body))
    if body["run"]:
        ui.next(f"hwnas train {body['run']}/network.json --data DATA")


@click.command()
@click.argument("log", type=click.Path(path_type=Path), metavar="LOG")
@click.option(
    "--strategy",
    type=param_types.Registered("replays"),
    metavar="NAME",
    help="Strategy whose search it logs.",
)
@common
def replay(ui: Output, log: Path, strategy: str | None) -> None:
    """Replay a published search log through our controller; JSON on standard output in any case.

    Nothing is trained, and no table, data or device is needed.
    """
    from hwnas.jobs.replay import ReplayOptions
    from hwnas.jobs.replay import replay as job

    if strategy is None:
        raise click.UsageError("name the log's strategy: --strategy macromicro")
    body = job(ReplayOptions(log, strategy), ui.emit).as_json()
    ui.result(schemas.REPLAY, body, lambda: click.echo(json.dumps(body, indent=2)))


def _found(body: dict[str, Any]) -> None:
    if body.get("dry_run"):
        _planned(body)
        return
    several = body.get("targets") or [body]
    rows = []
    for target in several:
        best = target["best"]
        alone = {**target, **best, "device": ""}
        for at, one in enumerate(target.get("devices") or [alone]):
            interval = f"{format_ms(one['low_ms'])} to {format_ms(one['high_ms'])}"
            whole = "all" if len(target.get("devices", ())) > 1 else one["device"]
            rows.append(
                [
                    whole if not at else "",
                    one["device"],
                    one["budget"],
                    format_depths(best["depths"]),
                    f"{best['accuracy']:.2%}",
                    f"{target['accuracy']['test']:.2%}",
                    f"{format_ms(one['predicted_ms'])} ({interval})",
                    format_ms(one["measured"]["median_ms"]),
                    format_ms(one["measured"]["p95_ms"]),
                    "kept" if one["within_budget"] else "broken",
                    format_count(best["macs"], "MAC"),
                    format_count(best["params"], "param"),
                ]
            )
    columns = [
        "for",
        "on",
        "budget",
        "blocks",
        "val accuracy",
        "test accuracy",
        "predicted",
        "p50",
        "p95",
        "promise",
    ]
    columns += ["MACs", "params"]
    console.table(columns, rows)
    took, figures = body["seconds"], classes.of(body, "test")
    console.facts(
        [
            (
                "test accuracy",
                f"{body['accuracy']['test']:.2%} +- {body['accuracy_se']['test']:.2%} (read once)",
            ),
            *(classes.facts(figures) if figures else []),
            ("on", body["conditions"]),
            (
                "tried",
                f"{body['trials']} networks, trained {body['trained']} on {body['images']:,} images",
            ),
            (
                "took",
                f"{format_seconds(took['total'])}: training {format_seconds(took['training'])}, "
                f"measuring {format_seconds(took['measuring'])}",
            ),
            ("weights", body.get("began_from")),
            ("ended", body["stopped"]),
            ("run", body["run"]),
        ]
    )


def _scored(body: dict[str, Any]) -> None:
    """A plan by an untrained score, the published networks beside it."""
    several = body.get("targets") or [body]
    rows = [(f"best within {one['budget']}", one["best"]) for one in several]
    rows += [(f"upper bound within {one['budget']}", one["sure"]) for one in several if one["sure"]]
    rows += [(row["network"], row) for row in body["published"]]
    columns = ["network", "blocks", "predicted", "interval", "score", "MACs", "params"]
    shown = [
        [
            name,
            format_depths(row["depths"]),
            format_ms(row["predicted_ms"]),
            f"{format_ms(row['low_ms'])} to {format_ms(row['high_ms'])}",
            f"{row['score']:.0f}",
            format_count(row["macs"], "MAC"),
            format_count(row["params"], "param"),
        ]
        for name, row in rows
    ]
    console.table(columns, shown)
    console.facts(
        [
            ("note", body["note"]),
            (
                "score",
                "entropy of an untrained network in nats; larger is deeper and wider, not more accurate",
            ),
            ("out of", f"{body['members']:.2g} networks of {body['space']}"),
            ("on", body["conditions"]),
            ("table", body["table"]),
            ("took", format_seconds(body["seconds"]["total"])),
        ]
    )


def _planned(body: dict[str, Any]) -> None:
    console.facts(
        [
            ("would search", f"{body['strategy']} for {'; '.join(body['budgets'])}"),
            ("on", body.get("conditions")),
            ("table", body["table"]),
            ("data", body["data"]),
            (
                "training",
                f"{body['images']:,} images, {body['epochs']:.3g} epochs, in all"
                if "images" in body
                else None,
            ),
            ("about", format_seconds(body["seconds"])),
            ("notes", "; ".join(body["notes"])),
            ("into", body["run"]),
        ]
    )


@click.command()
@click.argument("network", metavar="RUN|NETWORK")
@options.data
@click.option("--epochs", type=param_types.Number(0, 1e9, min_open=True), metavar="N", help="[default: 20]")
@click.option(
    "--init",
    metavar="RUN|WEIGHTS",
    help="Start from this training of the same network on other data; the classifier is new.",
)
@click.option("--distill", metavar="RUN", help="Distil from this trained run.")
@click.option("--ema", is_flag=True, help="Keep a moving average of the weights.")
@click.option("--scratch", is_flag=True, help="Start from new weights.")
@click.option("--limit", type=param_types.COUNT, metavar="N", help="Largest number of images to use.")
@options.options(options.recipe, options.splits, options.strict, options.own_function)
@options.options(options.jobs, options.seed, options.out, options.dry_run, options.wait)
@common
def train(ui: Output, scratch: bool, **chosen: Any) -> None:
    """Train a found or given network; the test split is read once, at the end.

    RUN|NETWORK is a run (training continues from its weights, with its data and splits), a
    network.json or an example's name.
    """
    from hwnas.jobs.resolve.origin import export_command
    from hwnas.jobs.train import Beside
    from hwnas.jobs.train import train as job
    from hwnas.jobs.train_options import TrainOptions

    data = options.sources(chosen)
    chosen["recipe"] = dict(chosen["recipe"])
    start = "scratch" if scratch else "weights"
    found = job(TrainOptions(**options.given(data=data, start=start, **chosen)), ui.emit)
    if isinstance(found, Beside):  # the first process tells
        return
    body = found.as_json()
    ui.result(schemas.TRAIN, body, lambda: _trained(body))
    if not chosen["dry_run"]:
        ui.next(export_command(body["run"]))


def _trained(body: dict[str, Any]) -> None:
    if body.get("dry_run"):
        console.facts(
            [
                (
                    "would train",
                    f"{body['images']:,} images in {body['steps']:,} steps, {body['epochs']:g} epochs",
                ),
                ("on", body["data"]),
                ("from", body["starts_from"]),
                ("cost", format_count(body["train_macs"], "MAC")),
                *(("note", note) for note in body["notes"]),
                ("into", body["run"]),
            ]
        )
        return
    se, figures = body["accuracy_se"], classes.of(body, "test")
    console.facts(
        [
            ("run", body["run"]),
            ("validation", f"{body['accuracy']['val']:.2%} +- {se['val']:.2%}"),
            ("test", f"{body['accuracy']['test']:.2%} +- {se['test']:.2%} (read once)"),
            *(classes.facts(figures) if figures else []),
            ("took", f"{format_seconds(body['seconds'])}, {body['images_per_s']:.0f} images/s"),
        ]
    )
    if figures:
        classes.table(figures, "Test images by class")
