"""The best variant within a budget: exactly, over every form of every piece."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hwnas.estimates import Budget, Estimate
from hwnas.search.solve.path import Edge, best_path
from hwnas.spec import NetworkSpec
from hwnas.traced import DROP, KEEP, REPEAT, WIDTH, VariantSpec

if TYPE_CHECKING:
    from hwnas.nets.model.space import ModelSpace

# Budgets, each nearer, that a choice is made for where the whole network turns out to be over the last.
REPAIRS = 16
PieceScores = Mapping[tuple[str, str], float]


@dataclass(frozen=True)
class Chosen:
    """A variant, the sum of its scores, and its predicted cost."""

    spec: VariantSpec
    score: float
    estimate: Estimate


def choose(
    space: ModelSpace, scores: PieceScores, estimate: Callable[[NetworkSpec], Estimate], budget: Budget
) -> Chosen | None:
    """The variant of the largest score within the budget; None where not even the smallest fits.

    Boundaries of pieces are nodes, forms are edges: the chained cost of a variant is a sum over its pieces,
    so that the shortest path under the budget is the optimum. Of the interval, which is no sum, the whole
    network is asked; where it is over, the choice is made again for less.

    Args:
        space: of the model.
        scores: (piece, edit) to what the edit adds; a form without a score is left out.
        estimate: predicts a network.
        budget: with a latency.
    """
    assert budget.latency_ms is not None
    smallest = space.smallest()
    base, least = estimate(smallest), dict(smallest.edits)
    if not budget.fits(base):
        return None
    # Step 1: for every piece its forms as parallel edges, each at its cost over the cheapest variant's.
    edges, meant = [], []
    for at, (name, forms) in enumerate(space.places.items()):
        costs_ms = {}
        for form in forms:
            if form.edit == KEEP or (name, form.edit) in scores:
                spec = space.variant({**least, name: form.edit})
                costs_ms[form.edit] = estimate(spec).latency_ms - base.latency_ms
        offset = min(costs_ms.values())  # below zero where a wider form is predicted to be faster
        base_ms = offset
        for edit, ms in costs_ms.items():
            edges.append(Edge(at, at + 1, ms - base_ms, scores.get((name, edit), 0.0)))
            meant.append((name, edit, base_ms))
    fixed_ms = base.latency_ms + sum({name: ms for name, _, ms in meant}.values())
    # Step 2: the best path; again for a nearer budget while the whole network is over.
    left_ms = budget.latency_ms - fixed_ms
    for _ in range(REPAIRS):
        if left_ms < 0:
            break
        best = best_path(edges, 0, len(space.places), left_ms)
        spec = space.variant({meant[e][0]: meant[e][1] for e in best.edges if meant[e][1] != KEEP})
        found = estimate(spec)
        if budget.fits(found):
            return Chosen(spec, best.score, found)
        over_ms = found.bound_ms - budget.latency_ms
        left_ms = min(left_ms, best.cost) - max(over_ms if over_ms > 0 else 0.0, 0.002 * budget.latency_ms)
    return Chosen(smallest, sum(scores.get((name, edit), 0.0) for name, edit in smallest.edits), base)


def told(spec: VariantSpec) -> str:
    """What was done to the model, in a few words."""
    dropped = sum(edit == DROP for _, edit in spec.edits)
    narrower = sum(edit.startswith(WIDTH) for _, edit in spec.edits)
    repeated = sum(edit.startswith(REPEAT) for _, edit in spec.edits)
    parts = [(dropped, "dropped"), (narrower, "narrower"), (repeated, "repeated")]
    return ", ".join(f"{count} {word}" for count, word in parts if count) or "nothing changed"
