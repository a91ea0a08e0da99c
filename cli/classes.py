"""Figures of every class, as `train`, `search`, `export` and `verify` print them."""

from __future__ import annotations

from typing import Any

import click

from hwnas.by_class import ByClass

from . import console

# So many classes are printed, the weakest ones; the report and --json have them all.
SHOWN = 12


def facts(figures: ByClass) -> list[tuple[str, str]]:
    """Balanced accuracy and baseline, as names and values."""
    largest = f"{figures.largest_share:.2%} by always naming {figures.largest_class!r}"
    return [
        ("balanced", f"{figures.balanced_accuracy:.2%}, the mean over the classes"),
        ("baseline", f"{largest}, {figures.chance:.2%} by chance"),
    ]


def table(figures: ByClass, what: str) -> None:
    """Print a table of the classes, the weakest first where they are many."""
    many = len(figures.classes) > SHOWN
    rows = figures.weakest[:SHOWN] if many else figures.classes
    click.echo()
    click.echo(f"{what}, the {SHOWN} weakest of {len(figures.classes)} classes:" if many else f"{what}:")
    console.table(
        ["class", "images", "right", "recall", "precision", "most often confused with"],
        [
            [
                row.name,
                row.images,
                row.right,
                console.percent(row.recall),
                console.percent(row.precision),
                _taken(figures, row.name),
            ]
            for row in rows
        ],
    )


def of(body: dict[str, Any], split: str) -> ByClass | None:
    """The figures on a split out of a job's answer."""
    found = (body.get("by_class") or {}).get(split)
    return None if found is None else ByClass.model_validate(found)


def _taken(figures: ByClass, name: str) -> str:
    wrong = next((m for m in figures.mistakes if m.true == name), None)
    return "" if wrong is None else f"{wrong.named} ({wrong.images})"
