"""What the options of several strategies share: images that are spent, budgets to fill."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hwnas.estimates import Budget
from hwnas.options import Checked, option
from hwnas.protocols import SearchContext
from hwnas.records import Trial
from hwnas.search.log import images_of

# Images from which on a super-network is trained where that is left to the number of them (``score=auto``);
# docs/evidence/densenas.md and docs/evidence/strategies.md say what was measured.
LEARNABLE = 100_000
# Part of the budget that the spare of two candidates aims at; it wins where the other breaks its promise.
SPARE = 0.95


@dataclass(frozen=True)
class TrainingOptions(Checked):
    """What the options of every strategy that trains networks begin with.

    Attributes:
        images: training images of the whole search.
    """

    images: int = option(
        0, "Training images of the whole search; 0 leaves each training to the default.", low=0
    )


@dataclass(frozen=True)
class SeveralBudgets(TrainingOptions):
    """What the options of a strategy that fills several budgets at once begin with.

    Attributes:
        targets_ms: smaller budgets of the same search, in milliseconds.
    """

    targets_ms: tuple[float, ...] = option((), "Smaller budgets, in milliseconds.")


def spent(history: Sequence[Trial]) -> int:
    """Training images that the trials cost."""
    return sum(map(images_of, history))


def budgets(context: SearchContext, targets_ms: Sequence[float]) -> list[Budget]:
    """Every budget of a search, smallest first; the last is the context's."""
    whole = context.budget
    smaller = sorted(ms for ms in targets_ms if whole.latency_ms is None or ms < whole.latency_ms)
    return [*(whole.model_copy(update={"latency_ms": ms}) for ms in smaller), whole]
