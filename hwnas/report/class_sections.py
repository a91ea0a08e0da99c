"""Sections about accuracy: class by class, and how the network came to it."""

from __future__ import annotations

from hwnas import top_losses
from hwnas.by_class import ByClass
from hwnas.errors import DataFormatError, HwnasError
from hwnas.report import class_plots, phrases
from hwnas.report.collect import RunData
from hwnas.report.page import Picture, Section, Table
from hwnas.report.sections import picture
from hwnas.store import parse

MISTAKES = 10


def by_class(run: RunData) -> Section | None:
    """What the one accuracy is made of."""
    found = run.by_class()
    if found is None:
        return None
    what, figures = found
    lead = (
        f"Of {figures.images:,} {what} {phrases.percent(figures.accuracy)} are right; as a mean over the "
        f"classes, each counting the same, {phrases.percent(figures.balanced_accuracy)}. {_top5(figures)}"
        f"{base_lines(figures)}"
    )
    drawn = picture("classes", class_plots.recalls(figures), "share of each class that is right")
    drawn += picture("confusion", class_plots.confusion(figures), "confusion between classes")
    drawn += worst_images(run)
    rows = [
        (
            row.name,
            f"{row.images:,}",
            f"{row.right:,}",
            phrases.percent(row.recall) if row.recall is not None else "",
            phrases.percent(row.precision) if row.precision is not None else "",
        )
        for row in figures.weakest
    ]
    head = ("class", "images", "right", "recall", "precision")
    tables = []
    if figures.mistakes:
        wrong = [(m.true, m.named, str(m.images)) for m in figures.mistakes[:MISTAKES]]
        tables.append(Table(("true class", "predicted as", "images"), wrong, "The most frequent mistakes"))
    tables.append(Table(head, rows, f"All {len(rows)} classes, the weakest first"))
    tables += _by_budget(run)
    return Section("Class by class", lead, drawn, tables)


def _top5(figures: ByClass) -> str:
    if figures.top5_accuracy is None:
        return ""
    return f"The class is among the first five for {phrases.percent(figures.top5_accuracy)} (top-5). "


def worst_images(run: RunData) -> list[Picture]:
    """The test images that the network is most wrong about, each with what was expected and predicted."""
    if not run.top_losses:
        return []
    try:
        drawn = class_plots.top_losses(run.top_losses, top_losses.read(run.path, len(run.top_losses)))
    except DataFormatError as exc:
        run.missing.append(f"the worst images are not shown: {exc}")
        return []
    alt = (
        "test images with the highest loss, the worst first: the true class, the one predicted instead, and "
        "the probability that the true one was given"
    )
    return [Picture("worst-images", drawn, alt)]


def _by_budget(run: RunData) -> list[Table]:
    """The winners for several budgets on the test images, each with its weakest classes."""
    recorded = run.extra.get("target_figures")
    if run.result is None or not isinstance(recorded, list) or len(recorded) != len(run.result.targets):
        return []
    rows = []
    for target, body in zip(run.result.targets, recorded):
        try:
            figures = parse(ByClass, body["by_class"]["test"], "result.json: target_figures")
        except (HwnasError, KeyError, TypeError):
            continue
        weak = ", ".join(
            f"{r.name} {phrases.percent(r.recall)}" for r in figures.weakest[:3] if r.recall is not None
        )
        rows.append(
            (
                target.budget.describe(),
                phrases.percent(figures.accuracy),
                phrases.percent(figures.balanced_accuracy),
                weak,
            )
        )
    head = ("budget", "test accuracy", "balanced", "weakest classes")
    return [Table(head, rows, "The winner for each budget")] if rows else []


def base_lines(figures: ByClass) -> str:
    """What the accuracy has to be compared with."""
    text = (
        f"Baselines: predicting {figures.largest_class!r} always is right for "
        f"{phrases.percent(figures.largest_share)}, guessing a class by chance for "
        f"{phrases.percent(figures.chance)}."
    )
    if figures.accuracy <= figures.base_line:
        text += " The network is no better than that: it has learned nothing."
    elif figures.accuracy <= figures.base_line + 2 * _se(figures):
        text += " The network is not clearly better than that, on so few images."
    return text


def _se(figures: ByClass) -> float:
    guess = (figures.accuracy * figures.images + 0.5) / (figures.images + 1)
    return float((guess * (1 - guess) / figures.images) ** 0.5)


def learning(run: RunData) -> Section | None:
    """How the training of the network that was kept went."""
    found = run.by_class()
    base = found[1].base_line if found else None
    drawn = class_plots.learning(run.curve, base)
    if drawn is None:
        return None
    watched = sum("accuracy" in row for row in run.curve) > 1  # of a search's winner only the end is known
    lead = "The loss of the network that was kept, on its augmented training images"
    lead += "; validation accuracy during training was measured for this picture only." if watched else "."
    alt = "training loss and validation accuracy over the images seen"
    return Section("How the network learned", lead, [Picture("learning", drawn, alt)], half=True)
