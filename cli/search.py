"""Searching and training: ``search``, ``train``."""

from __future__ import annotations

from typing import Any

import click

from hwnas.units import format_count, format_seconds

from . import console, options
from .console import Output, common


@click.command()
@click.argument("network", metavar="RUN|NETWORK")
@options.data
@click.option("--epochs", type=click.FloatRange(min=0, min_open=True), metavar="N", help="[default: 20]")
@click.option("--distill", metavar="RUN", help="Learn from this trained run as well.")
@click.option("--ema", is_flag=True, help="Keep a moving average of the weights.")
@click.option("--scratch", is_flag=True, help="Do not start from the run's weights.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Use at most so many images.")
@options.options(options.seed, options.out, options.dry_run)
@common
def train(ui: Output, data: str | None, scratch: bool, **chosen: Any) -> None:
    """Train a found or given network; the test split is read once, at the end.

    RUN|NETWORK is a run (training goes on from its weights), a network.json or an example's name.
    """
    from hwnas.jobs.train import TrainOptions
    from hwnas.jobs.train import train as job

    if data is None:
        raise click.UsageError("name the data set: --data digits, folder:PATH, parquet:PATH, npz:PATH, ...")
    start = "scratch" if scratch else "weights"
    body = job(TrainOptions(**options.given(data=data, start=start, **chosen)), ui.emit)
    ui.result("hwnas.train/1", body, lambda: _trained(body))
    if not chosen["dry_run"]:
        ui.next(f"hwnas export {body['run']} --format onnx")


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
                ("into", body["run"]),
            ]
        )
        return
    se = body["accuracy_se"]
    console.facts(
        [
            ("run", body["run"]),
            ("validation", f"{body['accuracy']['val']:.2%} +- {se['val']:.2%}"),
            ("test", f"{body['accuracy']['test']:.2%} +- {se['test']:.2%} (read once)"),
            ("took", f"{format_seconds(body['seconds'])}, {body['images_per_s']:.0f} images/s"),
        ]
    )
