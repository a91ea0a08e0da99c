"""Labels in any form (numbers, names, categories) as classes by name."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np

from hwnas.arrays import Int64s
from hwnas.errors import DataFormatError


def name_of(value: Any, names: Sequence[str], where: str) -> str | None:
    """The class that one label means; None for an image without a label (empty, NaN, -1).

    Args:
        value: integer, truth value or text.
        names: what the numbers stand for; empty where nothing says, so that a number is its own name.
        where: for messages.

    Raises:
        DataFormatError: it is none of these, or a number without a name among `names`.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, str):
        if names and value and value not in names:
            raise DataFormatError(f"{where}: label {value!r} is not one of the classes {_few(names)}")
        return value or None
    if isinstance(value, (bool, np.bool_)):
        return name_of(int(value), names, where) if names else str(bool(value))
    if isinstance(value, float) and not value.is_integer():
        raise DataFormatError(
            f"{where}: label {value:g} is not an integer; expected the number or the name of a class"
        )
    if not isinstance(value, (int, float, np.integer)):
        raise DataFormatError(
            f"{where}: a label is a {type(value).__name__}; expected the number or the name of a class"
        )
    number = int(value)
    if number == -1:
        return None
    if not names:
        return str(number)
    if not 0 <= number < len(names):
        raise DataFormatError(
            f"{where}: label {number} has no class; the {len(names)} classes are 0 to {len(names) - 1}"
        )
    return names[number]


def order(found: Collection[str]) -> tuple[str, ...]:
    """Distinct class names in their order: by number where all are numbers, else by the alphabet."""
    distinct = set(found)
    if all(name.lstrip("-").isdecimal() and name.isascii() for name in distinct):
        return tuple(sorted(distinct, key=int))
    return tuple(sorted(distinct))


def places(labels: Iterable[str], classes: Sequence[str], where: str) -> Int64s:
    """Class names to their places among `classes`; DataFormatError for one that is not there."""
    at = {name: place for place, name in enumerate(classes)}
    if len(at) < len(classes):
        raise DataFormatError(f"{where}: two classes have the same name; the classes are {_few(classes)}")
    listed = list(labels)
    unknown = sorted(set(listed) - set(at))
    if unknown:
        raise DataFormatError(
            f"{where}: {_few(unknown)} is a class that the training images do not have; "
            f"they have {_few(classes)}"
        )
    return np.array([at[name] for name in listed], dtype=np.int64)


def _few(names: Sequence[str]) -> str:
    """At most ten names, and how many more there are."""
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return ", ".join(names[:10]) + more
