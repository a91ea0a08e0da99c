"""A strategy's options: a frozen dataclass filled from the context; a misspelt name is an error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Any, TypeVar

from hwnas.errors import InputError
from hwnas.plugins import unknown
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
    """`kind` filled from the options given.

    Raises:
        InputError: an option that the strategy does not have, or a value of another type.
    """
    known = {field.name: field for field in fields(kind)}
    for name, value in given.items():
        if name not in known:
            raise InputError(unknown(f"option of strategy {strategy}:", name, known))
        default = known[name].default
        if default is not MISSING and default is not None and not _alike(value, default):
            raise InputError(
                f"option {name}={value!r} of strategy {strategy} must be a {type(default).__name__}, "
                f"for example {default!r}"
            )
    return kind(**given)


def _alike(value: object, default: object) -> bool:
    """Whether a value has the type of the default; an int serves as a float, a bool never as a number."""
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(default, bool)
    return isinstance(value, (int, float) if isinstance(default, float) else type(default))


def spent(history: Sequence[Trial]) -> int:
    """Training images that the trials cost."""
    return sum(map(images_of, history))


def budgets(context: SearchContext, targets_ms: Sequence[float]) -> list[Budget]:
    """Every budget of a search, smallest first; the last is the context's."""
    whole = context.budget
    smaller = sorted(ms for ms in targets_ms if whole.latency_ms is None or ms < whole.latency_ms)
    return [*(whole.model_copy(update={"latency_ms": ms}) for ms in smaller), whole]


def choice(name: str, value: str, known: Sequence[str]) -> None:
    """Refuse a value that is not one of those known."""
    if value not in known:
        raise InputError(unknown(name, value, known))
