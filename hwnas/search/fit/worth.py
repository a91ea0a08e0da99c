"""What every form of every piece is worth to what a fine-tuned variant can be.

Two parts. What is missed when this piece alone is changed, as it was judged. And what its run of like
pieces loses in depth: a change that is nearly free alone is not when all its neighbours are gone as well,
and a loss before fine-tuning says little of what is left to learn with. Errors fall as powers of depth, so
that of `n` pieces in a run each next one that goes costs 1 / n, 1 / (n - 1), ..., 1: dropping the last one
costs most. Pieces of a run are alike in cost, so that those that are missed least go first, and the sum
over pieces stays what the exact choice needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import mean
from typing import TYPE_CHECKING

from hwnas.traced import DROP, KEEP, REPEAT, WIDTH

if TYPE_CHECKING:
    from hwnas.nets.model.space import ModelSpace

PieceForms = Mapping[tuple[str, str], float]


def scores(
    space: ModelSpace, missed: PieceForms, *, depth: float, repeat: float
) -> dict[tuple[str, str], float]:
    """What every edit adds (less than nothing for all but repetitions), by piece and edit.

    Args:
        space: of the model.
        missed: rise of the loss (or another measure) where one piece is changed, by piece and edit. Below
            zero is noise, or what fine-tuning finds as well: it counts as zero, so that
            nothing is dropped that the budget has room for.
        depth: weight of lost depth, as a part of what a dropped piece is missed in the mean.
        repeat: worth of one more copy of a piece, as a part of what the piece is missed.
    """
    rises = {at: max(value, 0.0) for at, value in missed.items()}
    drops = [value for (_, edit), value in rises.items() if edit == DROP]
    # Without anything that is missed, depth alone decides.
    unit = depth * ((mean(drops) if drops else 0.0) or 1.0)
    found: dict[tuple[str, str], float] = {}
    for run in space.runs:
        order = sorted(run, key=lambda name: rises.get((name, DROP), float("inf")))
        for rank, name in enumerate(order):
            # What this piece is worth to the depth of its run when it goes in its turn.
            share = unit / (len(run) - rank)
            for form in space.places[name]:
                if (name, form.edit) in rises:
                    found[name, form.edit] = -rises[name, form.edit] - share * _lost(space, name, form.edit)
    for at, value in rises.items():
        found.setdefault(at, -value)  # first and last pieces: narrower alone
    for name, forms in space.places.items():
        for form in forms:
            if form.edit.startswith(REPEAT):
                copies = int(form.edit.partition(":")[2])
                # Falling returns: each further copy brings as much less as there are copies before it.
                gain = sum(1.0 / at for at in range(1, copies))
                found[name, form.edit] = repeat * rises.get((name, DROP), 0.0) * gain
    return found


def _lost(space: ModelSpace, name: str, edit: str) -> float:
    """The part of a piece that a change takes: all, or by the root of its multiply-accumulates."""
    if not edit.startswith(WIDTH):
        return float(edit == DROP)
    macs = {form.edit: sum(block.macs for block in form.blocks) for form in space.places[name]}
    return float(1.0 - (macs[edit] / macs[KEEP]) ** 0.5)
