"""``hwnas model``: a user's own network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from hwnas import schemas
from hwnas.units import format_count

from . import console, options
from .console import Output, common


@click.group()
def model() -> None:
    """Look at a network of your own, block by block."""


@model.command()
@click.argument("model_", metavar="MODEL")
@options.options(options.model_weights, options.any_input)
@common
def inspect(ui: Output, model_: str, weights: Path | None, input_shape: tuple[int, int, int] | None) -> None:
    """Blocks of a network: what can be dropped, narrowed and repeated, and what not.

    MODEL is FILE.py:function or package.module:function, whose code runs and returns a torch module;
    torchvision:NAME; timm:NAME; FILE.onnx; FILE.pt2 of torch.export, whose code runs; a run; or a
    network.json.
    """
    from hwnas.jobs.model import InspectOptions
    from hwnas.jobs.model import inspect as job

    body = job(InspectOptions(model_, weights, input_shape))
    ui.result(schemas.MODEL_INSPECT, body, lambda: _inspected(body))


def _inspected(body: dict[str, Any]) -> None:
    console.facts(
        [
            ("model", body["model"]),
            ("input", "x".join(map(str, body["input"]))),
            ("MACs", format_count(body["macs"], "MAC")),
            ("params", format_count(body["params"], "param")),
        ]
    )
    click.echo()
    columns = ["block", "in", "out", "MACs", "params", "drop", "repeat", "widths"]
    console.table(columns, map(_row, body["blocks"]))
    for reason, names in _reasons(body["blocks"]).items():
        console.say(f"{reason}: {', '.join(names)}")
    for leaf in body["leaves"]:
        console.say(f"{leaf['name']} is kept as it is: {leaf['reason']}")
    for note in body["notes"]:
        console.say(f"Note: {note}")


def _row(block: dict[str, Any]) -> list[str]:
    smaller = ", ".join(map(str, block["widths"][::-1]))
    return [
        block["name"],
        "x".join(map(str, block["in"])),
        "x".join(map(str, block["out"])),
        format_count(block["macs"], "MAC"),
        format_count(block["params"], "param"),
        "yes" if block["droppable"] else "no",
        "yes" if block["repeatable"] else "no",
        f"{block['width']} or {smaller}" if smaller else "fixed",
    ]


_CANNOT = {"drop": "Not dropped", "repeat": "Not repeated", "widths": "Not narrowed"}


def _reasons(blocks: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Blocks by what cannot be done to them and why; repeating is told only where dropping can be done."""
    found: dict[str, list[str]] = {}
    for block in blocks:
        for what, why in block["reasons"].items():
            if what != "repeat" or block["droppable"]:
                found.setdefault(f"{_CANNOT[what]} ({why})", []).append(block["name"])
    return found
