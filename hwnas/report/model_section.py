"""The result of a search for a variant of the user's own model, block by block beside the original."""

from __future__ import annotations

from hwnas.report import phrases
from hwnas.report.collect import RunData
from hwnas.report.page import Section, Table
from hwnas.traced import DROP, KEEP, VariantSpec
from hwnas.units import format_count, format_ms

# What the column "missed" holds, by the importance that a search asked.
MEANING = {
    "missed": "the rise of the validation loss",
    "taylor": "how far the validation loss of an image would move along its gradient, up or down",
    "activation": "the squared change of what the block gives, as a part of its square, without labels",
}


def own_model(run: RunData) -> Section | None:
    """What was done to each block; None where the run is of a space."""
    best, first = run.chosen, run.trials[0] if run.trials else None
    if best is None or first is None:
        return None
    if not isinstance(first.spec, VariantSpec) or not isinstance(best.spec, VariantSpec):
        return None
    missed = {one.stage: one.value for one in first.outcome.importance if one.kind == DROP}
    edits = dict(best.spec.edits)
    after: dict[str, int] = {}
    for name, block in zip(best.spec.places, best.spec.pieces):
        after[name] = after.get(name, 0) + block.macs
    rows = [
        (
            name,
            _done(edits.get(name, KEEP)),
            format_count(block.macs, "MAC"),
            format_count(after.get(name, 0), "MAC"),
            f"{missed[at]:+.3f}" if at in missed else "",
        )
        for at, (name, block) in enumerate(zip(first.spec.places, first.spec.pieces))
    ]
    lead = (
        f"{first.spec.base.source} as it is: {phrases.percent(first.outcome.accuracy)} on validation, "
        f"predicted {format_ms(first.estimate.latency_ms)}. The result: "
        f"{phrases.percent(best.outcome.accuracy)}, predicted {format_ms(best.estimate.latency_ms)}. "
        f'"missed" is, for each block when it alone is dropped, untrained, {meaning(run)}.'
    )
    table = Table(("block", "now", "was", "is", "missed"), rows)
    return Section("Your model, block by block", lead, [], [table])


def meaning(run: RunData) -> str:
    """What "missed" holds in a run, in words."""
    options = run.config.get("strategy_options")
    name = str(options.get("importance", "missed")) if isinstance(options, dict) else "missed"
    return MEANING.get(name, f"what the importance {name} says")


def _done(edit: str) -> str:
    kind, _, number = edit.partition(":")
    words = {
        KEEP: "as it was",
        DROP: "dropped",
        "width": f"{number} inner channels",
        "repeat": f"{number} in a row",
    }
    return words[kind]
