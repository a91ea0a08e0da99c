"""A strategy's options: a frozen dataclass filled from the context; a misspelt name is an error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from hwnas import options as values
from hwnas.protocols import SearchContext
from hwnas.records import Budget, Trial
from hwnas.search.log import images_of

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Options = TypeVar("Options", bound="DataclassInstance")


# Images from which on a super-network is trained where that is left to the number of them (``score=auto``);
# docs/evidence/densenas.md and docs/evidence/strategies.md say what was measured.
LEARNABLE = 100_000


def read(kind: type[Options], given: Mapping[str, Any], strategy: str) -> Options:
    """`kind` filled from the options given; see `hwnas.options.read`."""
    return values.read(kind, given, f"option of strategy {strategy}:")


def spent(history: Sequence[Trial]) -> int:
    """Training images that the trials cost."""
    return sum(map(images_of, history))


def budgets(context: SearchContext, targets_ms: Sequence[float]) -> list[Budget]:
    """Every budget of a search, smallest first; the last is the context's."""
    whole = context.budget
    smaller = sorted(ms for ms in targets_ms if whole.latency_ms is None or ms < whole.latency_ms)
    return [*(whole.model_copy(update={"latency_ms": ms}) for ms in smaller), whole]
