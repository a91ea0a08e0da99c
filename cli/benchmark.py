"""``benchmark``: one network in everything that works here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from hwnas import schemas
from hwnas.units import format_ms

from . import console, options, param_types
from .console import Output, common


@click.command()
@click.argument("network", metavar="RUN|NETWORK|ONNX")
@options.options(options.data, options.max_loss, options.device, options.own_function)
@click.option("--weights", type=click.Path(path_type=Path), help="Weights, where NETWORK is a file.")
@options.options(options.runtimes, options.precisions, options.batch, options.threads)
@click.option("--images", type=param_types.COUNT, metavar="N", help="Images compared.  [default: 512]")
@options.options(options.preset, options.seed, options.max_time)
@common
def benchmark(ui: Output, network: str, max_time: float | None, **chosen: Any) -> None:
    """One table over all runtimes, formats and precisions that work here.

    Size, latency (timed in turn), accuracy or agreement, parity; the fastest engine is marked, and the
    fastest that loses no more accuracy than --max-loss. int8 is calibrated on training images of --data.
    """
    from hwnas.jobs.benchmark import BenchmarkOptions
    from hwnas.jobs.benchmark import benchmark as job

    body = job(BenchmarkOptions(network, **options.given(max_time_s=max_time, **chosen)), ui.emit).as_json()
    ui.result(schemas.BENCHMARK, body, lambda: _shown(body))


def _shown(body: dict[str, Any]) -> None:
    judged = body["accuracy"] is not None
    columns = ["runtime", "precision", "format", "size", "floor", "p50", "p95"]
    columns += ["accuracy" if judged else "agreement", "parity", ""]
    marks: dict[int, list[str]] = {}
    for key, text in (
        ("fastest", "fastest"),
        ("fastest_within_loss", f"fastest within {body['max_loss']:.2%}"),
    ):
        if body[key] is not None:
            marks.setdefault(body[key], []).append(text)
    rows: list[list[object]] = []
    for at, line in enumerate(body["engines"]):
        times = [
            format_ms(line[k]) if line[k] is not None else "" for k in ("floor_ms", "median_ms", "p95_ms")
        ]
        share = line["accuracy"] if judged else line["top1_agreement"]
        rows.append(
            [
                line["backend"],
                line["precision"] + (f" ({line['form']})" if line["form"] else ""),
                line["format"],
                "" if line["bytes"] is None else f"{line['bytes'] / 1024:.0f} KiB",
                *times,
                "" if share is None else f"{share:.2%}",
                {True: "passed", False: "FAILED", None: ""}[line["passed"]],
                ", ".join(marks.get(at, [])) or (line["error"] or "").split("\n")[0][:90],
            ]
        )
    console.table(columns, rows)
    if judged:
        console.say(f"accuracy of the network in fp32: {body['accuracy']:.2%} on {body['images']} images")
    for note in body["notes"]:
        console.say(f"note: {note}")
    threads = f"{body['threads']} thread{'s' * (body['threads'] > 1)}"
    console.say(f"conditions: {body['device_arch']}, batch {body['batch']}, {threads}, timed in turn")
